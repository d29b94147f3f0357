"""A DataFrame's rows as packed rows: dealt to shares in the JVM, packed in the tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - the name every Spark user knows
from pyspark.sql.types import DataType

from nexus_redis_provider.core.gold.packing import is_packed_natively, pack, packed_columns
from nexus_redis_provider.core.gold.schemas import Column
from nexus_redis_provider.core.gold.templates import KeyTemplate
from nexus_redis_provider.spark.rows import json_text, keyed


def dealt(
    df: DataFrame, columns: tuple[Column, ...], template: KeyTemplate, shares: int
) -> DataFrame:
    """Columns `hash` (CRC-32 of the key), `key`, and those to be packed, a partition a share."""
    numbered, named, key = keyed(df, template)
    types = {field.name: field.dataType for field in df.schema.fields}
    packed = [
        _packable(F.col(named[column.name]), column, types[column.name]).alias(named[column.name])
        for column in packed_columns(columns, template)
    ]
    rows = numbered.select(F.crc32(key).alias("hash"), key.alias("key"), *packed)
    return rows.repartitionById(shares, F.pmod(F.col("hash"), F.lit(shares)).cast("int"))


def packed(
    batches: Iterable[pa.RecordBatch], columns: tuple[Column, ...]
) -> Iterator[tuple[pa.StringArray, pa.BinaryArray, np.ndarray[Any, np.dtype[np.int64]]]]:
    """In a task: the batches of `dealt` as `BucketWriter.write` takes them.

    Args:
        batches: of one partition.
        columns: that are packed.
    """
    for batch in batches:
        hashes, keys, *values = batch.columns
        yield keys, pack(columns, values, len(batch)), hashes.to_numpy(zero_copy_only=False)


def _packable(column: SparkColumn, described: Column, type_: DataType) -> SparkColumn:
    if is_packed_natively(described.type):
        return column
    return F.when(column.isNotNull(), json_text(column, type_))
