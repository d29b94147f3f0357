"""Packed rows and their keys become the same columns at once that they become row by row."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.gold.arrays import array_of
from nexus_redis_provider.core.gold.key_arrays import key_reader
from nexus_redis_provider.core.gold.packing import is_packed_natively, pack, unpacker
from nexus_redis_provider.core.gold.rows import json_texts
from nexus_redis_provider.core.gold.schemas import Column
from nexus_redis_provider.core.gold.templates import KeyTemplate
from nexus_redis_provider.core.gold.unpacking import array_unpacker
from tests.core.gold_types import FLAT, SCALARS, array, arrow_type, exactly, frames

LONG = "x" * 300
KEY_PARTS = {kind: FLAT[kind] for kind in ("long", "byte", "boolean", "date")} | {
    "string": FLAT["string"] | st.text("%|:-25ABt\0é", max_size=4)
}


def packed(types, columns):
    """Columns and packed rows of values."""
    described = [Column(f"{number}", type_) for number, type_ in enumerate(types)]
    arrays = [
        array_of(values, type_, arrow_type(type_))
        for values, type_ in zip(columns, types, strict=True)
    ]
    texts = [
        values if is_packed_natively(type_) else json_texts(values, type_)
        for values, type_ in zip(arrays, types, strict=True)
    ]
    return described, pack(described, texts, len(columns[0])).to_pylist()


@settings(deadline=None, max_examples=200)
@given(frames().filter(lambda case: case[1] and case[1][0]), st.sets(st.integers(0, 2)))
@example(
    (["string", "binary", "long"], [["", LONG, None], [b"", None, b"y" * 70_000], [1] * 3], 0),
    set(),
)
@example(([array("long"), "string"], [[[1, None], None], ["a", "b"]], 0), {1})
@example((["boolean"] * 9, [*[[True, None, False]] * 8, [None, True, None]], 0), {0})
@example((["decimal(38,18)", "decimal(18,3)"], [[None, None]] * 2, 0), {0, 1})
def test_columns_are_those_of_the_rows(case, left_out):
    types, values, _ = case
    columns, rows = packed(types, values)
    wanted = {
        column.name: arrow_type(column.type)
        for place, column in enumerate(columns)
        if place not in left_out
    }
    found = array_unpacker(columns, wanted)(rows)
    expected = dict(zip((column.name for column in columns), unpacker(columns)(rows), strict=True))
    assert found.keys() == wanted.keys()
    for column in columns:
        if (ours := found.get(column.name)) is None:
            continue
        theirs = array_of(expected[column.name], column.type, wanted[column.name])
        ours.validate(full=True)
        assert ours.type == theirs.type
        assert ours.null_count == theirs.null_count
        assert exactly(ours.to_pylist()) == exactly(theirs.to_pylist())


def test_days_that_python_does_not_know_are_no_text_in_between():
    columns = [Column("day", "date"), Column("at", "timestamp_ntz"), Column("utc", "timestamp")]
    days = pa.array([-719528, None, 4_000_000], pa.int32()).cast(pa.date32())
    moments = pa.array([-(10**17), 10**18, None])
    types = {"day": pa.date32(), "at": pa.timestamp("us"), "utc": pa.timestamp("us", "UTC")}
    arrays = [days, moments.cast(types["at"]), moments.cast(types["utc"])]
    found = array_unpacker(columns, types)(pack(columns, arrays, 3).to_pylist())
    assert list(found.values()) == arrays


@pytest.mark.parametrize("last", ["ab", LONG, None])
def test_a_row_that_ends_too_early_is_refused(last):
    """However long it is, nothing is read of the row behind it."""
    columns, (row, whole) = packed(["long", "string", "string"], [[1, 2], ["a", "b"], [last, "c"]])
    unpack = array_unpacker(columns, {column.name: arrow_type(column.type) for column in columns})
    assert unpack([row, whole])["2"].to_pylist() == [last, "c"]
    for length in range(len(row)):
        with pytest.raises(ValueError, match="ends before"):
            unpack([row[:length], whole])
        with pytest.raises(ValueError, match="ends before"):
            unpack([whole, row[:length]])


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_keys_are_read_again(data):
    kinds = data.draw(st.lists(st.sampled_from(sorted(KEY_PARTS)), min_size=1, max_size=4))
    between = st.text("|:-/.xt", min_size=1, max_size=3)
    same = data.draw(st.none() | between)
    literals = [same or data.draw(between) for _ in kinds[1:]]
    around = st.text("ab:|é", max_size=2)
    text = data.draw(around) + "".join(
        f"{{c{place}}}{literal}" for place, literal in enumerate([*literals, data.draw(around)])
    )
    template = KeyTemplate.parse(text)
    row = st.tuples(*(KEY_PARTS[kind] for kind in kinds))
    rows = data.draw(st.lists(row, min_size=1, max_size=3))
    types = {f"c{place}": kind for place, kind in enumerate(kinds)}
    chosen = data.draw(st.sets(st.sampled_from(sorted(types))))
    read = key_reader(template, types, {name: SCALARS[types[name]] for name in chosen})
    found = read([key.encode() for key in template.render_all(rows)])
    assert {name: values.to_pylist() for name, values in found.items()} == {
        name: [row[place] for row in rows] for place, name in enumerate(types) if name in chosen
    }
    assert all(values.type == SCALARS[types[name]] for name, values in found.items())


@pytest.mark.parametrize(
    ("text", "key"),
    [("{a}ee{b}", (True, "x")), ("{a}-{b}", (-1, "x")), ("{a}|{b}:{c}", ("x", "y", "z"))],
)
def test_where_a_column_ends_is_told_by_its_type(text, key):
    template = KeyTemplate.parse(text)
    kinds = {bool: "boolean", int: "long", str: "string"}
    types = {name: kinds[type(part)] for name, part in zip(template.columns, key, strict=True)}
    read = key_reader(template, types, {"b": pa.string()})
    assert read([template.render(key).encode()])["b"].to_pylist() == [key[1]]


def test_keys_with_years_that_python_does_not_know():
    read = key_reader(
        KeyTemplate.parse("{shop}|{day}"),
        {"shop": "string", "day": "date"},
        {"shop": pa.string(), "day": pa.date32()},
    )
    found = read([b"a%7C|2024-02-29", "é|+12921-08-18".encode(), b"|-0004-01-01"])
    assert found["shop"].to_pylist() == ["a|", "é", ""]
    assert found["day"].cast(pa.int32()).to_pylist() == [19782, 4_000_000, -720_989]


@pytest.mark.parametrize("key", ["a|b|3", "a", "a|b"])
def test_what_is_no_key_of_the_template_is_refused(key):
    read = key_reader(
        KeyTemplate.parse("{a}|{b}"),
        {"a": "string", "b": "long"},
        {"a": pa.string(), "b": pa.int64()},
    )
    with pytest.raises(ConfigurationError, match="no key of the template"):
        read([b"a|1", key.encode()])
