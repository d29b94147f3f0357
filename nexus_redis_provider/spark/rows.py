"""A DataFrame's rows as keys, JSON values and checksums, all made by expressions in the JVM.

`to_json` loses a part of some types. Columns of those are rebuilt before, as `schemas` says, at
any depth; all others stay as they are. A variant's bytes are in the reach of no expression, hence
columns with variants take the way through Arrow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - the name every Spark user knows
from pyspark.sql import types as T  # noqa: N812 - likewise
from pyspark.sql.pandas.functions import arrow_udf

from nexus_redis_provider.core.gold.schemas import has_text_keys
from nexus_redis_provider.core.gold.templates import KeyTemplate

JSON_OPTIONS = {
    "ignoreNullFields": "false",
    "timeZone": "UTC",
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
    "dateFormat": "yyyy-MM-dd",
}
_SECOND = 1_000_000
_PARTS = {
    T.VariantType: T.StructType().add("value", T.BinaryType()).add("metadata", T.BinaryType()),
    T.SpatialType: T.StructType().add("wkb", T.BinaryType()).add("srid", T.IntegerType()),
    T.CalendarIntervalType: T.StringType(),
    T.YearMonthIntervalType: T.IntegerType(),
    T.DayTimeIntervalType: T.LongType(),
}


def prepared(df: DataFrame, template: KeyTemplate, ttl_column: str | None = None) -> DataFrame:
    """Columns `key`, `value` and `checksum` (CRC-32 of `key NUL value`), made in the JVM.

    And `ttl`, if there is a column that says when rows expire.
    """
    numbered, places, key = keyed(df, template)
    row = F.struct(
        *(
            json_ready(F.col(places[one.name]), one.dataType).alias(one.name)
            for one in df.schema.fields
        )
    )
    value, ttl = F.to_json(row, JSON_OPTIONS), ttl_of(places, ttl_column)
    pairs = numbered.select(key.alias("key"), value.alias("value"), *ttl)
    checksum = F.crc32(F.concat("key", F.lit("\0"), "value"))
    return pairs.withColumn("checksum", checksum)


def ttl_of(places: Mapping[str, str], ttl_column: str | None) -> list[SparkColumn]:
    """The column that says when rows expire, as `ttl`, if there is one."""
    return [] if ttl_column is None else [F.col(places[ttl_column]).alias("ttl")]


def keyed(df: DataFrame, template: KeyTemplate) -> tuple[DataFrame, dict[str, str], SparkColumn]:
    """The frame with its columns renamed, the new names by column name, and the rows' keys.

    Text that is no UTF-8 fails the job, since it would fail whoever reads it together with others.
    """
    # By position, since Spark may hold `n` and `N`, or `a.b` and `a`.`b`, to be the same.
    places = {name: f"c{number}" for number, name in enumerate(df.columns)}
    checked = df.toDF(*places.values()).select(
        *(
            F.validate_utf8(place).alias(place)
            if isinstance(field.dataType, T.StringType)
            else F.col(place)
            for place, field in zip(places.values(), df.schema.fields, strict=True)
        )
    )
    return checked, places, _key_column(template, places, dict(df.dtypes))


def _key_column(
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


def json_text(column: SparkColumn, type_: T.DataType) -> SparkColumn:
    """The JSON of each value, `null` for a null; `schemas.value_decoder` reads it once parsed."""
    # Spark makes JSON of no bare number or text.
    text = F.to_json(F.struct(json_ready(column, type_).alias("x")), JSON_OPTIONS)
    opening = len('{"x":')
    return F.substring(text, opening + 1, F.length(text) - (opening + 1))


def json_ready(column: SparkColumn, type_: T.DataType) -> SparkColumn:
    """A column, rebuilt where need be, so that `to_json` loses nothing of it."""
    ready = _rebuilt(column, type_)
    if not _holds(type_, T.VariantType):
        return ready
    return _unwrapped(_ready_type(type_))(ready)


def _unwrapped(type_: T.DataType) -> Callable[[SparkColumn], SparkColumn]:
    # Its type hints do not know of functions of a single column.
    udf: Any = arrow_udf
    as_type: Callable[[SparkColumn], SparkColumn] = udf(_unchanged, type_)
    return as_type


def _unchanged(array: pa.Array) -> pa.Array:
    # In Arrow, a variant is a struct already.
    return array


def _rebuilt(column: SparkColumn, type_: T.DataType) -> SparkColumn:  # noqa: PLR0911 - one of each
    if not _holds(type_, *_PARTS, other_keys=True):
        return column
    match type_:
        case T.YearMonthIntervalType():
            return column.cast("interval month").cast("int")
        case T.DayTimeIntervalType():
            seconds = column.cast("interval second").cast("decimal(20,6)")
            return (seconds * _SECOND).cast("long")
        case T.CalendarIntervalType():
            return column.cast("string")
        case T.SpatialType():
            parts = {"wkb": F.st_asbinary(column), "srid": F.st_srid(column)}
            return F.when(column.isNotNull(), _struct(parts))
        case T.ArrayType():
            return F.transform(column, lambda item: _rebuilt(item, type_.elementType))
        case T.MapType() if has_text_keys(type_.jsonValue()):
            return F.transform_values(column, lambda _, value: _rebuilt(value, type_.valueType))
        case T.MapType():
            return F.transform(F.map_entries(column), lambda pair: _rebuilt_pair(pair, type_))
        case T.StructType():
            return F.when(column.isNotNull(), _rebuilt_fields(column, type_))
        case _:
            return column


def _rebuilt_pair(pair: SparkColumn, type_: T.MapType) -> SparkColumn:
    types = {"key": type_.keyType, "value": type_.valueType}
    return _struct({name: _rebuilt(pair.getField(name), types[name]) for name in types})


def _rebuilt_fields(column: SparkColumn, type_: T.StructType) -> SparkColumn:
    fields = type_.fields
    names = [field.name for field in fields]
    if len({name.lower() for name in names}) < len(names):
        # Spark may hold `x` and `X` to be the same.
        places = [f"f{number}" for number in range(len(fields))]
        numbered = zip(places, fields, strict=True)
        column = column.cast(T.StructType([T.StructField(at, f.dataType) for at, f in numbered]))
    else:
        places = names
    return _struct(
        {
            field.name: _rebuilt(column.getField(place), field.dataType)
            for place, field in zip(places, fields, strict=True)
        }
    )


def _struct(fields: Mapping[str, SparkColumn]) -> SparkColumn:
    # Inside other expressions Spark does not resolve the aliases of `struct`.
    return F.named_struct(*(part for name, one in fields.items() for part in (F.lit(name), one)))


def _holds(type_: T.DataType, *kinds: type[T.DataType], other_keys: bool = False) -> bool:
    """Whether a type is, or has inside, one of some kinds, or a map whose keys are not text."""

    def holds(inner: T.DataType) -> bool:
        return _holds(inner, *kinds, other_keys=other_keys)

    match type_:
        case T.ArrayType():
            return holds(type_.elementType)
        case T.MapType():
            if other_keys and not has_text_keys(type_.jsonValue()):
                return True
            return holds(type_.keyType) or holds(type_.valueType)
        case T.StructType():
            return any(holds(field.dataType) for field in type_.fields)
        case _:
            return isinstance(type_, kinds)


def _ready_type(type_: T.DataType) -> T.DataType:
    """The type of a column that `json_ready` gives."""
    match type_:
        case T.ArrayType():
            return T.ArrayType(_ready_type(type_.elementType))
        case T.MapType():
            key, value = _ready_type(type_.keyType), _ready_type(type_.valueType)
            if has_text_keys(type_.jsonValue()):
                return T.MapType(key, value)
            return T.ArrayType(T.StructType().add("key", key).add("value", value))
        case T.StructType():
            fields = [T.StructField(f.name, _ready_type(f.dataType)) for f in type_.fields]
            return T.StructType(fields)
        case _:
            kinds = (parts for kind, parts in _PARTS.items() if isinstance(type_, kind))
            return next(kinds, type_)
