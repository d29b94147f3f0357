"""An Arrow table, or rows of Python values, published without Spark."""
# ruff: noqa: DTZ001 - times without a zone are a type, too

from __future__ import annotations

import zlib
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest

from nexus_redis_provider.core.errors import (
    ConfigurationError,
    DuplicateKeyError,
    NullKeyError,
    SchemaError,
    StaleFenceError,
    TooFewRowsError,
    UnreachableError,
    WriteError,
)
from nexus_redis_provider.core.gold.limits import Limits
from nexus_redis_provider.core.gold.python_rows import table_of_mappings, table_of_rows
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.gold.tables import publish_table
from nexus_redis_provider.core.keys import GoldKeys
from tests.core.gold_datasets import keyspace, user

pytestmark = pytest.mark.usefixtures("rows_may_stay")

SALES = pa.table({"id": ["a", "b"], "n": [1, 2]})


@pytest.fixture
def publish(endpoint, namespace):
    def publish(table, **options):
        defaults = {"key": "id", "endpoint": endpoint, "namespace": namespace}
        return publish_table(table, "sales", **defaults | options)

    return publish


@pytest.fixture
def rows(client, namespace):
    def rows():
        dataset = GoldDataset(client, "sales", namespace=namespace)
        dataset.verify()
        return {row["id"]: row for row in dataset.scan()}

    return rows


@pytest.mark.parametrize(
    "form",
    [
        lambda: SALES,
        SALES.to_reader,
        lambda: SALES.to_batches(max_chunksize=1),
        lambda: iter(SALES.to_batches()),
        SALES.to_pandas,
    ],
    ids=["table", "reader", "batches", "iterator", "pandas"],
)
def test_a_table_is_read_back(form, publish, rows):
    manifest = publish(form(), lineage={"dag_id": "d"})
    assert (manifest.rows, manifest.lineage) == (2, {"dag_id": "d"})
    assert rows() == {"a": {"id": "a", "n": 1}, "b": {"id": "b", "n": 2}}


NOON = datetime(2024, 2, 29, 12, 0, 0, 5, UTC)
TYPES = [
    (pa.array([True, None]), "boolean", True),
    (pa.array([-128, None], pa.int8()), "byte", -128),
    (pa.array([-(2**15), None], pa.int16()), "short", -(2**15)),
    (pa.array([-(2**31), None], pa.int32()), "integer", -(2**31)),
    (pa.array([2**63 - 1, None]), "long", 2**63 - 1),
    (pa.array([255, None], pa.uint8()), "short", 255),
    (pa.array([2**16 - 1, None], pa.uint16()), "integer", 2**16 - 1),
    (pa.array([2**32 - 1, None], pa.uint32()), "long", 2**32 - 1),
    (pa.array([2**64 - 1, None], pa.uint64()), "decimal(20,0)", Decimal(2**64 - 1)),
    (pa.array([0.5, None], pa.float16()), "float", 0.5),
    (pa.array([0.5, None], pa.float32()), "float", 0.5),
    (pa.array([-0.1, None]), "double", -0.1),
    (pa.array([float("inf"), None]), "double", float("inf")),
    (pa.array([Decimal("1.10"), None]), "decimal(3,2)", Decimal("1.10")),
    (pa.array([Decimal("1.1"), None], pa.decimal256(20, 1)), "decimal(20,1)", Decimal("1.1")),
    (pa.array(['a"\n', None], pa.large_string()), "string", 'a"\n'),
    (pa.array(["x", None]).dictionary_encode(), "string", "x"),
    (pa.nulls(2), "string", None),
    (pa.array([date(2024, 2, 29), None], pa.date64()), "date", date(2024, 2, 29)),
    (pa.array([NOON, None], pa.timestamp("ns", "Asia/Tokyo")), "timestamp", NOON),
    (
        pa.array([datetime(2024, 2, 29, 12), None], pa.timestamp("s")),
        "timestamp_ntz",
        datetime(2024, 2, 29, 12),
    ),
    (pa.array([b"\xff", None]), "binary", b"\xff"),
    (pa.array([b"\xff\x00", None], pa.binary(2)), "binary", b"\xff\x00"),
    (pa.array([time(1, 2, 3), None], pa.time32("s")), "time(6)", time(1, 2, 3)),
    (
        pa.array([timedelta(days=1, microseconds=5), None]),
        "interval day to second",
        timedelta(days=1, microseconds=5),
    ),
]


@pytest.mark.parametrize("layout", ["json", "packed"])
@pytest.mark.parametrize(("array", "type_", "value"), TYPES, ids=[str(a.type) for a, _, _ in TYPES])
def test_what_a_type_becomes(*, array, type_, value, layout, publish, rows):
    manifest = publish(pa.table({"id": ["a", "b"], "v": array}), layout=layout)
    assert manifest.columns[1].type == type_
    assert rows() == {"a": {"id": "a", "v": value}, "b": {"id": "b", "v": None}}


