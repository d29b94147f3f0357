"""Column types as a manifest names them, and how a JSON row becomes Python values again.

The names are those of Spark's JSON schema: `integer`, `decimal(10,2)`, and objects for
`array`, `struct` and `map`. What a type is in JSON, and in Python, where a null is None:

| type | JSON | Python |
|---|---|---|
| `boolean`, `byte`, `short`, `integer`, `long` | itself | bool, int |
| `float`, `double` | number, or `"NaN"`, `"Infinity"`, `"-Infinity"` | float |
| `decimal(p,s)` | number with all its digits | Decimal of the same scale |
| `string`, `char(n)`, `varchar(n)`, any collation | text | str |
| `binary` | text in base64 | bytes |
| `date` | `"2024-02-29"` | date |
| `timestamp` | `"2024-02-29T12:00:00.000000Z"` | datetime in UTC |
| `timestamp_ntz` | the same without zone | datetime without zone |
| `time(p)` | `"12:00:00.5"` | time |
| `interval day to second` and its parts | microseconds | timedelta |
| `interval year to month` and its parts | months | int |
| `interval` | `"1 years 2 months 3 days 4 hours 5 minutes 6.7 seconds"` | `CalendarInterval` |
| `variant` | `{"value": base64, "metadata": base64}` | `Variant` |
| `geometry(...)`, `geography(...)` | `{"wkb": base64, "srid": 4326}` | `Spatial` |
| `void` | null | None |
| `array` | array | list |
| `struct` | object | dict by field |
| `map` with text keys | object | dict |
| other `map` | array of `{"key": ..., "value": ...}` | dict; structs and arrays as keys: tuples |

These are the values of `df.collect()`, but for structs, which are `Row` there; timestamps, which
are without zone there; and the last intervals, which it cannot give. Dates and timestamps beyond
the years 1 to 9999, which neither it nor Python can hold, come as their text: `"+12345-01-01"`.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from nexus_redis_provider.core.gold.values import CalendarInterval, Spatial, Variant

ColumnType = str | Mapping[str, Any]
Decoder = Callable[[Any], Any]

_AS_PARSED = ("boolean", "byte", "short", "integer", "long", "string", "void")
KEY_TYPES = frozenset({"string", "byte", "short", "integer", "long", "boolean", "date"})
TEXT_TYPES = ("string", "char(", "varchar(")
_YEAR_MONTH = ("interval year", "interval month")
_INTERVAL_PART = re.compile(r"(-?[0-9.]+) ([a-z]+)")
_DAY_TIME = ("interval day", "interval hour", "interval minute", "interval second")


@dataclass(frozen=True, slots=True)
class Column:
    """A column's name and type."""

    name: str
    type: ColumnType


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A part of a type that rows cannot hold without loss.

    Attributes:
        path: where in the column, such as `.lines[].tax{}`; empty for the column itself.
        what: what is wrong with it.
        remedy: what to do.
    """

    path: str
    what: str
    remedy: str


def has_text_keys(type_: ColumnType) -> bool:
    """Whether values of a `map` type are JSON objects, for their keys are text."""
    key = type_["keyType"] if isinstance(type_, Mapping) else None
    return isinstance(key, str) and key.startswith(TEXT_TYPES)


def unsupported_part(type_: ColumnType, path: str = "") -> Unsupported | None:
    """What rows cannot hold without loss, or None when all of it fits."""
    if isinstance(type_, str):
        if _scalar_decoder(type_) is not None:
            return None
        return Unsupported(path, f"has type {type_}", "cast it to one that rows hold")
    match type_["type"]:
        case "array":
            return unsupported_part(type_["elementType"], f"{path}[]")
        case "map":
            key = unsupported_part(type_["keyType"], f"{path}{{key}}")
            return key or unsupported_part(type_["valueType"], f"{path}{{}}")
        case "struct":
            return _unsupported_field(type_["fields"], path)
        case kind:  # Spark knows no others than user-defined types.
            what = f"has the user-defined type {type_.get('pyClass') or type_.get('class') or kind}"
            return Unsupported(path, what, "convert it to the SQL type behind it")


def _unsupported_field(fields: Sequence[Mapping[str, Any]], path: str) -> Unsupported | None:
    names = [field["name"] for field in fields]
    for name in names:
        if names.count(name) > 1:
            what = f"has type struct with the repeated field {name!r}"
            return Unsupported(path, what, "rename one of the two")
    parts = (unsupported_part(field["type"], f"{path}.{field['name']}") for field in fields)
    return next((part for part in parts if part), None)


def row_decoder(columns: Sequence[Column]) -> Callable[[bytes], dict[str, Any]]:
    """A function from a row's JSON to a dict of Python values, with exact decimals."""
    decode_all = rows_decoder(columns)
    return lambda row: decode_all([row])[0]


