"""Bytes: index pages, commands, rows and manifests come back as they went."""

from __future__ import annotations

import json
import math
import zlib
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis.connection import Connection

from nexus_redis_provider.core.gold.manifests import Layout, Manifest, Mode
from nexus_redis_provider.core.gold.pages import decode_page, encode_page, page_array
from nexus_redis_provider.core.gold.rows import encode_rows
from nexus_redis_provider.core.gold.schemas import Column, row_decoder
from nexus_redis_provider.core.gold.templates import KeyTemplate
from nexus_redis_provider.core.gold.wire import (
    command,
    hash_commands,
    key_commands,
    multi_set_commands,
    set_commands,
)

# The first use of a library takes longer than hypothesis allows an example.
patient = settings(deadline=None)
TEXTS = st.lists(st.text(), max_size=30)
MOMENTS = st.integers(1, 2**53)
EACH = st.lists(st.one_of(st.none(), MOMENTS), min_size=1, max_size=5)
EXPIRIES = st.one_of(st.none(), MOMENTS, EACH)


@patient
@given(TEXTS)
@example([])
@example(["", "", ""])
def test_pages_come_back(keys):
    page = encode_page(pa.array(keys, pa.string()))
    assert decode_page(page) == [key.encode() for key in keys]
    assert page_array(page).to_pylist() == keys


@patient
@given(TEXTS, st.integers(0, 30))
def test_a_page_holds_nothing_behind_its_last_key(keys, length):
    """A slice that begins at the start shares the memory of the rest."""
    assert encode_page(pa.array(keys, pa.string()).slice(0, length)) == encode_page(
        pa.array(keys[:length], pa.string())
    )


def packed(*words: object) -> bytes:
    return b"".join(Connection().pack_command(*words))


@patient
@given(
    rows=st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=20),
    prefix=st.text(max_size=5),
    options=st.lists(st.just("NX"), max_size=1),
    expires=EXPIRIES,
    start=st.integers(0, 5),
)
@example(
    rows=[("\0", "\r\n"), ("é" * 5000, "x" * 70_000)],
    prefix="",
    options=[],
    expires=None,
    start=0,
)
def test_set_commands_are_those_of_redis_py(*, rows, prefix, options, expires, start):
    keys = pa.array([key for key, _ in rows], pa.string()).slice(start)
    values = pa.array([value for _, value in rows], pa.string()).slice(start)
    moments = of_each(expires, keys)
    expected = b"".join(
        packed("SET", prefix + key, value, *options, *([] if at is None else ["PXAT", at]))
        for (key, value), at in zip(rows[start:], moments, strict=True)
    )
    if isinstance(expires, list):
        expires = pa.array(moments, pa.int64())
    assert bytes(set_commands(prefix, keys, values, options, expires)) == expected


def of_each(expires: int | list[int | None] | None, keys: pa.StringArray) -> list[int | None]:
    """When each key expires."""
    moments = expires if isinstance(expires, list) else [expires]
    return [moments[at % len(moments)] for at in range(len(keys))]


@patient
@given(rows=st.lists(st.text(), min_size=1, max_size=20), expires=EXPIRIES, anew=st.booleans())
def test_hash_commands_are_those_of_redis_py(rows, expires, anew):
    keys, moments = pa.array(rows, pa.string()), of_each(expires, rows)
    expected = b""
    for row, at in zip(rows, moments, strict=True):
        expected += packed("UNLINK", f"p:{row}") if anew else b""
        expected += packed("HSET", f"p:{row}", "n", 7)
        if at is not None:
            expected += packed("PEXPIREAT", f"p:{row}", at)
        elif isinstance(expires, list) and None in moments:
            expected += packed("PERSIST", f"p:{row}")
    values = pa.array([b"$1\r\nn\r\n$1\r\n7\r\n"] * len(rows), pa.binary())
    fields = pa.array([1] * len(rows), pa.int32())
    if isinstance(expires, list):
        expires = pa.array(moments, pa.int64())
    assert bytes(hash_commands("p:", keys, values, fields, expires=expires, anew=anew)) == expected