@pytest.mark.parametrize("layout", ["json", "packed"])
def test_nested_columns(layout, publish, rows):
    value = {
        "list": [1, None],
        "struct": {"at": NOON, "names": ["x"]},
        "map": {"a": Decimal("1.5")},
    }
    inner = pa.struct([("at", pa.timestamp("ns", "UTC")), ("names", pa.large_list(pa.string()))])
    columns = {
        "list": pa.list_(pa.int16()),
        "struct": inner,
        "map": pa.map_(pa.string(), pa.decimal128(3, 1)),
    }
    schema = pa.schema({"id": pa.string()} | columns)
    table = pa.Table.from_pylist([{"id": "a"} | value | {"map": [("a", Decimal("1.5"))]}], schema)
    manifest = publish(
        pa.concat_tables([table, pa.table({"id": ["b"]})], promote_options="default"), layout=layout
    )
    assert [column.type["type"] for column in manifest.columns[1:]] == ["array", "struct", "map"]
    assert rows() == {"a": {"id": "a"} | value, "b": {"id": "b"} | dict.fromkeys(columns)}


@pytest.mark.parametrize(
    "type_",
    [
        pa.decimal256(50, 0),
        pa.month_day_nano_interval(),
        pa.uuid(),
        pa.list_(pa.month_day_nano_interval()),
        pa.map_(pa.string(), pa.month_day_nano_interval()),
        pa.struct([("a", pa.month_day_nano_interval())]),
        pa.struct([("a", pa.int8()), ("a", pa.int8())]),
        pa.struct([]),
    ],
    ids=str,
)
def test_a_type_that_does_not_fit_is_refused_by_name(type_, publish, client, namespace):
    empty = pa.schema({"id": pa.string(), "v": type_}).empty_table()
    with pytest.raises(SchemaError, match=r"column 'v' has the Arrow type .*make text") as refused:
        publish(empty)
    assert refused.value.column == "v"
    assert keyspace(client, namespace) == set()


# As it comes when text is read in another encoding than it was written.
NO_TEXT = pa.StringArray.from_buffers(
    1, pa.py_buffer(bytes((0, 0, 0, 0, 2, 0, 0, 0))), pa.py_buffer(b"\xffA")
)


@pytest.mark.parametrize(
    ("table", "options", "error", "message"),
    [
        (SALES, {"key": "k"}, SchemaError, "'k' of the key is not there; the columns are id, n"),
        (SALES, {"key": []}, ConfigurationError, "names no column"),
        (SALES, {"key": None}, ConfigurationError, "names no column"),
        (SALES, {"key": "{id}{n}"}, ConfigurationError, "key template"),
        (SALES, {"types": {"m": "long"}}, SchemaError, "'m' has a type in `types`"),
        (SALES, {"types": {"n": "money"}}, SchemaError, "'n' cannot be 'money'; the types are"),
        (SALES, {"types": {"n": "timestamp"}}, SchemaError, "'n' of type int64.*seconds, days"),
        (SALES, {"types": {"id": "long"}}, SchemaError, "'id' of type string.*'b'"),
        (SALES, {"fence": 0}, ConfigurationError, "positive"),
        (SALES, {"mode": "append"}, ConfigurationError, "append"),
        (pa.table([[1], [2]], ["id", "id"]), {}, SchemaError, "'id' stands there more than once"),
        (pa.table({"id": [0.5]}), {}, SchemaError, "type double, which a key cannot be"),
        (pa.table({"id": ["a", None]}), {}, NullKeyError, "1 row.*null in key column.*id"),
        (pa.table({"id": ["a", "b", "a", "a"]}), {}, DuplicateKeyError, "2 row.*such as 'a'"),
        (pa.table({"id": ["a"], "s": NO_TEXT}), {}, SchemaError, "'s' has no valid.*UTF8"),
        (pa.table({"id": NO_TEXT}), {}, SchemaError, "'id' has no valid.*UTF8"),
        ([], {}, ConfigurationError, "at least one record batch, not list"),
        ([{"id": 1}], {}, ConfigurationError, "not list"),
        (7, {}, ConfigurationError, "not int"),
    ],
)
@pytest.mark.parametrize("mode", ["snapshot", "upsert"])
def test_what_is_refused_leaves_no_trace(
    *, mode, table, options, error, message, publish, client, namespace
):
    with pytest.raises(error, match=message):
        publish(table, **{"mode": mode} | options)
    assert keyspace(client, namespace) == set()


