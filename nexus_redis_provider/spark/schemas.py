"""Spark schemas as columns of a manifest, checked before anything is sent."""

from __future__ import annotations

from pyspark.sql.types import StructType

from nexus_redis_provider.core.gold.columns import check_key_types, check_names, refused_column
from nexus_redis_provider.core.gold.schemas import Column, unsupported_part
from nexus_redis_provider.core.gold.templates import KeyTemplate


def checked_columns(schema: StructType, key: KeyTemplate, dataset: str) -> tuple[Column, ...]:
    """The columns of a frame that can be published.

    Raises:
        SchemaError: names the column that is missing, doubled, or of a type that does not fit.
    """
    columns = tuple(Column(field.name, field.dataType.jsonValue()) for field in schema.fields)
    check_names([column.name for column in columns], key, dataset)
    for column in columns:
        if part := unsupported_part(column.type):
            where = f" at {part.path}" if part.path else ""
            what = f"{part.what}{where}, which rows cannot hold without loss; {part.remedy}"
            raise refused_column(dataset, column.name, what)
    check_key_types(columns, key, dataset)
    return columns
