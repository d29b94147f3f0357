"""Every type that Arrow holds, at any depth, becomes JSON, or fields, and comes back exactly."""

from __future__ import annotations

import struct
import zlib
from datetime import UTC, date, datetime
from decimal import Context, Decimal

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nexus_redis_provider.core.gold.arrays import array_of
from nexus_redis_provider.core.gold.calendars import (
    date_of,
    days_of,
    microseconds_of,
    timestamp_of,
)
from nexus_redis_provider.core.gold.hashes import (
    arguments,
    encode_hashes,
    field_heads,
    fields_decoder,
)
from nexus_redis_provider.core.gold.manifests import Layout
from nexus_redis_provider.core.gold.rows import encode_rows, is_writable
from nexus_redis_provider.core.gold.schemas import (
    Column,
    has_text_keys,
    row_decoder,
    unsupported_part,
    value_decoder,
)
from nexus_redis_provider.core.gold.templates import KeyTemplate
from tests.core.gold_types import (
    LEAVES,
    NOT_IN_ARROW,
    array,
    arrow_type,
    exactly,
    frames,
    map_,
    struct_,
)

EXACT = Context(prec=200)


def through_json(batch, columns):
    """The values of each row, by way of its JSON."""
    _, texts, _ = encode_rows(batch, columns, KeyTemplate.parse("{id}"))
    decode = row_decoder(columns)
    return [tuple(decode(text.encode()).values()) for text in texts.to_pylist()]


def through_fields(batch, columns):
    """The same by way of its fields, as a server has them."""
    keys, rows, checksum, counts = encode_hashes(batch, columns, KeyTemplate.parse("{id}"))
    decode, heads, found, sums = fields_decoder(columns), field_heads(columns), [], 0
    listed = (column.to_pylist() for column in (keys, rows, counts))
    for key, row, count in zip(*listed, strict=True):
        words = words_of(row)
        stored = dict(zip(words[::2], words[1::2], strict=True))
        assert len(stored) == count
        fields = [stored.get(column.name.encode()) for column in columns]
        assert arguments(heads, fields) == row
        sums += zlib.crc32(key.encode() + b"\0" + row)
        found.append(tuple(decode(fields).values()))
    assert checksum == sums
    return found


def words_of(row):
    """Arguments of a command, as a server takes them apart."""
    words = []
    while row:
        size, _, rest = row[1:].partition(b"\r\n")
        words.append(rest[: int(size)])
        assert (row[:1], rest[int(size) : int(size) + 2]) == (b"$", b"\r\n")
        row = rest[int(size) + 2 :]
    return words


THROUGH = {Layout.JSON: through_json, Layout.HASH: through_fields}


@pytest.mark.parametrize("layout", THROUGH)
@settings(deadline=None, max_examples=150)
@given(case=frames())
@example(
    case=([map_("string", map_("date", array("void")))], [[{"\0": {date(1, 1, 1): [None]}}]], 0)
)
@example(case=([struct_({})], [[None, {}]], 1))
@example(
    case=(
        [map_("integer", struct_({"a": struct_({"b": "void"})}))],
        [[{1: None, 2: {"a": None}}, {3: {"a": None}}, {1: {"a": {"b": None}}}]],
        1,
    )
)
@example(case=(["string", "binary"], [['"', "", None], [b'"\r\n', b"", None]], 0))
def test_rows_come_back_exactly(layout, case):
    found, values_, start = case
    columns = [Column(f"{n}", type_) for n, type_ in enumerate(found)]
    count = max(map(len, values_), default=0)
    arrays = [
        array_of(many, type_, arrow_type(type_)) for many, type_ in zip(values_, found, strict=True)
    ]
    ids = pa.array([f"row {n}" for n in range(count)], pa.string())
    batch = pa.RecordBatch.from_arrays([ids, *arrays], names=["id", *(c.name for c in columns)])
    # Slices share the memory of the rest.
    batch = batch.slice(start)
    columns = [Column("id", "string"), *columns]
    rows = [row[1:] for row in THROUGH[layout](batch, columns)]
    expected = list(zip(*(many[start:] for many in values_), strict=True))
    assert [[*map(exactly, row)] for row in rows] == (
        [[*map(exactly, row)] for row in expected] or [[]] * len(rows)
    )