def test_too_few_rows_leave_no_trace(publish, client, namespace):
    with pytest.raises(TooFewRowsError, match=r"2 row.*min_rows=3"):
        publish(SALES, min_rows=3)
    assert keyspace(client, namespace) == set()


def test_nothing_is_asked_of_a_server_before_all_is_checked(publish):
    with pytest.raises(SchemaError):
        publish(SALES, key="k", endpoint="redis://127.0.0.1:1?retries=0")
    with pytest.raises(UnreachableError):
        publish(SALES, endpoint="redis://127.0.0.1:1?retries=0")


def test_an_empty_table_is_a_version(publish, rows):
    manifest = publish(SALES.slice(0, 0))
    assert manifest.rows == 0
    assert [column.type for column in manifest.columns] == ["string", "long"]
    assert rows() == {}


def test_many_rows(publish, client, namespace):
    count = 25_000
    table = pa.table({"id": pa.array(range(count)), "n": pa.array(range(count))})
    manifest = publish(table.combine_chunks(), ttl=60)
    assert manifest.rows == count
    dataset = GoldDataset(client, "sales", namespace=namespace)
    assert dataset.get(24_999) == {"id": 24_999, "n": 24_999}


def test_rows_expire_each_at_its_moment(publish, client, namespace):
    manifest = publish(SALES, ttl=600, ttl_jitter=timedelta(seconds=300))
    prefix = GoldKeys("sales", namespace).row_prefix(manifest.version)
    found = {name: client.pexpiretime(f"{prefix}{name}") for name in SALES["id"].to_pylist()}
    end = manifest.created_ms + 600_000
    assert found == {name: end - zlib.crc32(name.encode()) % 300_001 for name in found}


def test_many_packed_rows(publish, client, namespace):
    count = 25_000
    table = pa.table({"id": pa.array(range(count)), "n": pa.array(range(count))})
    manifest = publish(table, layout="packed")
    assert (manifest.rows, manifest.layout) == (count, "packed")
    dataset = GoldDataset(client, "sales", namespace=namespace)
    assert dataset.get(24_999) == {"id": 24_999, "n": 24_999}
    assert publish(table.slice(0, 0), layout="packed").rows == 0
    assert dataset.get(24_999) is None


def test_packed_rows_come_in_as_many_shares_as_it_takes(publish, rows):
    ids = [f"k{number}" for number in range(500)]
    table = pa.table({"id": ids, "n": range(500)})
    assert len(publish(table, layout="packed", limits=Limits(expected_rows=1_000_000)).shares) == 3
    changed = table.set_column(1, "n", pa.array([*range(499), 7]))
    delta = publish(changed, layout="packed", mode="delta")
    assert (len(delta.shares), delta.rows) == (3, 500)
    again = publish(table.slice(1), layout="packed", mode="delta")
    assert any(share.is_mapped for share in again.shares)
    publish(table.slice(0, 2), layout="packed", mode="delta")
    assert set(rows()) == {"k0", "k1"}, "some shares are empty now"
    publish(table.slice(1), layout="packed", mode="delta")
    assert {key: row["n"] for key, row in rows().items()} == {f"k{n}": n for n in range(1, 500)}


def test_upsert(publish, client, namespace):
    publish(SALES, key=f"{namespace}:{{id}}", mode="upsert", ttl=60)
    publish(pa.table({"id": ["b"], "n": [7]}), key=f"{namespace}:{{id}}", mode="upsert", ttl=60)
    assert client.get(f"{namespace}:a") == b'{"id":"a","n":1}'
    assert client.get(f"{namespace}:b") == b'{"id":"b","n":7}'


def test_a_stale_fence_leaves_nothing_staged(publish, client, namespace):
    publish(SALES, fence=5)
    before = keyspace(client, namespace)
    with pytest.raises(StaleFenceError):
        publish(SALES, fence=4)
    assert keyspace(client, namespace) == before


def test_what_the_server_refuses_is_taken_back(endpoint, client, namespace, publish, rows):
    publish(SALES)
    before = keyspace(client, namespace)
    rights = ("~*", "+@all", "-set")
    with (
        user(client, endpoint, "poor", *rights) as poor,
        pytest.raises(WriteError, match="the server refused"),
    ):
        publish(SALES, endpoint=poor)
    assert keyspace(client, namespace) == before
    assert len(rows()) == 2


def column(*chunks):
    return table_of_rows(["v"], [[(value,) for value in chunk] for chunk in chunks], "d")["v"]


