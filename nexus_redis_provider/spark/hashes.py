"""A DataFrame's rows as hashes, made by expressions in the JVM; what they are stands in
`core/gold/hashes.py`.
"""

from __future__ import annotations

from functools import reduce
from operator import add

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - the name every Spark user knows
from pyspark.sql import types as T  # noqa: N812 - likewise

from nexus_redis_provider.core.gold.hashes import field_heads
from nexus_redis_provider.core.gold.schemas import Column
from nexus_redis_provider.core.gold.templates import KeyTemplate
from nexus_redis_provider.spark.rows import json_ready, json_text, keyed, ttl_of

# Their JSON, without quotes, is what Spark makes of them as text.
_AS_TEXT = (
    T.NumericType,
    T.BooleanType,
    T.DateType,
    T.TimeType,
    T.YearMonthIntervalType,
    T.DayTimeIntervalType,
    T.CalendarIntervalType,
)


def prepared_hashes(
    df: DataFrame, template: KeyTemplate, ttl_column: str | None = None
) -> DataFrame:
    """Columns `key`, `value` (the arguments), `checksum` (CRC-32 of `key NUL value`), `fields`.

    And `ttl`, if there is a column that says when rows expire.
    """
    numbered, named, key = keyed(df, template)
    places = list(named.values())
    # Apart from what uses them twice, so that they are made once.
    texts = numbered.select(
        key.alias("key"),
        *ttl_of(named, ttl_column),
        *(
            _text(F.col(place), field.dataType).alias(place)
            for place, field in zip(places, df.schema.fields, strict=True)
        ),
    )
    heads = field_heads([Column(name, "") for name in df.columns])
    arguments = F.concat(
        *(_argument(F.col(place), head) for place, head in zip(places, heads, strict=True))
    )
    fields = reduce(add, (F.col(place).isNotNull().cast("int") for place in places))
    ttl = () if ttl_column is None else ("ttl",)
    rows = texts.select("key", arguments.alias("value"), fields.alias("fields"), *ttl)
    checksum = F.crc32(F.concat(_binary(F.col("key")), F.lit(b"\0"), F.col("value")))
    return rows.withColumn("checksum", checksum)


def _text(column: SparkColumn, type_: T.DataType) -> SparkColumn:
    """The bytes of a field, null where there is none."""
    match type_:
        case T.BinaryType():
            return column
        case T.NullType():
            return F.lit(None).cast("binary")
        case T.StringType():
            return _binary(column)
    if isinstance(type_, _AS_TEXT):
        return _binary(json_ready(column, type_).cast("string"))
    # Nested ones, too, which have no quotes around them.
    return F.when(column.isNotNull(), _binary(F.btrim(json_text(column, type_), F.lit('"'))))


def _argument(text: SparkColumn, head: bytes) -> SparkColumn:
    length = _binary(F.octet_length(text).cast("string"))
    argument = F.concat(F.lit(head + b"$"), length, F.lit(b"\r\n"), text, F.lit(b"\r\n"))
    return F.coalesce(argument, F.lit(b""))


def _binary(text: SparkColumn) -> SparkColumn:
    return text.cast("binary")
