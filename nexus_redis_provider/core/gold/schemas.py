"""Column types as a manifest names them, and how a JSON row becomes Python values again.

The names are those of Spark's JSON schema: `integer`, `decimal(10,2)`, and objects for
`array`, `struct` and `map`.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

ColumnType = str | Mapping[str, Any]
Decoder = Callable[[Any], Any]

_SCALARS: dict[str, Decoder] = {
    "boolean": bool,
    "byte": int,
    "short": int,
    "integer": int,
    "long": int,
    # Numbers are parsed as Decimal; NaN and the infinities are strings in JSON.
    "float": lambda value: struct.unpack("f", struct.pack("f", float(value)))[0],
    "double": float,
    "string": str,
    "binary": base64.b64decode,
    "date": date.fromisoformat,
    "timestamp": datetime.fromisoformat,
    "timestamp_ntz": datetime.fromisoformat,
}
KEY_TYPES = frozenset({"string", "byte", "short", "integer", "long", "boolean", "date"})


@dataclass(frozen=True, slots=True)
class Column:
    """A column's name and type."""

    name: str
    type: ColumnType


def unsupported_part(type_: ColumnType) -> str | None:
    """The part of a type that JSON rows cannot hold without loss, or None when all of it fits."""
    if isinstance(type_, str):
        fits = type_ in _SCALARS or type_.startswith(("decimal(", "varchar(", "char("))
        return None if fits else type_
    match type_["type"]:
        case "array":
            return unsupported_part(type_["elementType"])
        case "struct":
            return _unsupported_field(type_["fields"])
        case "map" if type_["keyType"] == "string":
            return unsupported_part(type_["valueType"])
        case "map":
            return f"map with {type_['keyType']} keys"
        case other:
            return str(other)


def _unsupported_field(fields: Sequence[Mapping[str, Any]]) -> str | None:
    names = [field["name"] for field in fields]
    if len(set(names)) < len(names):
        return f"struct with a repeated field ({', '.join(names)})"
    parts = (unsupported_part(field["type"]) for field in fields)
    return next((part for part in parts if part), None)


def row_decoder(columns: Sequence[Column]) -> Callable[[bytes], dict[str, Any]]:
    """A function from a row's JSON to a dict of Python values, with exact decimals."""
    decoders = [(column.name, _decoder(column.type)) for column in columns]

    def decode(row: bytes) -> dict[str, Any]:
        values = json.loads(row, parse_float=Decimal)
        # An upsert may bring a column that rows written before it do not have.
        return {name: decoder(values.get(name)) for name, decoder in decoders}

    return decode


def _decoder(type_: ColumnType) -> Decoder:
    inner = _scalar_decoder(type_) if isinstance(type_, str) else _nested_decoder(type_)
    return lambda value: None if value is None else inner(value)


def _scalar_decoder(type_: str) -> Decoder:
    if type_.startswith("decimal("):
        return Decimal
    return _SCALARS.get(type_, str)


def _nested_decoder(type_: Mapping[str, Any]) -> Decoder:
    match type_["type"]:
        case "array":
            element = _decoder(type_["elementType"])
            return lambda values: [element(value) for value in values]
        case "map":
            item = _decoder(type_["valueType"])
            return lambda values: {key: item(value) for key, value in values.items()}
        case _:
            fields = [(field["name"], _decoder(field["type"])) for field in type_["fields"]]
            return lambda values: {name: decode(values.get(name)) for name, decode in fields}
