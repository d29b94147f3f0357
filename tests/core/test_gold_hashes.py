"""Rows as hashes: what any client sees, and that attempts leave no row or field of another."""

from __future__ import annotations

from datetime import date

import pyarrow as pa
import pytest

from nexus_redis_provider.core.errors import (
    DuplicateKeyError,
    GoldError,
    StaleFenceError,
    SupersededError,
)
from nexus_redis_provider.core.gold.hashes import encode_hashes
from nexus_redis_provider.core.gold.manifests import Layout, Mode
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import AsyncGoldDataset
from nexus_redis_provider.core.gold.schemas import Column
from nexus_redis_provider.core.gold.tables import publish_table
from nexus_redis_provider.core.gold.templates import KeyTemplate
from nexus_redis_provider.core.gold.writers import PartitionWriter
from tests.core.gold_datasets import (
    COLUMNS,
    dataset_keys,
    hashes,
    keyspace,
    spec,
    write,
)
from tests.kinds import with_hashes

pytestmark = [with_hashes, pytest.mark.usefixtures("rows_may_stay")]


@pytest.fixture
def publication(endpoint, namespace):
    return Publication.begin(endpoint, spec(namespace, layout=Layout.HASH))


def content(dataset):
    return {row["id"]: row["n"] for row in dataset.scan()}


def test_any_client_reads_a_field(endpoint, client, namespace):
    table = pa.table(
        {
            "shop": ["Ha\"noi'\\\n", "Huế"],
            "day": [date(2026, 11, 23), None],
            "sold": [float("nan"), -0.0],
            "raw": [b"\x00\r\n\xff", None],
            "tags": [["a", None], []],
            "open": [True, False],
        }
    )
    manifest = publish_table(
        *(table, "sales"), key="shop", endpoint=endpoint, namespace=namespace, layout="hash", ttl=60
    )
    prefix = f"{namespace}:gold:sales:{manifest.version}:"
    assert client.hgetall(prefix + "Ha\"noi'\\\n") == {
        b"shop": b"Ha\"noi'\\\n",
        b"day": b"2026-11-23",
        b"sold": b"NaN",
        b"raw": b"\x00\r\n\xff",
        b"tags": b'["a",null]',
        b"open": b"true",
    }
    assert client.hgetall(prefix + "Huế") == {
        b"shop": "Huế".encode(),
        b"sold": b"-0.0",
        b"tags": b"[]",
        b"open": b"false",
    }


async def test_readers_give_the_rows(publication, client, namespace, dataset, endpoint):
    published = publication.commit([write(publication, {"a": 1, "b": None})])
    assert dataset.get_many(["b", "c", "a"]) == [{"id": "b", "n": None}, None, {"id": "a", "n": 1}]
    assert content(dataset) == {"a": 1, "b": None}
    assert dataset.verify() == published
    async with endpoint.async_client() as aclient:
        other = AsyncGoldDataset(aclient, "sales", namespace=namespace)
        assert await other.get("a") == {"id": "a", "n": 1}


@pytest.mark.parametrize("field", ["n", "other"])
def test_verify_notices_a_changed_field(publication, client, dataset, namespace, field):
    version = publication.commit([write(publication, {"a": 1})]).version
    client.hset(f"{namespace}:gold:sales:{version}:a", field, 2)
    if field == "n":
        with pytest.raises(GoldError, match="checksum"):
            dataset.verify()
    else:  # Which no reader of ours asks for.
        assert dataset.verify().rows == 1


def wide(rows):
    """Rows of so many fields that the reply which tells their number has two digits."""
    keys = [key for key, _ in rows]
    numbers = pa.array([number for _, number in rows], pa.int64())
    columns = {"id": keys} | {f"n{n}": numbers for n in range(10)}
    schema = [COLUMNS[0], *(Column(name, "long") for name in list(columns)[1:])]
    return encode_hashes(pa.record_batch(columns), schema, KeyTemplate.parse("{id}"))