@patient
@given(
    st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=20),
    st.text(max_size=5),
    st.integers(1, 7),
)
def test_msetnx_commands_are_those_of_redis_py(rows, prefix, per_command):
    keys, values = (pa.array(column, pa.string()) for column in zip(*rows, strict=True))
    words = [word for key, value in rows for word in (prefix + key, value)]
    expected = b"".join(
        packed("MSETNX", *words[start : start + 2 * per_command])
        for start in range(0, len(words), 2 * per_command)
    )
    assert bytes(multi_set_commands("MSETNX", prefix, keys, values, per_command)) == expected


@patient
@given(TEXTS, st.text(max_size=5), st.integers(1, 7))
def test_key_commands_are_those_of_redis_py(keys, prefix, per_command):
    expected = b"".join(
        packed("UNLINK", *(prefix + key for key in keys[start : start + per_command]))
        for start in range(0, len(keys), per_command)
    )
    assert key_commands("UNLINK", prefix, pa.array(keys, pa.string()), per_command) == expected


@patient
@given(st.lists(st.one_of(st.text(), st.binary(), st.integers())))
def test_commands_are_those_of_redis_py(words):
    assert command("EVALSHA", *words) == packed("EVALSHA", *words)


INSTANTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30))  # noqa: DTZ001
EAST = timezone(timedelta(hours=5, minutes=30))
TYPES = {
    "boolean": (pa.bool_(), st.booleans()),
    "byte": (pa.int8(), st.integers(-(2**7), 2**7 - 1)),
    "short": (pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    "integer": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "long": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "float": (pa.float32(), st.floats(width=32)),
    "double": (pa.float64(), st.floats()),
    "string": (pa.string(), st.text()),
    "date": (pa.date32(), st.dates()),
    "timestamp": (
        pa.timestamp("us", "Asia/Kolkata"),
        INSTANTS.map(lambda t: t.replace(tzinfo=EAST)),
    ),
    "timestamp_ntz": (pa.timestamp("us"), INSTANTS),
    **{
        f"decimal(38,{scale})": (
            pa.decimal128(38, scale),
            # Not scaleb, which rounds.
            st.integers(1 - 10**38, 10**38 - 1).map(
                lambda n, scale=scale: Decimal(f"{n}E-{scale}")
            ),
        )
        for scale in (0, 18, 38)
    },
}


def exactly(value: object) -> object:
    """Something that is equal for values that a user cannot tell apart, and for no others."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else (value, math.copysign(1, value))
    if isinstance(value, datetime):
        return value.utcoffset() is None, value.astimezone(UTC) if value.tzinfo else value
    return type(value), value


@st.composite
def flat_batches(draw):
    kinds = draw(st.lists(st.sampled_from(sorted(TYPES)), max_size=4))
    names = draw(st.lists(st.text(min_size=1), min_size=len(kinds), max_size=len(kinds)))
    columns = [Column(f"{n}{name}", kind) for n, (name, kind) in enumerate(zip(names, kinds))]  # noqa: B905
    count = draw(st.integers(0, 5))
    arrays = [
        pa.array(
            draw(st.lists(st.none() | TYPES[kind][1], min_size=count, max_size=count)),
            TYPES[kind][0],
        )
        for kind in kinds
    ]
    ids = pa.array([f"row {n}" for n in range(count)], pa.string())
    batch = pa.RecordBatch.from_arrays(
        [ids, *arrays], names=["id", *(column.name for column in columns)]
    )
    return [Column("id", "string"), *columns], batch


@settings(deadline=None, max_examples=300)
@given(flat_batches())
def test_rows_come_back_exactly(case):
    columns, batch = case
    keys, values, checksum = encode_rows(batch, columns, KeyTemplate.parse("k:{id}"))
    decode = row_decoder(columns)
    found = [decode(value.encode()) for value in values.to_pylist()]
    assert [{k: exactly(v) for k, v in row.items()} for row in found] == [
        {k: exactly(v) for k, v in row.items()} for row in batch.to_pylist()
    ]
    assert keys.to_pylist() == [f"k:row {n}" for n in range(len(batch))]
    pairs = zip(keys.to_pylist(), values.to_pylist(), strict=True)
    assert checksum == sum(zlib.crc32(f"{key}\0{value}".encode()) for key, value in pairs)


@patient
@given(kind=st.sampled_from(["string", "date", "boolean", "byte", "long"]), data=st.data())
def test_keys_of_rows_are_those_that_readers_render(kind, data):
    value = data.draw(TYPES[kind][1])
    text = data.draw(TYPES["string"][1])
    template = KeyTemplate.parse("%:{a}|:{b}%")
    batch = pa.RecordBatch.from_pydict(
        {"a": pa.array([value], TYPES[kind][0]), "b": pa.array([text], pa.string())}
    )
    keys, *_ = encode_rows(batch, [Column("a", kind), Column("b", "string")], template)
    assert keys.to_pylist() == [template.render((value, text))]


def test_control_characters_are_escaped():
    text = "".join(map(chr, range(0x80)))
    batch = pa.RecordBatch.from_pydict({"a": [text, *text]})
    _, values, _ = encode_rows(batch, [Column("a", "string")], KeyTemplate.parse("{a}"))
    assert [json.loads(value)["a"] for value in values.to_pylist()] == [text, *text]


def test_large_strings_are_rows_too():
    batch = pa.RecordBatch.from_pydict({"a": pa.array(["x", None, 'q"'], pa.large_string())})
    keys, values, _ = encode_rows(batch, [Column("a", "string")], KeyTemplate.parse("{a}"))
    assert keys.to_pylist() == ["x", None, 'q"']
    assert [json.loads(value)["a"] for value in values.to_pylist()] == ["x", None, 'q"']


NESTED = {
    "type": "struct",
    "fields": [{"name": "x", "type": "decimal(5,2)", "nullable": True, "metadata": {}}],
}
MANIFEST = Manifest(
    dataset="sales/by_day",
    version="abc",
    mode=Mode.SNAPSHOT,
    layout=Layout.JSON,
    columns=(Column("naïve \0 \U0001f600", "string"), Column("s", NESTED)),
    key="{s}",
    rows=2**60,
    bytes=3,
    checksum=2**63 + 1,
    partitions=4,
    created_ms=5,
    expires_ms=6,
    fence=7,
    lineage={"dag_id": 'q"', "ключ": "знач"},
)


def test_manifests_come_back():
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    assert Manifest.from_json(MANIFEST.to_json().encode(), published_ms=9).published_ms == 9
    assert MANIFEST.expires_at == datetime(1970, 1, 1, 0, 0, 0, 6000, tzinfo=UTC)


def test_fields_of_later_releases_are_ignored():
    body = json.loads(MANIFEST.to_json()) | {"compression": "zstd"}
    body["columns"] = [column | {"comment": "new"} for column in body["columns"]]
    assert Manifest.from_json(json.dumps(body)) == MANIFEST


@pytest.mark.parametrize("kind", ["float", "double"])
def test_special_numbers_come_back(kind):
    numbers = [0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, 2.0**-149, 3.4028234663852886e38]
    array = pa.array(numbers, TYPES[kind][0])
    ids = pa.array([str(n) for n in range(len(numbers))])
    batch = pa.RecordBatch.from_pydict({"id": ids, "x": array})
    columns = [Column("id", "string"), Column("x", kind)]
    _, values, _ = encode_rows(batch, columns, KeyTemplate.parse("{id}"))
    found = [row_decoder(columns)(value.encode())["x"] for value in values.to_pylist()]
    assert list(map(exactly, found)) == list(map(exactly, array.to_pylist()))


def test_dates_before_the_first_day_of_1970_are_plain():
    batch = pa.RecordBatch.from_pydict({"a": pa.array([date(1, 1, 1), date(1969, 12, 31)])})
    _, values, _ = encode_rows(batch, [Column("a", "date")], KeyTemplate.parse("{a}"))
    assert values.to_pylist() == ['{"a":"0001-01-01"}', '{"a":"1969-12-31"}']
