"""Arrow batches as keys and JSON rows, vectorised: for sources that have no JVM to make them.

The JSON is that of `schemas`, nested columns included: the items of all lists of a batch are one
array. Only binary values, and dates beyond the years 1 to 9999, are written one by one, since
there is no vectorised way.
"""

from __future__ import annotations

import json
import zlib
from binascii import b2a_base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nexus_redis_provider.core.gold.calendars import (
    DAY,
    FIRST_DAY,
    LAST_DAY,
    date_of,
    timestamp_of,
)
from nexus_redis_provider.core.gold.schemas import Column, ColumnType, has_text_keys
from nexus_redis_provider.core.gold.templates import KeyTemplate

# JSON has no such numbers, which Spark writes as strings; and `-0` is a whole number, hence 0.
_NUMBERS = {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"', "-0": "-0.0"}
_CONTROL = r"[\x00-\x1f]"
_NOT_IN_ARROW = ("interval year", "interval month")


def is_writable(type_: ColumnType) -> bool:
    """Whether `encode_rows` can write columns of this type: whether Arrow can hold them."""
    if isinstance(type_, str):
        return type_ != "interval" and not type_.startswith(_NOT_IN_ARROW)
    match type_["type"]:
        case "array":
            return is_writable(type_["elementType"])
        case "map":
            return is_writable(type_["keyType"]) and is_writable(type_["valueType"])
        case _:
            return all(is_writable(field["type"]) for field in type_["fields"])


def encode_rows(
    batch: pa.RecordBatch, columns: Sequence[Column], template: KeyTemplate
) -> tuple[pa.StringArray, pa.StringArray, int]:
    """Keys (null where a part is null), JSON values, and the sum of the rows' CRC-32.

    Args:
        batch: columns in the order of `columns`, each of a type for which `is_writable` holds.
        columns: their names and types.
        template: of the key.
    """
    keys = row_keys(batch, columns, template)
    fields = [(column.name, column.type) for column in columns]
    values = _object(batch.columns, fields, len(batch))
    # There is no vectorised CRC-32; this maps a C function over the rows.
    joined = pc.binary_join_element_wise(keys, values, "\0")
    checksum = sum(map(zlib.crc32, pc.cast(pc.drop_null(joined), pa.binary()).to_pylist()))
    return keys, values, checksum


def json_texts(array: pa.Array, type_: ColumnType) -> pa.StringArray:
    """The JSON of each value, `null` for a null."""
    return pc.fill_null(json_tokens(array, type_), "null")


def json_tokens(array: pa.Array, type_: ColumnType) -> pa.StringArray:
    """The JSON of each value, null where it is null."""
    return _scalar(array, type_) if isinstance(type_, str) else _nested(array, type_)


def row_keys(
    batch: pa.RecordBatch, columns: Sequence[Column], template: KeyTemplate
) -> pa.StringArray:
    """The key of each row, null where a part is null; arguments as of `encode_rows`."""
    arrays = dict(zip((column.name for column in columns), batch.columns, strict=True))
    types = {column.name: column.type for column in columns}
    literals = template.literals
    parts: list[object] = [literals[0]]
    for name, literal in zip(template.columns, literals[1:], strict=True):
        array = arrays[name]
        text = _dates(array) if types[name] == "date" else pc.cast(array, pa.string())
        if types[name] == "string":
            for char, escaped in template.escapes:
                text = pc.replace_substring(text, char, escaped)
        parts += [text, literal]
    return pc.binary_join_element_wise(*parts, "")


# What follows gives null where a value is null.


def _scalar(array: pa.Array, type_: str) -> pa.StringArray:
    family = next((name for name in _TOKENS if type_.startswith(name)), None)
    return _TOKENS[family](array) if family else pc.cast(array, pa.string())


def _nested(array: pa.Array, type_: Mapping[str, Any]) -> pa.StringArray:
    match type_["type"]:
        case "array":
            return _listed("[", array, json_texts(array.flatten(), type_["elementType"]), "]")
        case "map":
            return _map(_pairs(array), type_)
        case _:
            fields = [(field["name"], field["type"]) for field in type_["fields"]]
            return _null_as(array, _object(array.flatten(), fields, len(array)))


def _pairs(maps: pa.MapArray) -> pa.ListArray:
    """The entries of each map, in the same memory."""
    # A cast, or a view, cuts columns of type null within structs too short: the process aborts.
    entries, buffers = maps.values, maps.buffers()[:2]
    return pa.Array.from_buffers(
        pa.list_(entries.type), len(maps), buffers, maps.null_count, maps.offset, [entries]
    )


def _map(pairs: pa.ListArray, type_: Mapping[str, Any]) -> pa.StringArray:
    flat = pairs.flatten()
    types = [("key", type_["keyType"]), ("value", type_["valueType"])]
    if not has_text_keys(type_):
        return _listed("[", pairs, _object(flat.flatten(), types, len(flat)), "]")
    key, value = (json_texts(part, of) for part, (_, of) in zip(flat.flatten(), types, strict=True))
    return _listed("{", pairs, pc.binary_join_element_wise(key, value, ":"), "}")


def _listed(opening: str, lists: pa.ListArray, texts: pa.StringArray, closing: str) -> pa.Array:
    """The texts of the items of all lists, as one text for each list."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    ends = pc.cast(pc.cumulative_sum(lengths), pa.int32())
    starts = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    joined = pc.binary_join(pa.ListArray.from_arrays(starts, texts), ",")
    return _null_as(lists, pc.binary_join_element_wise(opening, joined, closing, ""))


def _object(
    arrays: Sequence[pa.Array], fields: Sequence[tuple[str, ColumnType]], rows: int
) -> pa.StringArray:
    parts: list[object] = []
    for array, (name, type_) in zip(arrays, fields, strict=True):
        opening = "," if parts else "{"
        parts += [f"{opening}{json.dumps(name, ensure_ascii=False)}:", json_texts(array, type_)]
    if not parts:
        return pa.array(["{}"] * rows, pa.string())
    return pc.binary_join_element_wise(*parts, "}", "")


def _null_as(array: pa.Array, texts: pa.StringArray) -> pa.StringArray:
    if not array.null_count:
        return texts
    return pc.if_else(array.is_valid(), texts, pa.scalar(None, pa.string()))


def _in_parts(types: Mapping[str, str]) -> Callable[[pa.Array], pa.StringArray]:
    def tokens(array: pa.Array) -> pa.StringArray:
        found = dict(zip((field.name for field in array.type), array.flatten(), strict=True))
        parts = [found[name] for name in types]
        return _null_as(array, _object(parts, list(types.items()), len(array)))

    return tokens


def _quoted(text: Callable[[pa.Array], pa.StringArray]) -> Callable[[pa.Array], pa.StringArray]:
    return lambda array: pc.binary_join_element_wise('"', text(array), '"', "")


def _numbers(array: pa.Array) -> pa.StringArray:
    text = pc.cast(array, pa.string())
    for number, token in _NUMBERS.items():
        text = pc.if_else(pc.equal(text, number), token, text)
    return text


def _escaped(array: pa.Array) -> pa.StringArray:
    text = pc.cast(array, pa.string())
    text = pc.replace_substring(pc.replace_substring(text, "\\", "\\\\"), '"', '\\"')
    if pc.any(pc.match_substring_regex(text, _CONTROL)).as_py():
        for code in range(0x20):
            text = pc.replace_substring(text, chr(code), f"\\u{code:04x}")
    return text


def _base64(array: pa.Array) -> pa.StringArray:
    values = array.to_pylist()
    texts = [None if value is None else b2a_base64(value, newline=False) for value in values]
    return pa.array(texts, pa.string())


def _dates(array: pa.Array) -> pa.StringArray:
    days = pc.cast(pc.cast(array, pa.date32()), pa.int32())
    if _within(days, FIRST_DAY, LAST_DAY):
        return pc.cast(array, pa.string())
    texts = [None if day is None else str(date_of(day)) for day in days.to_pylist()]
    return pa.array(texts, pa.string())


def _timestamps(array: pa.Array) -> pa.StringArray:
    utc = array.type.tz is not None
    # Spark sends timestamps in the session's time zone; the instant is the same in UTC.
    array = array.cast(pa.timestamp("us", "UTC" if utc else None))
    numbers = pc.cast(array, pa.int64())
    if _within(numbers, FIRST_DAY * DAY, (LAST_DAY + 1) * DAY - 1):
        return pc.replace_substring(pc.cast(array, pa.string()), " ", "T", max_replacements=1)
    texts = [None if one is None else _timestamp(one, utc=utc) for one in numbers.to_pylist()]
    return pa.array(texts, pa.string())


def _timestamp(microseconds: int, *, utc: bool) -> str:
    moment = timestamp_of(microseconds, utc=utc)
    if isinstance(moment, str):
        return moment
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _within(numbers: pa.Array, least: int, most: int) -> bool:
    found = pc.min_max(numbers).as_py()
    return found["min"] is None or (least <= found["min"] and found["max"] <= most)


def _times(array: pa.Array) -> pa.StringArray:
    return pc.cast(array.cast(pa.time64("us")), pa.string())


def _microseconds(array: pa.Array) -> pa.StringArray:
    return pc.cast(array.cast(pa.duration("us")).cast(pa.int64()), pa.string())


_TOKENS: dict[str, Callable[[pa.Array], pa.StringArray]] = {
    **dict.fromkeys(("string", "char(", "varchar("), _quoted(_escaped)),
    **dict.fromkeys(("float", "double"), _numbers),
    "binary": _quoted(_base64),
    "date": _quoted(_dates),
    "timestamp": _quoted(_timestamps),
    "time(": _quoted(_times),
    "interval": _microseconds,
    # What Spark holds in parts, in Arrow as in JSON.
    "variant": _in_parts({"value": "binary", "metadata": "binary"}),
    **dict.fromkeys(("geometry(", "geography("), _in_parts({"wkb": "binary", "srid": "integer"})),
}
