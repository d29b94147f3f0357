"""Packed rows, and keys, become the values again that they were made of."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_redis_provider.core.gold.packing import Unpacker, is_packed_natively, pack, unpacker
from nexus_redis_provider.core.gold.schemas import Column
from nexus_redis_provider.core.gold.templates import KeyTemplate
from tests.core.gold_types import FLAT, arrow_type, exactly

_PACKED = [kind for kind in sorted(FLAT) if is_packed_natively(kind)]
_KEY_PARTS = ("boolean", "date", "long", "string")


def unpacked(unpack: Unpacker, packed: list[bytes]) -> list[tuple[Any, ...]]:
    """The values of each row."""
    return list(zip(*unpack(packed), strict=True)) or [()] * len(packed)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_packed_rows_are_unpacked(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(_PACKED), max_size=12))
    rows = data.draw(
        st.lists(st.tuples(*(st.none() | FLAT[kind] for kind in kinds)), min_size=1, max_size=3)
    )
    columns = [Column(f"c{place}", kind) for place, kind in enumerate(kinds)]
    arrays = [
        pa.array([row[place] for row in rows], arrow_type(kind)) for place, kind in enumerate(kinds)
    ]
    # A slice of an array begins in the middle of its memory.
    padded = [pa.concat_arrays([array[:1], array])[1:] for array in arrays]
    packed = pack(columns, padded, len(rows)).to_pylist()
    assert all(packed)
    unpack = unpacker(columns)
    found = unpacked(unpack, packed)
    assert exactly([list(values) for values in found]) == exactly([list(row) for row in rows])


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


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_keys_are_read_again(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(_KEY_PARTS), min_size=1, max_size=4))
    between = st.text("|:-/.x", min_size=1, max_size=3)
    literals = [data.draw(between) for _ in kinds[1:]]
    text = data.draw(st.text("ab:|", max_size=2)) + "".join(
        f"{{c{place}}}{literal}" for place, literal in enumerate([*literals, ""])
    )
    template = KeyTemplate.parse(text)
    key = st.tuples(*(FLAT[kind] for kind in kinds))
    keys = data.draw(st.lists(key, min_size=1, max_size=3))
    columns = template.reader(kinds)(template.render_all(keys))
    assert list(zip(*columns, strict=True)) == keys


def test_microseconds_are_kept() -> None:
    at = datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=UTC)
    columns = [Column("at", "timestamp"), Column("day", "date")]
    packed = pack(columns, [pa.array([at]), pa.array([date(2024, 2, 29)])], 1)
    assert unpacked(unpacker(columns), packed.to_pylist()) == [(at, date(2024, 2, 29))]