def test_a_second_attempt_at_wide_rows_does_not_wait(publication, client, namespace):
    rows = [(f"k{n}", n) for n in range(100)]
    for attempt in ("dead", "second"):
        with PartitionWriter(publication, 0, attempt) as writer:
            writer.write(*wide(rows))
            report = writer.finish()
    manifest = publication.commit([report])
    assert client.hlen(f"{namespace}:gold:sales:{manifest.version}:k99") == 11


def test_a_wide_row_that_is_repeated_in_a_batch_is_refused(publication):
    with PartitionWriter(publication, 0, "a") as writer:
        writer.write(*wide([("a", 1), ("b", 1), ("a", None), ("b", 2), ("c", 1)]))
        with pytest.raises(DuplicateKeyError) as caught:
            writer.finish()
    assert (caught.value.key, caught.value.rows) == ("a", 2)


def test_no_field_of_a_losing_attempt_stays(publication, dataset):
    write(publication, {"a": 1, "b": 1, "c": 1}, attempt="dead")
    publication.commit([write(publication, {"a": None, "b": 2}, attempt="second")])
    assert content(dataset) == {"a": None, "b": 2}
    assert dataset.verify().rows == 2
    assert dataset.get("c") is None


def before_writing(writer, act):
    """Act once, when the writer has looked for its keys and is about to write."""
    execute = writer._transactions.execute

    def act_and_execute(commands):
        writer._transactions.execute = execute
        act()
        return execute(commands)

    writer._transactions.execute = act_and_execute


def test_a_key_that_another_partition_writes_at_once_is_refused(publication):
    with PartitionWriter(publication, 0, "a") as writer:
        before_writing(writer, lambda: write(publication, {"b": 2}, partition=1))
        writer.write(*hashes({"a": 1, "b": 1}))
        with pytest.raises(DuplicateKeyError, match="'b'"):
            writer.finish()


def test_a_publish_that_begins_meanwhile_costs_no_row(publication, endpoint, namespace, dataset):
    with PartitionWriter(publication, 0, "a") as writer:
        other = spec(namespace, layout=Layout.HASH)
        before_writing(writer, lambda: Publication.begin(endpoint, other).abort())
        writer.write(*hashes({"a": 1}))
        published = publication.commit([writer.finish()])
    assert dataset.verify() == published


def test_a_batch_that_comes_after_the_sweep_is_not_left_behind(publication, client, namespace):
    with PartitionWriter(publication, 0, "a") as writer:
        before_writing(writer, publication.abort)
        writer.write(*hashes({"a": 1, "b": 1}))
        with pytest.raises(SupersededError, match="gone"):
            writer.finish()
    assert keyspace(client, namespace) == dataset_keys(namespace, "head")


def test_rows_expire(endpoint, client, namespace):
    publication = Publication.begin(endpoint, spec(namespace, layout=Layout.HASH, ttl=60))
    publication.commit([write(publication, {"a": 1})])
    assert 0 < client.pttl(f"{namespace}:gold:sales:{publication.version}:a") <= 60_000


def test_an_upsert_replaces_whole_rows(endpoint, client, namespace):
    options = {"layout": Layout.HASH, "mode": Mode.UPSERT, "ttl": 60}
    for rows in ({"a": 1, "b": 1}, {"a": None}):
        publication = Publication.begin(endpoint, spec(namespace, f"{namespace}:{{id}}", **options))
        publication.commit([write(publication, rows)])
    assert client.hgetall(f"{namespace}:a") == {b"id": b"a"}
    assert client.hgetall(f"{namespace}:b") == {b"id": b"b", b"n": b"1"}
    assert client.pttl(f"{namespace}:b") > 0


def test_an_older_fence_upserts_nothing(endpoint, client, namespace):
    options = {"layout": Layout.HASH, "mode": Mode.UPSERT, "ttl": 60}
    old = Publication.begin(endpoint, spec(namespace, f"{namespace}:{{id}}", fence=1, **options))
    Publication.begin(endpoint, spec(namespace, f"{namespace}:{{id}}", fence=2, **options))
    with pytest.raises(StaleFenceError):
        write(old, {"a": 1})
    assert not client.exists(f"{namespace}:a")
