"""What readers give as Arrow arrays: the way back of `rows`, for frames made of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pyarrow as pa

from nexus_redis_provider.core.gold.calendars import days_of, microseconds_of
from nexus_redis_provider.core.gold.schemas import ColumnType, Decoder

_MICROSECOND = timedelta(microseconds=1)


def array_of(values: Sequence[Any], type_: ColumnType, arrow_type: pa.DataType) -> pa.Array:
    """Values that `schemas.value_decoder` has made.

    Args:
        values: Python values, or None.
        type_: theirs, one for which `rows.is_writable` holds.
        arrow_type: Spark's for it; structs as Spark names their fields.
    """
    convert = _converter(type_)
    if convert is not None:
        values = [None if value is None else convert(value) for value in values]
    return pa.array(values, arrow_type)


def _converter(type_: ColumnType) -> Decoder | None:
    """From a value to what Arrow makes it of; None where it is that."""
    if isinstance(type_, str):
        kinds = (convert for start, convert in _CONVERTERS.items() if type_.startswith(start))
        return next(kinds, None)
    match type_["type"]:
        case "array":
            item = _converter(type_["elementType"])
            return item and _items(item)
        case "map":
            key, item = _inside(type_["keyType"]), _inside(type_["valueType"])
            return lambda pairs: [(key(name), item(value)) for name, value in pairs.items()]
        case _:
            return _fields(type_)


def _items(item: Decoder) -> Decoder:
    return lambda values: [None if value is None else item(value) for value in values]


def _inside(type_: ColumnType) -> Decoder:
    convert = _converter(type_)
    if convert is None:
        return lambda value: value
    return lambda value: None if value is None else convert(value)


def _fields(type_: Mapping[str, Any]) -> Decoder:
    converters = {field["name"]: _inside(field["type"]) for field in type_["fields"]}

    def convert(values: Any) -> dict[str, Any]:
        # As a map's key, a struct is the tuple of its values.
        parts = values.values() if isinstance(values, dict) else values
        pairs = zip(converters.items(), parts, strict=True)
        return {name: convert(part) for (name, convert), part in pairs}

    return convert


_CONVERTERS: dict[str, Decoder] = {
    # Text, where the year is not Python's.
    "date": lambda day: days_of(day) if isinstance(day, str) else day,
    "timestamp": lambda moment: microseconds_of(moment) if isinstance(moment, str) else moment,
    # pyarrow takes the longest negative ones as numbers only.
    "interval": lambda length: length // _MICROSECOND,
    **dict.fromkeys(("variant", "geometry(", "geography("), lambda parts: parts._asdict()),
}
