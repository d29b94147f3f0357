"""Column types at random, as manifests name them, and values of each as readers give them."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from nexus_redis_provider.core.gold.schemas import ColumnType
from nexus_redis_provider.core.gold.values import CalendarInterval, Spatial, Variant

INSTANTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), allow_imaginary=True)  # noqa: DTZ001
COORDINATES = st.floats(-90, 90)


def whole(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def decimals(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    most = 10**precision - 1
    # Not scaleb, which rounds.
    return st.integers(-most, most).map(lambda number: Decimal(f"{number}E-{scale}"))


def points(srid: int) -> st.SearchStrategy[Spatial]:
    return st.tuples(COORDINATES, COORDINATES).map(
        lambda at: Spatial(struct.pack("<BIdd", 1, 1, *at), srid)
    )


FLAT: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "byte": whole(8),
    "short": whole(16),
    "integer": whole(32),
    "long": whole(64),
    "float": st.floats(width=32),
    "double": st.floats(),
    **{
        f"decimal({precision},{scale})": decimals(precision, scale)
        for precision, scale in ((1, 0), (18, 3), (38, 0), (38, 18), (38, 38))
    },
    "string": st.text(),
    "binary": st.binary(),
    "date": st.dates(),
    "timestamp": INSTANTS.map(lambda moment: moment.replace(tzinfo=UTC)),
    "timestamp_ntz": INSTANTS,
    "time(6)": st.times(),
    "interval day to second": whole(64).map(lambda number: timedelta(microseconds=number)),
    "void": st.none(),
}
SPATIAL = {"geometry(EPSG:3857)": points(3857), "geography(OGC:CRS84, SPHERICAL)": points(4326)}
LEAVES = FLAT | SPATIAL | {"variant": st.builds(Variant, st.binary(), st.binary())}
SCALARS = {
    "boolean": pa.bool_(),
    "byte": pa.int8(),
    "short": pa.int16(),
    "integer": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "Asia/Kolkata"),
    "timestamp_ntz": pa.timestamp("us"),
    "time(6)": pa.time64("ns"),
    "interval day to second": pa.duration("us"),
    "void": pa.null(),
    "variant": pa.struct([("value", pa.binary()), ("metadata", pa.binary())]),
    # In the order in which Spark sends them.
    **dict.fromkeys(SPATIAL, pa.struct([("srid", pa.int32()), ("wkb", pa.binary())])),
}
NOT_IN_ARROW = {
    "interval year to month": whole(32),
    "interval month": whole(32),
    # Spark makes no interval of the text of the least ones.
    "interval": st.builds(CalendarInterval, whole(31), whole(31), whole(63)),
}
KEYS = ("boolean", "long", "decimal(38,18)", "string", "binary", "date", "timestamp", "time(6)")


def array(element: ColumnType) -> ColumnType:
    return {"type": "array", "elementType": element, "containsNull": True}


def map_(key: ColumnType, value: ColumnType) -> ColumnType:
    return {"type": "map", "keyType": key, "valueType": value, "valueContainsNull": True}


def struct_(fields: Mapping[str, ColumnType]) -> ColumnType:
    described = [
        {"name": name, "type": type_, "nullable": True, "metadata": {}}
        for name, type_ in fields.items()
    ]
    return {"type": "struct", "fields": described}


def fields(type_: Mapping[str, Any]) -> dict[str, ColumnType]:
    return {field["name"]: field["type"] for field in type_["fields"]}


def types(leaves: Mapping[str, object], depth: int = 3) -> st.SearchStrategy[ColumnType]:
    """Types of some leaves, nested up to a depth."""
    flat = st.sampled_from(sorted(leaves))
    if depth == 0:
        return flat
    inner = types(leaves, depth - 1)
    keys = st.sampled_from(
        [*(key for key in KEYS if key in leaves), struct_({"a": "long", "b": "string"})]
    )
    names = st.text(max_size=3) | st.sampled_from(["x", "X"])
    return st.one_of(
        flat,
        inner.map(array),
        st.builds(map_, keys, inner),
        st.dictionaries(names, inner, max_size=3).map(struct_),
    )


def values(
    type_: ColumnType, leaves: Mapping[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[Any]:
    """Values of a type, and None."""
    if isinstance(type_, str):
        return st.none() | leaves[type_]
    match type_["type"]:
        case "array":
            return st.none() | st.lists(values(type_["elementType"], leaves), max_size=3)
        case "map":
            keys = _keys(type_["keyType"], leaves)
            return st.none() | st.dictionaries(keys, values(type_["valueType"], leaves), max_size=3)
        case _:
            names = fields(type_)
            inner = st.tuples(*(values(of, leaves) for of in names.values()))
            return st.none() | inner.map(lambda parts: dict(zip(names, parts, strict=True)))


def _keys(type_: ColumnType, leaves: Mapping[str, st.SearchStrategy[Any]]) -> Any:
    if isinstance(type_, str):
        return leaves.get(type_, FLAT.get(type_))
    return st.tuples(*(st.none() | _keys(of, leaves) for of in fields(type_).values()))


def exactly(value: object) -> object:
    """Something that is equal for values that a user cannot tell apart, and for no others."""
    match value:
        case float():
            return "NaN" if math.isnan(value) else (value, math.copysign(1, value))
        case datetime():
            return value.utcoffset() is None, value.astimezone(UTC) if value.tzinfo else value
        case dict():
            # Maps have no order.
            return sorted(((exactly(key), exactly(item)) for key, item in value.items()), key=repr)
        case list():
            return [*map(exactly, value)]
        case Decimal():
            return value.as_tuple()
    return type(value), value


def arrow_type(type_: ColumnType) -> pa.DataType:
    """Spark's Arrow type."""
    if isinstance(type_, str):
        if type_.startswith("decimal("):
            return pa.decimal128(*map(int, type_[len("decimal(") : -1].split(",")))
        return SCALARS[type_]
    match type_["type"]:
        case "array":
            return pa.list_(arrow_type(type_["elementType"]))
        case "map":
            return pa.map_(arrow_type(type_["keyType"]), arrow_type(type_["valueType"]))
        case _:
            return pa.struct([(name, arrow_type(of)) for name, of in fields(type_).items()])


@st.composite
def frames(draw: Any) -> tuple[list[ColumnType], list[list[Any]], int]:
    """Types of some columns, values of each, and a row to begin with."""
    found = draw(st.lists(types(LEAVES, 2), max_size=3))
    count = draw(st.integers(0, 4))
    columns = [
        draw(st.lists(values(type_, LEAVES), min_size=count, max_size=count)) for type_ in found
    ]
    return found, columns, draw(st.integers(0, 2))
