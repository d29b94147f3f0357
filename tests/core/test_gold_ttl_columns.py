"""Rows that say themselves when they expire: what is a lifetime, and what becomes of the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import chain
from typing import Any

import pyarrow as pa
import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    DuplicateKeyError,
    NotPublishedError,
    RowTtlError,
    SchemaError,
)
from nexus_redis_provider.core.gold.history import rollback
from nexus_redis_provider.core.gold.manifests import Layout, Manifest
from nexus_redis_provider.core.gold.parts import plan_parts, read_part
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import AsyncGoldDataset, GoldDataset
from nexus_redis_provider.core.gold.row_commands import row_encoder
from nexus_redis_provider.core.gold.schemas import Column
from nexus_redis_provider.core.gold.specs import Spec
from nexus_redis_provider.core.gold.tables import publish_table
from nexus_redis_provider.core.gold.writers import PartitionWriter
from nexus_redis_provider.core.keys import GoldKeys
from tests.core.gold_datasets import keyspace, spec
from tests.core.test_gold_expiries import moment
from tests.kinds import with_hashes

pytestmark = pytest.mark.usefixtures("rows_may_stay")

Ttls = Mapping[str, Any]
"""What the column says of each row."""
Publish = Callable[..., Manifest]
LAYOUTS = ["json", "hash"]
PAST = datetime(2020, 1, 1, tzinfo=UTC)
SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
LATER = SOON + timedelta(days=1)


def table_of(ttls: Ttls, type_: pa.DataType | None = None) -> pa.Table:
    """Rows by their keys, which say when they expire."""
    return pa.table({"id": list(ttls), "until": pa.array(ttls.values(), type_)})


@pytest.fixture
def publish(endpoint: Endpoint, namespace: str) -> Publish:
    def publish(ttls: Ttls, type_: pa.DataType | None = None, **options: Any) -> Manifest:
        options = {"key": "id", "ttl_column": "until"} | options
        where = {"endpoint": endpoint, "namespace": namespace}
        return publish_table(table_of(ttls, type_), "sales", **where, **options)

    return publish


@pytest.fixture
def expiries(client: redis.Redis, namespace: str) -> Callable[[Manifest], dict[str, int]]:
    """When each row expires, ms since 1970; -1: it stays. Those that are not there are left out."""

    def expiries(manifest: Manifest) -> dict[str, int]:
        prefix = GoldKeys("sales", namespace).row_prefix(manifest.version)
        names = [key for key in keyspace(client, namespace) if key.startswith(prefix)]
        return {name.removeprefix(prefix): client.pexpiretime(name) for name in names}

    return expiries


def ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_timestamp_is_the_moment(publish, expiries, layout):
    east = timezone(timedelta(hours=7))
    micros = SOON + timedelta(microseconds=1999)
    ttls = {"a": SOON, "b": LATER.astimezone(east), "c": micros, "d": None}
    manifest = publish(ttls, pa.timestamp("us", "UTC"), layout=layout)
    assert expiries(manifest) == {"a": ms(SOON), "b": ms(LATER), "c": ms(SOON) + 1, "d": -1}
    assert (manifest.expires_from_ms, manifest.expires_ms) == (ms(SOON), None)
    assert manifest.ttl_column == "until"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("type_", [pa.int8(), pa.int16(), pa.int32(), pa.int64()])
def test_whole_numbers_are_seconds_from_the_publish(publish, expiries, layout, type_):
    manifest = publish({"a": 60, "b": 127, "c": None}, type_, layout=layout)
    begun = manifest.created_ms
    assert expiries(manifest) == {"a": begun + 60_000, "b": begun + 127_000, "c": -1}


@with_hashes
def test_the_longest_lifetime(publish, expiries):
    manifest = publish({"a": 10**10 - 1}, layout="hash")
    assert expiries(manifest) == {"a": manifest.created_ms + (10**10 - 1) * 1000}
    year_20000 = 568_971_820_800_000_000
    manifest = publish({"a": year_20000}, pa.timestamp("us", "UTC"))
    assert manifest.expires_at.year == 9999
    assert expiries(manifest) == {"a": manifest.expires_ms}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_that_say_nothing_take_the_ttl(publish, expiries, layout):
    options = {"layout": layout, "ttl": 600, "ttl_jitter": 300}
    manifest = publish({"a": 60, "b": None, "c": None}, pa.int64(), **options)
    begun = manifest.created_ms
    expected = {name: moment(name, begun + 600_000) for name in "bc"} | {"a": begun + 60_000}
    assert expiries(manifest) == expected
    assert manifest.expires_from_ms == begun + 60_000
    assert manifest.expires_ms == max(expected.values())


def test_pages_and_manifest_live_as_long_as_the_last_row(publish, client, namespace):
    manifest = publish({"a": SOON, "b": LATER})
    of_the_version = [key for key in keyspace(client, namespace) if manifest.version in key]
    others = [key for key in of_the_version if ":gold:sales:" not in key]
    assert len(others) == 3
    assert {client.pexpiretime(key) for key in others} == {ms(LATER)} == {manifest.expires_ms}
    manifest = publish({"a": SOON, "b": None})
    of_the_version = [key for key in keyspace(client, namespace) if manifest.version in key]
    others = [key for key in of_the_version if ":gold:sales:" not in key]
    assert {client.pexpiretime(key) for key in others} == {-1}


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_row_whose_moment_is_past_was_never_there(
    *, publish, expiries, endpoint, client, namespace, layout
):
    manifest = publish({"a": PAST, "b": SOON, "c": None}, layout=layout)
    assert manifest.rows == 3
    assert expiries(manifest) == {"b": ms(SOON), "c": -1}
    assert manifest.expires_from_ms == ms(PAST)
    rows, keys = GoldDataset(client, "sales", namespace=namespace), GoldKeys("sales", namespace)
    left = [{"id": "b", "until": SOON}, {"id": "c", "until": None}]
    assert rows.get_many(["a", "b", "c"]) == [None, *left]
    assert list(rows.scan()) == left
    assert (rows.verify(), rows.verification().expired) == (manifest, 1)
    read = (read_part(client, keys, manifest, one) for one in plan_parts(client, keys, manifest, 9))
    assert sorted(name for name, _ in chain(*chain(*read))) == [b"b", b"c"]
    async with endpoint.async_client() as async_client:
        twin = AsyncGoldDataset(async_client, "sales", namespace=namespace)
        assert await twin.get_many(["a", "b", "c"]) == [None, *left]
        assert [row async for row in twin.scan()] == left

    publish({"a": SOON}, layout=layout)
    assert rows.get("a") == {"id": "a", "until": SOON}
    assert rollback(client, "sales", namespace=namespace) == manifest
    assert rows.get_many(["a", "b", "c"]) == [None, *left]
    publish({"a": SOON}, layout=layout, keep=0)
    assert not [key for key in keyspace(client, namespace) if manifest.version in key]


def test_before_1970_is_past_as_well(publish, expiries):
    manifest = publish({"a": datetime(1, 1, 1, tzinfo=UTC), "b": SOON}, pa.timestamp("us", "UTC"))
    assert expiries(manifest) == {"b": ms(SOON)}


def test_a_version_all_of_which_is_past_has_expired(endpoint, client, namespace):
    publication = Publication.begin(endpoint, timed(namespace))
    reports = [write(publication, {"a": PAST, "b": PAST})]
    manifest = publication.commit(reports)
    assert (manifest.rows, manifest.expires_ms) == (2, ms(PAST))
    # As after a lost reply.
    assert publication._flip(client, manifest, reports) >= manifest.published_ms
    with pytest.raises(NotPublishedError):
        GoldDataset(client, "sales", namespace=namespace).get("a")
    assert not [key for key in keyspace(client, namespace) if publication.version in key]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_upserted_rows_expire_as_they_say_last(publish, client, namespace, layout):
    options = {"key": f"{namespace}:{{id}}", "mode": "upsert", "layout": layout}
    names = {name: f"{namespace}:{name}" for name in "abc"}

    def found() -> dict[str, int]:
        return {name: client.pexpiretime(key) for name, key in names.items()}

    stamp = pa.timestamp("us", "UTC")
    manifest = publish({"a": SOON, "b": SOON, "c": SOON}, stamp, **options)
    assert found() == dict.fromkeys("abc", ms(SOON))
    assert manifest.expires_ms is None
    publish({"a": LATER, "b": None, "c": PAST}, stamp, **options)
    assert found() == {"a": ms(LATER), "b": -1, "c": -2}
    client.expire(names["b"], 60)
    rows = GoldDataset(client, "sales", namespace=namespace)
    assert rows.get_many(["a", "c"]) == [{"id": "a", "until": LATER}, None]


def timed(namespace: str, **options: Any) -> Spec:
    columns = (Column("id", "string"), Column("until", "timestamp"))
    return spec(namespace, columns=columns, ttl_column="until", **options)


def write(publication: Publication, ttls: Ttls, partition: int = 0, attempt: str = "a") -> Any:
    table = table_of(ttls, pa.timestamp("us", "UTC"))
    with PartitionWriter(publication, partition, attempt) as writer:
        for batch in table.to_batches(max_chunksize=2):
            writer.write(*row_encoder(publication.spec)(batch))
        return writer.finish()


@pytest.mark.parametrize("layout", [Layout.JSON, Layout.HASH])
def test_attempts_and_partitions_make_one_version(endpoint, namespace, expiries, layout):
    publication = Publication.begin(endpoint, timed(namespace, layout=layout))
    some, others = {"a": SOON, "b": None, "c": LATER}, {"d": None, "e": PAST}
    write(publication, some, attempt="first")
    reports = [write(publication, some, attempt="second"), write(publication, others, 1)]
    manifest = publication.commit(reports)
    assert expiries(manifest) == {"a": ms(SOON), "b": -1, "c": ms(LATER), "d": -1}
    assert (manifest.rows, manifest.expires_from_ms, manifest.expires_ms) == (5, ms(PAST), None)


def test_a_partition_without_rows_has_no_say(endpoint, namespace):
    publication = Publication.begin(endpoint, timed(namespace))
    parts = [{"a": LATER}, {}, {"b": SOON}]
    manifest = publication.commit(
        [write(publication, ttls, number) for number, ttls in enumerate(parts)]
    )
    assert (manifest.expires_from_ms, manifest.expires_ms) == (ms(SOON), ms(LATER))


@pytest.mark.parametrize("layout", [Layout.JSON, Layout.HASH])
def test_a_key_twice_is_refused_whatever_its_rows_say(endpoint, client, namespace, layout):
    publication = Publication.begin(endpoint, timed(namespace, layout=layout))
    write(publication, {"a": SOON, "b": None})
    for ttls in ({"a": None}, {"b": None}, {"b": SOON}, {"a": PAST}):
        with pytest.raises(DuplicateKeyError):
            write(publication, ttls, partition=1)
    publication.abort()
    assert not [key for key in keyspace(client, namespace) if publication.version in key]


def test_a_load_may_outlast_what_its_rows_say(endpoint, client, namespace, wait_until):
    publication = Publication.begin(endpoint, timed(namespace, ttl=0.05))
    report = write(publication, {"a": None, "b": SOON})
    row = f"{GoldKeys('sales', namespace).row_prefix(publication.version)}a"
    wait_until(lambda: not client.exists(row))
    publication.commit([report])
    rows = GoldDataset(client, "sales", namespace=namespace)
    assert [row["id"] for row in rows.scan()] == ["b"]


@pytest.mark.parametrize("value", [0, -1, 10**10, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("mode", ["snapshot", "upsert"])
def test_what_is_no_lifetime_changes_nothing(publish, client, namespace, value, mode):
    key = f"{namespace}:{{id}}" if mode == "upsert" else "id"
    publish({"a": 60, "b": 60}, key=key, mode=mode)
    before, head = keyspace(client, namespace), GoldKeys("sales", namespace).head
    facts = client.hgetall(head)
    message = rf"column 'until' of the row with key '.*b' is {value}, .* make it null"
    with pytest.raises(RowTtlError, match=message) as caught:
        publish({"a": 90, "b": value}, key=key, mode=mode)
    assert (caught.value.column, caught.value.value) == ("until", value)
    assert (keyspace(client, namespace), client.hgetall(head)) == (before, facts)
    assert GoldDataset(client, "sales", namespace=namespace).get("a") == {"id": "a", "until": 60}


def test_a_writer_refuses_a_batch_before_it_writes_any_of_it(endpoint, client, namespace):
    columns = (Column("id", "string"), Column("until", "long"))
    plan = replace(timed(namespace), columns=columns)
    publication = Publication.begin(endpoint, plan)
    before = keyspace(client, namespace)
    batch = pa.record_batch({"id": ["a", "b"], "until": [60, 0]})
    with PartitionWriter(publication, 0, "a") as writer, pytest.raises(RowTtlError):
        writer.write(*row_encoder(plan)(batch))
    assert keyspace(client, namespace) == before


@pytest.mark.parametrize(
    ("ttls", "options", "error", "message"),
    [
        ([date(2030, 1, 1)], {}, SchemaError, "'until' has type date.*cast it to timestamp"),
        ([datetime(2030, 1, 1)], {}, SchemaError, "type timestamp_ntz.*cast it to timestamp"),  # noqa: DTZ001
        ([1.5], {}, SchemaError, "type double"),
        (["60"], {}, SchemaError, "type string"),
        ([[1]], {}, SchemaError, "type array"),
        ([True], {}, SchemaError, "type boolean"),
        ([60], {"ttl_column": "UNTIL"}, SchemaError, "'UNTIL' of ttl_column is not there"),
        ([60], {"layout": "packed"}, ConfigurationError, "'packed'.*ttl_column.*'json' or 'hash'"),
        ([60], {"ttl_jitter": 5}, ConfigurationError, "ttl_jitter"),
    ],
)
def test_what_cannot_say_when_rows_expire_is_refused(
    *, publish, client, namespace, ttls, options, error, message
):
    with pytest.raises(error, match=message):
        publish(dict(zip("ab", ttls, strict=False)), **options)
    assert keyspace(client, namespace) == set()