@pytest.mark.parametrize(
    ("chunks", "type_", "values"),
    [
        ([[1, None]], pa.int64(), [1, None]),
        ([[1, 2.5]], pa.float64(), [1.0, 2.5]),
        ([[None], [1], [2.5]], pa.float64(), [None, 1.0, 2.5]),
        ([[None], [None]], pa.null(), [None, None]),
        ([[Decimal("1.5")], [Decimal("22.25")]], pa.decimal128(4, 2), None),
        ([[1], [Decimal("1.5")]], pa.decimal128(38, 1), None),
        ([["a"], ["b"]], pa.string(), ["a", "b"]),
        ([[NOON], [NOON.astimezone()]], pa.timestamp("us", "UTC"), [NOON, NOON]),
    ],
)
def test_the_type_of_python_values(chunks, type_, values):
    found = column(*chunks)
    assert found.type == type_
    assert found.to_pylist() == (values or [value for chunk in chunks for value in chunk])


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([[1, "a"]], "'v' has values of different types: int and str"),
        ([[1], ["a"]], "different types: int64 and string"),
        ([[1, True]], "bool and int"),
        ([[date(2024, 1, 1), datetime(2024, 1, 1, 5)]], "date and datetime"),
        ([[[1], ["a"]]], r"'v\[\]' has values of different types: int and str"),
        ([[[date(2024, 1, 1), datetime(2024, 1, 1, 5)]]], r"'v\[\]' .* date and datetime"),
        ([[(date(2024, 1, 1), datetime(2024, 1, 1, 5))]], r"'v\[\]' .* date and datetime"),
        ([[{date(2024, 1, 1)}, {datetime(2024, 1, 1, 5)}]], r"'v\[\]' .* date and datetime"),
        ([[{"a": 1}, {"a": "x", "b": 2}]], r"'v.a' .* int and str"),
        ([[None, time(1, tzinfo=UTC)]], "'v' has times of day with a zone"),
        ([[datetime(2024, 1, 1), NOON]], "times with a zone and times without"),
        ([[datetime(2024, 1, 1)], [NOON]], "timestamp"),
        ([[1.5, Decimal(1)]], "Decimal and float"),
        ([[2**53 + 1], [0.5]], "9007199254740993"),
        ([[Decimal("Infinity")]], "'v' has values that no column can hold"),
        ([[2**63]], "'v' has values that no column can hold"),
        ([[object()]], "'v' has values that no column can hold"),
        ([["\ud800"]], "'v' has values that no column can hold"),
        ([[Decimal("1E30")], [Decimal("1E-30")]], "31 digits before and 30 after the point"),
    ],
)
def test_python_values_that_make_no_column(chunks, message):
    with pytest.raises(SchemaError, match=message):
        column(*chunks)


def test_a_row_that_does_not_name_a_value_has_none():
    rows = [{"id": "a", "n": 1}, {"id": "b", "m": True}]
    found = table_of_mappings(rows, "d").to_pylist()
    assert found == [{"id": "a", "n": 1, "m": None}, {"id": "b", "n": None, "m": True}]
    for bad in ([("a", 1)], [{1: 2}], ["text"]):
        with pytest.raises(ConfigurationError, match="a row is a dict"):
            table_of_mappings(bad, "d")


@pytest.mark.parametrize(
    ("given", "type_", "value"),
    [
        ("2024-02-29", "date", date(2024, 2, 29)),
        ("2024-02-29 12:00:00.000005", "timestamp_ntz", datetime(2024, 2, 29, 12, 0, 0, 5)),
        ("2024-02-29T12:00:00.000005", "timestamp", NOON),
        ("2024-02-29T13:00:00.000005+01:00", "timestamp", NOON),
        (NOON.replace(tzinfo=None), "timestamp", NOON),
        (datetime(2024, 2, 29), "date", date(2024, 2, 29)),
        (5, "decimal(10,2)", Decimal("5.00")),
        (1.255, "decimal(10,1)", Decimal("1.3")),
        (5, "string", "5"),
        (1, "boolean", True),
        (7, "byte", 7),
        (None, "timestamp", None),
    ],
)
def test_a_type_that_is_asked_for(given, type_, value, publish, rows):
    table = table_of_mappings([{"id": "a", "v": given}], "d")
    manifest = publish(table, types={"v": type_})
    assert manifest.columns[1].type == type_
    assert rows()["a"]["v"] == value


@pytest.mark.parametrize(
    ("given", "type_"),
    [
        (datetime(2024, 2, 29, 12), "date"),
        (300, "byte"),
        (2.5, "long"),
        ("noon", "timestamp"),
        (10**9, "decimal(5,2)"),
    ],
)
def test_a_value_that_does_not_fit_the_type_is_refused(given, type_, publish):
    with pytest.raises(SchemaError, match=r"column 'v' of type .* does not become"):
        publish(table_of_mappings([{"id": "a", "v": given}], "d"), types={"v": type_})
