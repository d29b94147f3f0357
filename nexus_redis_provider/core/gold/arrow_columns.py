"""Arrow columns as columns of a manifest: which type becomes which, and nothing gets lost.

| Arrow | manifest |
|---|---|
| `bool` | `boolean` |
| `int8` to `int64` | `byte` to `long` |
| `uint8`, `uint16`, `uint32`, `uint64` | `short`, `integer`, `long`, `decimal(20,0)` |
| `float16`, `float32`, `float64` | `float`, `float`, `double` |
| `decimal` of up to 38 digits | `decimal(p,s)` |
| `string`, and a column of nulls alone | `string` |
| `binary` | `binary` |
| `date` | `date` |
| `timestamp` with, without zone | `timestamp`, `timestamp_ntz`; in microseconds |
| `time`, `duration` | `time(6)`, `interval day to second`; in microseconds |
| a dictionary | what its values are |
| `list`, `struct`, `map` | `array`, `struct`, `map` of all these |
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nexus_redis_provider.core.gold.columns import refused_column
from nexus_redis_provider.core.gold.schemas import ColumnType

Named = tuple[ColumnType, pa.DataType]
"""A type as a manifest names it, and as Arrow does."""

_SIMPLE: dict[pa.DataType, tuple[str, pa.DataType]] = {
    pa.bool_(): ("boolean", pa.bool_()),
    pa.int8(): ("byte", pa.int8()),
    pa.int16(): ("short", pa.int16()),
    pa.int32(): ("integer", pa.int32()),
    pa.int64(): ("long", pa.int64()),
    pa.uint8(): ("short", pa.int16()),
    pa.uint16(): ("integer", pa.int32()),
    pa.uint32(): ("long", pa.int64()),
    pa.uint64(): ("decimal(20,0)", pa.decimal128(20, 0)),
    pa.float16(): ("float", pa.float32()),
    pa.float32(): ("float", pa.float32()),
    pa.float64(): ("double", pa.float64()),
    pa.string(): ("string", pa.string()),
    pa.large_string(): ("string", pa.string()),
    pa.string_view(): ("string", pa.string()),
    # Nobody can tell the type of nulls, and whoever reads them gets None whatever it is.
    pa.null(): ("string", pa.string()),
    pa.date32(): ("date", pa.date32()),
    pa.date64(): ("date", pa.date32()),
    **dict.fromkeys((pa.binary(), pa.large_binary(), pa.binary_view()), ("binary", pa.binary())),
}
_ZONED, _LOCAL = pa.timestamp("us", "UTC"), pa.timestamp("us")
_BY_NAME = {name: arrow for name, arrow in _SIMPLE.values() if not name.startswith("decimal")}
_BY_NAME |= {"timestamp": _ZONED, "timestamp_ntz": _LOCAL}
_DECIMAL = re.compile(r"decimal\((\d{1,2}), ?(\d{1,2})\)")
_FAILED = (pa.ArrowInvalid, pa.ArrowNotImplementedError)


def manifest_type(type_: pa.DataType) -> Named | None:
    """A type as a manifest names it, and the Arrow type to cast to; None for all others."""
    for is_one, name in _FAMILIES:
        if is_one(type_):
            return name(type_)
    return _SIMPLE.get(type_)


def _timestamp_type(type_: pa.DataType) -> Named:
    return ("timestamp", _ZONED) if type_.tz else ("timestamp_ntz", _LOCAL)


def _decimal_type(type_: pa.DataType) -> Named | None:
    fits = 0 <= type_.scale <= type_.precision <= 38
    return _decimal(type_.precision, type_.scale) if fits else None


def _nested_type(type_: pa.DataType) -> Named | None:
    if pa.types.is_struct(type_):
        return _struct_type(list(type_))
    if pa.types.is_map(type_):
        key, value = manifest_type(type_.key_type), manifest_type(type_.item_type)
        if key is None or value is None:
            return None
        parts: dict[str, Any] = {"keyType": key[0], "valueType": value[0]}
        return {"type": "map", **parts, "valueContainsNull": True}, pa.map_(key[1], value[1])
    element = manifest_type(type_.value_type) if hasattr(type_, "value_type") else None
    if element is None:
        return None
    named = {"type": "array", "elementType": element[0], "containsNull": True}
    return named, pa.list_(element[1])


def _struct_type(fields: list[pa.Field]) -> Named | None:
    names = [field.name for field in fields]
    types = [manifest_type(field.type) for field in fields]
    if not names or len(set(names)) < len(names) or None in types:
        return None
    found = [(name, *type_) for name, type_ in zip(names, types, strict=True) if type_]
    named = [
        {"name": name, "type": type_, "nullable": True, "metadata": {}} for name, type_, _ in found
    ]
    return {"type": "struct", "fields": named}, pa.struct([(name, to) for name, _, to in found])


def arrow_type(name: str) -> Named | None:
    """The same of a type that is named as in a manifest, such as `decimal(10,2)`."""
    if found := _DECIMAL.fullmatch(name):
        precision, scale = int(found[1]), int(found[2])
        return _decimal(precision, scale) if scale <= precision and 0 < precision <= 38 else None
    return (name, _BY_NAME[name]) if name in _BY_NAME else None


def type_names() -> str:
    """All names that `arrow_type` knows, for messages."""
    return f"{', '.join(sorted(_BY_NAME))} and decimal(precision,scale)"


def cast_column(array: pa.Array, target: pa.DataType, dataset: str, name: str) -> pa.Array:
    """The column in another type, with the same values.

    Text is parsed; text and times without a zone count as UTC where a zone is asked for; a float
    is rounded to the digits of a decimal.

    Raises:
        SchemaError: a value does not fit; it names the column and the value.
    """
    if array.type == target:
        return array
    try:
        if pa.types.is_integer(array.type) and pa.types.is_temporal(target):
            raise pa.ArrowInvalid("a number says not whether it counts seconds, days or what")
        cast = pc.cast(_between(array, target), target)
        if pa.types.is_timestamp(array.type) and pa.types.is_date(target):
            _refuse_times(array, cast)
    except _FAILED as error:
        what = f"of type {array.type} does not become {target}: {str(error).rstrip('.')}"
        raise refused_column(dataset, name, what) from None
    return cast


def _between(array: pa.Array, target: pa.DataType) -> pa.Array:
    """The column in a type from which Arrow knows the way to the target."""
    if pa.types.is_integer(array.type) and pa.types.is_decimal(target):
        # It asks for as many digits as the widest number of the type might have.
        return pc.cast(array, pa.decimal128(38, target.scale))
    if target != _ZONED:
        return array
    if pa.types.is_string(array.type):
        try:
            return pc.cast(array, _ZONED)
        except pa.ArrowInvalid:
            array = pc.cast(array, _LOCAL)
    zoned = pa.types.is_timestamp(array.type) and array.type.tz
    return array if zoned else pc.assume_timezone(pc.cast(array, _LOCAL), "UTC")


def _refuse_times(array: pa.Array, dates: pa.Array) -> None:
    same = pc.equal(pc.cast(dates, pa.timestamp("us")), pc.cast(array, _LOCAL))
    if not pc.all(same).as_py():
        first = pc.filter(array, pc.invert(same))[0]
        raise pa.ArrowInvalid(f"{first} has a time of day")


def _decimal(precision: int, scale: int) -> tuple[str, pa.DataType]:
    return f"decimal({precision},{scale})", pa.decimal128(precision, scale)


_FAMILIES: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType], Named | None]], ...]
_FAMILIES = (
    (pa.types.is_nested, _nested_type),
    (pa.types.is_dictionary, lambda type_: manifest_type(type_.value_type)),
    (pa.types.is_timestamp, _timestamp_type),
    (pa.types.is_decimal, _decimal_type),
    (pa.types.is_fixed_size_binary, lambda _: ("binary", pa.binary())),
    (pa.types.is_time, lambda _: ("time(6)", pa.time64("us"))),
    (pa.types.is_duration, lambda _: ("interval day to second", pa.duration("us"))),
)
