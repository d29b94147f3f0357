"""Packed rows, and keys, become the values again that they were made of."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_redis_provider.core.gold.packing import Unpacker, pack, unpacker
from nexus_redis_provider.core.gold.schemas import Column
from nexus_redis_provider.core.gold.templates import KeyTemplate

_WHOLE = {"byte": 8, "short": 16, "integer": 32, "long": 64}
_ARROW = {
    "boolean": pa.bool_(),
    "byte": pa.int8(),
    "short": pa.int16(),
    "integer": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "America/New_York"),
    "timestamp_ntz": pa.timestamp("us"),
    "decimal(10,2)": pa.decimal128(10, 2),
    "decimal(18,18)": pa.decimal128(18, 18),
    "decimal(38,10)": pa.decimal128(38, 10),
    "string": pa.string(),
    "binary": pa.binary(),
}
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    **{name: st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for name, bits in _WHOLE.items()},
    "float": st.floats(width=32),
    "double": st.floats(),
    "date": st.dates(),
    "timestamp": st.datetimes(timezones=st.just(UTC)),
    "timestamp_ntz": st.datetimes(),
    "decimal(10,2)": st.integers(-(10**10) + 1, 10**10 - 1).map(lambda n: Decimal(n).scaleb(-2)),
    "decimal(18,18)": st.integers(-(10**18) + 1, 10**18 - 1).map(lambda n: Decimal(n).scaleb(-18)),
    "decimal(38,10)": st.integers(-(10**37), 10**37).map(lambda n: Decimal(f"{n}e-10")),
    "string": st.text(max_size=40),
    "binary": st.binary(max_size=40),
}


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isnan(ours) == math.isnan(theirs) and (
            math.isnan(ours)
            or (ours == theirs and math.copysign(1, ours) == math.copysign(1, theirs))
        )
    return type(ours) is type(theirs) and str(ours) == str(theirs) and ours == theirs


def unpacked(unpack: Unpacker, packed: list[bytes]) -> list[tuple[Any, ...]]:
    """The values of each row."""
    return list(zip(*unpack(packed), strict=True)) or [()] * len(packed)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_packed_rows_are_unpacked(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(sorted(_VALUES)), max_size=12))
    rows = data.draw(
        st.lists(st.tuples(*(st.none() | _VALUES[kind] for kind in kinds)), min_size=1, max_size=3)
    )
    columns = [Column(f"c{place}", kind) for place, kind in enumerate(kinds)]
    arrays = [
        pa.array([row[place] for row in rows], _ARROW[kind]) for place, kind in enumerate(kinds)
    ]
    # A slice of an array begins in the middle of its memory.
    padded = [pa.concat_arrays([array[:1], array])[1:] for array in arrays]
    packed = pack(columns, padded, len(rows)).to_pylist()
    assert all(packed)
    unpack = unpacker(columns)
    found = unpacked(unpack, packed)
    for row, values in zip(rows, found, strict=True):
        assert all(map(same, values, row)), (values, row)


@pytest.mark.parametrize("length", [0, 1, 254, 255, 256, 70_000])
def test_long_values_among_short_ones(length: int) -> None:
    columns = [Column("a", "string"), Column("b", "binary"), Column("c", "string")]
    values = [("x" * length, b"y", None), (None, b"z" * length, "c"), ("a", b"", "")]
    arrays = [pa.array([row[place] for row in values]) for place in range(3)]
    packed = pack(columns, arrays, 3).to_pylist()
    assert unpacked(unpacker(columns), packed) == values


def test_days_beyond_pythons_are_text() -> None:
    columns = [Column("day", "date"), Column("at", "timestamp_ntz")]
    days, moments = pa.array([-719528, 4_000_000], pa.int32()), pa.array([-(10**17), 10**18])
    arrays = [days.cast(pa.date32()), moments.cast(pa.timestamp("us"))]
    found = unpacked(unpacker(columns), pack(columns, arrays, 2).to_pylist())
    assert found[1] == ("+12921-08-18", "+33658-09-27T01:46:40.000000")
    assert all(isinstance(value, str) for value in found[0])


_KEY_PARTS: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(),
    "long": _VALUES["long"],
    "boolean": st.booleans(),
    "date": st.dates(),
}


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_keys_are_read_again(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(sorted(_KEY_PARTS)), min_size=1, max_size=4))
    between = st.text("|:-/.x", min_size=1, max_size=3)
    literals = [data.draw(between) for _ in kinds[1:]]
    text = data.draw(st.text("ab:|", max_size=2)) + "".join(
        f"{{c{place}}}{literal}" for place, literal in enumerate([*literals, ""])
    )
    template = KeyTemplate.parse(text)
    key = st.tuples(*(_KEY_PARTS[kind] for kind in kinds))
    keys = data.draw(st.lists(key, min_size=1, max_size=3))
    columns = template.reader(kinds)(template.render_all(keys))
    assert list(zip(*columns, strict=True)) == keys


def test_microseconds_are_kept() -> None:
    at = datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=UTC)
    columns = [Column("at", "timestamp"), Column("day", "date")]
    packed = pack(columns, [pa.array([at]), pa.array([date(2024, 2, 29)])], 1)
    assert unpacked(unpacker(columns), packed.to_pylist()) == [(at, date(2024, 2, 29))]