def rows_decoder(columns: Sequence[Column]) -> Callable[[Sequence[bytes]], list[dict[str, Any]]]:
    """The same for many rows, which costs a third for each."""
    names = [column.name for column in columns]
    decoders = [
        (column.name, _present_decoder(column.type))
        for column in columns
        if column.type not in _AS_PARSED
    ]
    # A double is the nearest to its text either way; parsing it at once is faster.
    exact = any("decimal" in str(column.type) or "float" in str(column.type) for column in columns)
    options: dict[str, Any] = {"parse_float": Decimal} if exact else {}

    def decode(rows: Sequence[bytes]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(b"[%b]" % b",".join(rows), **options)
        if len(found) != len(rows):
            # Something else has written one that is none; it must not shift the others.
            found = [json.loads(row, **options) for row in rows]
        for name, decoder in decoders:
            for row in found:
                if (value := row.get(name)) is not None:
                    row[name] = decoder(value)
        # An upsert may bring a column that rows written before it do not have.
        return [
            row if list(row) == names else {name: row.get(name) for name in names} for row in found
        ]

    return decode


def value_decoder(type_: ColumnType) -> Decoder:
    """A function from a parsed JSON value, its broken numbers Decimals, to the Python value."""
    decode = _present_decoder(type_)
    return lambda value: None if value is None else decode(value)


def _present_decoder(type_: ColumnType) -> Decoder:
    """The same for values that are not null."""
    inner = _scalar_decoder(type_) if isinstance(type_, str) else _nested_decoder(type_)
    return inner or str  # A type of a later release comes as its text.


def _scalar_decoder(type_: str) -> Decoder | None:
    if (decoder := _SCALARS.get(type_)) is not None:
        return decoder
    return next((decode for start, decode in _FAMILIES.items() if type_.startswith(start)), None)


def _nested_decoder(type_: Mapping[str, Any]) -> Decoder:
    match type_["type"]:
        case "array":
            element = value_decoder(type_["elementType"])
            return lambda values: [element(value) for value in values]
        case "map":
            item = value_decoder(type_["valueType"])
            if has_text_keys(type_):
                return lambda values: {key: item(value) for key, value in values.items()}
            name = value_decoder(type_["keyType"])
            return lambda pairs: {
                _hashable(name(pair["key"])): item(pair["value"]) for pair in pairs
            }
        case _:
            fields = [(field["name"], value_decoder(field["type"])) for field in type_["fields"]]
            return lambda values: {name: decode(values.get(name)) for name, decode in fields}


def _hashable(key: Any) -> Any:
    """A map's key; Spark's own `Row`, too, equals the tuple of its values."""
    if isinstance(key, dict):
        return tuple(map(_hashable, key.values()))
    if isinstance(key, list):
        return tuple(map(_hashable, key))
    return key


def _or_text(parse: Callable[[str], Any]) -> Decoder:
    def decode(text: str) -> Any:
        try:
            return parse(text)
        except ValueError:
            return text  # A year that Python does not know.

    return decode


def _single(number: Any) -> float:
    """The float nearest to a number; not the one nearest to the double nearest to it."""
    double = float(number)
    single = _rounded(double)
    other = double + (double - single)
    if single != double and other == _rounded(other):  # The double is midway between two floats.
        if number > double:
            return max(single, other)
        if number < double:
            return min(single, other)
    return single


def _rounded(double: float) -> float:
    return struct.unpack("f", struct.pack("f", double))[0]  # type: ignore[no-any-return]


def _spatial(parts: Mapping[str, Any]) -> Spatial:
    return Spatial(base64.b64decode(parts["wkb"]), parts["srid"])


def _variant(parts: Mapping[str, str]) -> Variant:
    return Variant(base64.b64decode(parts["value"]), base64.b64decode(parts["metadata"]))


def _calendar_interval(text: str) -> CalendarInterval:
    parts: dict[str, Decimal] = defaultdict(Decimal)
    parts |= {unit: Decimal(number) for number, unit in _INTERVAL_PART.findall(text)}
    # Exact: no part has more digits than a Decimal.
    minutes = parts["hours"] * 60 + parts["minutes"]
    microseconds = (minutes * 60 + parts["seconds"]) * 1_000_000
    months = parts["years"] * 12 + parts["months"]
    return CalendarInterval(int(months), int(parts["days"]), int(microseconds))


def _microseconds(number: int) -> timedelta:
    return timedelta(microseconds=number)


_SCALARS: dict[str, Decoder] = {
    "boolean": bool,
    "byte": int,
    "short": int,
    "integer": int,
    "long": int,
    # Numbers are parsed as Decimal; NaN and the infinities are strings in JSON.
    "float": _single,
    "double": float,
    "binary": base64.b64decode,
    "date": _or_text(date.fromisoformat),
    "timestamp": _or_text(datetime.fromisoformat),
    "timestamp_ntz": _or_text(datetime.fromisoformat),
    "interval": _calendar_interval,
    "variant": _variant,
    "void": lambda _: None,
}
_FAMILIES: dict[str, Decoder] = {
    **dict.fromkeys(TEXT_TYPES, str),
    "decimal(": Decimal,
    "time(": time.fromisoformat,
    **dict.fromkeys(("geometry(", "geography("), _spatial),
    **dict.fromkeys(_YEAR_MONTH, int),
    **dict.fromkeys(_DAY_TIME, _microseconds),
}
