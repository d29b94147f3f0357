"""Spark schemas as columns of a manifest, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql.types import StructType

from nexus_redis_provider.core.errors import ConfigurationError, SchemaError
from nexus_redis_provider.core.gold.schemas import KEY_TYPES, Column, unsupported_part
from nexus_redis_provider.core.gold.templates import KeyTemplate


def key_template(key: str | Sequence[str], dataset: str) -> KeyTemplate:
    """The template of a `key` argument: one with braces as it is, columns joined by `|`.

    Raises:
        ConfigurationError: no column, or not a valid template.
    """
    if isinstance(key, str) and "{" in key:
        return KeyTemplate.parse(key)
    columns = [key] if isinstance(key, str) else list(key)
    if not columns or not all(isinstance(column, str) and column for column in columns):
        raise ConfigurationError(f"Gold dataset {dataset!r}: key names no column: {key!r}.")
    return KeyTemplate.of_columns(columns)


def checked_columns(schema: StructType, key: KeyTemplate, dataset: str) -> tuple[Column, ...]:
    """The columns of a frame that can be published.

    Raises:
        SchemaError: names the column that is missing, doubled, or of a type that does not fit.
    """
    columns = tuple(Column(field.name, field.dataType.jsonValue()) for field in schema.fields)
    types = {column.name: column.type for column in columns}
    for column in columns:
        if sum(other.name == column.name for other in columns) > 1:
            raise _refused(dataset, column.name, "stands in the frame more than once")
        if part := unsupported_part(column.type):
            where = f" at {part.path}" if part.path else ""
            what = f"{part.what}{where}, which rows cannot hold without loss; {part.remedy}"
            raise _refused(dataset, column.name, what)
    for name in key.columns:
        if name not in types:
            raise _refused(
                dataset, name, f"of the key is not in the frame, which has {', '.join(types)}"
            )
        type_ = types[name]
        kind = type_ if isinstance(type_, str) else type_["type"]
        if kind not in KEY_TYPES:
            what = f"has type {kind}, which a key cannot be; cast it to a string"
            raise _refused(dataset, name, what)
    return columns


def _refused(dataset: str, column: str, what: str) -> SchemaError:
    return SchemaError(f"Gold dataset {dataset!r}: column {column!r} {what}.", dataset, column)
