"""A DataFrame's rows as keys, JSON values and checksums, all made by expressions in the JVM."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - the name every Spark user knows

from nexus_redis_provider.core.gold.templates import KeyTemplate

_JSON_OPTIONS = {
    "ignoreNullFields": "false",
    "timeZone": "UTC",
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
    "dateFormat": "yyyy-MM-dd",
}


def prepared(df: DataFrame, template: KeyTemplate) -> DataFrame:
    """Columns `key`, `value` and `checksum` (CRC-32 of `key NUL value`), made in the JVM."""
    # Renamed by position, since Spark may hold `n` and `N`, or `a.b` and `a`.`b`, to be the same.
    places = [f"c{number}" for number in range(len(df.columns))]
    numbered = df.toDF(*places)
    named = dict(zip(df.columns, places, strict=True))
    key = key_column(template, named, dict(df.dtypes))
    row = F.struct(*(F.col(place).alias(name) for name, place in named.items()))
    pairs = numbered.select(key.alias("key"), F.to_json(row, _JSON_OPTIONS).alias("value"))
    return pairs.select("key", "value", F.crc32(F.concat("key", F.lit("\0"), "value")))


def key_column(
    template: KeyTemplate, places: Mapping[str, str], types: Mapping[str, str]
) -> SparkColumn:
    """The rows' keys, null where a part is null; `places` and `types` are by column name."""
    literals = template.literals
    parts = [F.lit(literals[0])]
    for column, literal in zip(template.columns, literals[1:], strict=True):
        part = F.col(places[column])
        if types[column] == "string":
            for char, escaped in template.escapes:
                part = F.replace(part, F.lit(char), F.lit(escaped))
        parts += [part.cast("string"), F.lit(literal)]
    # Unlike concat_ws, concat gives null as soon as one part is null.
    return F.concat(*parts)
