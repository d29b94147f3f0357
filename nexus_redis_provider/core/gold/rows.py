"""Arrow batches as keys and JSON rows, vectorised: for sources that have no JVM to make them.

The JSON is read back by `schemas.row_decoder`, like that of Spark's `to_json`. Nested and binary
columns have no vectorised form and are refused.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from nexus_redis_provider.core.gold.schemas import Column, ColumnType
from nexus_redis_provider.core.gold.templates import KeyTemplate

_FLAT = frozenset(
    {
        *("boolean", "byte", "short", "integer", "long", "float", "double", "string"),
        *("date", "timestamp", "timestamp_ntz"),
    }
)
_QUOTED = frozenset({"string", "date", "timestamp", "timestamp_ntz"})
# JSON has no such numbers, which Spark writes as strings; and `-0` is a whole number, hence 0.
_NUMBERS = {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"', "-0": "-0.0"}
_CONTROL = r"[\x00-\x1f]"


def is_flat(type_: ColumnType) -> bool:
    """Whether `encode_rows` can write columns of this type."""
    return isinstance(type_, str) and (type_ in _FLAT or type_.startswith("decimal("))


def encode_rows(
    batch: pa.RecordBatch, columns: Sequence[Column], template: KeyTemplate
) -> tuple[pa.StringArray, pa.StringArray, int]:
    """Keys (null where a part is null), JSON values, and the sum of the rows' CRC-32.

    Args:
        batch: columns in the order of `columns`, each of a type for which `is_flat` holds.
        columns: their names and types.
        template: of the key.
    """
    texts = {
        column.name: pc.cast(_utc(array), pa.string())
        for column, array in zip(columns, batch.columns, strict=True)
    }
    keys = _keys(texts, columns, template)
    values = _values(texts, columns, batch)
    # There is no vectorised CRC-32; this maps a C function over the rows.
    joined = pc.binary_join_element_wise(keys, values, "\0")
    checksum = sum(map(zlib.crc32, pc.cast(pc.drop_null(joined), pa.binary()).to_pylist()))
    return keys, values, checksum


def _keys(
    texts: dict[str, pa.StringArray], columns: Sequence[Column], template: KeyTemplate
) -> pa.StringArray:
    types = {column.name: column.type for column in columns}
    literals = template.literals
    parts: list[object] = [literals[0]]
    for name, literal in zip(template.columns, literals[1:], strict=True):
        text = texts[name]
        if types[name] == "string":
            for char, escaped in template.escapes:
                text = pc.replace_substring(text, char, escaped)
        parts += [text, literal]
    return pc.binary_join_element_wise(*parts, "")


def _values(
    texts: dict[str, pa.StringArray], columns: Sequence[Column], batch: pa.RecordBatch
) -> pa.StringArray:
    parts: list[object] = []
    for index, column in enumerate(columns):
        opening = "," if index else "{"
        name = json.dumps(column.name, ensure_ascii=False)
        parts += [f"{opening}{name}:", _token(texts[column.name], column.type)]
    if not parts:
        return pa.array(["{}"] * len(batch))
    return pc.binary_join_element_wise(*parts, "}", "")


def _token(text: pa.StringArray, type_: ColumnType) -> pa.StringArray:
    if type_ == "string":
        text = _escaped(text)
    if type_ in ("float", "double"):
        for number, token in _NUMBERS.items():
            text = pc.if_else(pc.equal(text, number), token, text)
    if type_ in _QUOTED:
        text = pc.binary_join_element_wise('"', text, '"', "")
    return pc.fill_null(text, "null")


def _escaped(text: pa.StringArray) -> pa.StringArray:
    text = pc.replace_substring(pc.replace_substring(text, "\\", "\\\\"), '"', '\\"')
    if pc.any(pc.match_substring_regex(text, _CONTROL)).as_py():
        for code in range(0x20):
            text = pc.replace_substring(text, chr(code), f"\\u{code:04x}")
    return text


def _utc(array: pa.Array) -> pa.Array:
    # Spark sends timestamps in the session's time zone; the instant is the same in UTC.
    if pa.types.is_timestamp(array.type) and array.type.tz:
        return array.cast(pa.timestamp(array.type.unit, "UTC"))
    return array