@pytest.mark.parametrize("type_", [*LEAVES, *NOT_IN_ARROW, map_("interval", array("interval"))])
def test_each_type_is_held(type_):
    assert unsupported_part(type_) is None
    assert is_writable(type_) is ("interval" not in str(type_) or "day" in str(type_))
    assert value_decoder(type_)(None) is None


@pytest.mark.parametrize("key", ["string", "char(3)", "varchar(3)", "string collate UNICODE_CI"])
def test_maps_with_any_kind_of_text_as_keys_are_objects(key):
    assert has_text_keys(map_(key, "long"))
    assert value_decoder(map_(key, "long"))({"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("type_", "path", "what"),
    [
        ("timestamp_ntz(9)", "", "type timestamp_ntz(9)"),
        (array("object"), "[]", "type object"),
        (map_("string", struct_({"x": "object"})), "{}.x", "type object"),
        (map_(struct_({"x": "object"}), "long"), "{key}.x", "type object"),
        ({"type": "udt", "class": "a.B"}, "", "user-defined type a.B"),
    ],
)
def test_what_is_not_held_is_found(type_, path, what):
    found = unsupported_part(type_)
    assert found is not None
    assert (found.path, found.what) == (path, f"has {'the ' if 'user' in what else ''}{what}")


@given(st.floats(0, 2.0**126, width=32))
def test_floats_are_rounded_once(number):
    """The nearest double is midway between two floats; only the digits tell which one is near."""
    bits = struct.unpack("i", struct.pack("f", number))[0]
    above = struct.unpack("f", struct.pack("i", bits + 1))[0]
    decode = value_decoder("float")
    midway = Decimal((number + above) / 2)
    least = midway.scaleb(-20)
    assert decode(EXACT.subtract(midway, least)) == number
    assert decode(EXACT.add(midway, least)) == above
    assert decode(midway) in {number, above}


def test_the_shortest_text_of_a_float_is_that_float():
    """It was another one, by way of a double."""
    assert value_decoder("float")(Decimal("7.038531E-26")) == 7.038530691851209e-26
    assert value_decoder("float")(16777217) == 16777216.0


@given(st.dates())
def test_days_of_years_that_python_knows(day):
    days = (day - date(1970, 1, 1)).days
    assert date_of(days) == day
    assert days_of(day.isoformat()) == days


@pytest.mark.parametrize(
    ("days", "text"),
    [
        (3789755, "+12345-12-31"),
        (2932897, "+10000-01-01"),
        (-719163, "0000-12-31"),
        (-719529, "-0001-12-31"),
        (-719528, "0000-01-01"),
    ],
)
def test_days_of_other_years_are_text(days, text):
    assert date_of(days) == text
    assert days_of(text) == days
    micros = days * 86_400_000_000 + 1
    assert timestamp_of(micros, utc=True) == f"{text}T00:00:00.000001Z"
    assert microseconds_of(f"{text}T00:00:00.000001Z") == micros
    batch = pa.RecordBatch.from_pydict(
        {
            "d": pa.array([days, 0, None], pa.int32()).cast(pa.date32()),
            "t": pa.array([micros, 0, None], pa.int64()).cast(pa.timestamp("us", "UTC")),
            "n": pa.array([micros, 0, None], pa.int64()).cast(pa.timestamp("us")),
        }
    )
    columns = [Column("d", "date"), Column("t", "timestamp"), Column("n", "timestamp_ntz")]
    keys, values_, _ = encode_rows(batch, columns, KeyTemplate.parse("{d}"))
    found = [row_decoder(columns)(value.encode()) for value in values_.to_pylist()]
    moment = f"{text}T00:00:00.000001"
    assert found == [
        {"d": text, "t": f"{moment}Z", "n": moment},
        {"d": date(1970, 1, 1), "t": datetime(1970, 1, 1, tzinfo=UTC), "n": datetime(1970, 1, 1)},  # noqa: DTZ001
        dict.fromkeys("dtn"),
    ]
    assert keys.to_pylist() == [text, "1970-01-01", None]
