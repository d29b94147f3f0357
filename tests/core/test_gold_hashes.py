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
from nexus_redis_provider.core.gold.manifests import Layout, Mode
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import AsyncGoldDataset
from nexus_redis_provider.core.gold.tables import publish_table
from nexus_redis_provider.core.gold.writers import PartitionWriter
from tests.conftest import PERMANENT
from tests.core.gold_datasets import PERMANENT_ROWS, hashes, keyspace, spec, write


@pytest.fixture
def permanent():
    return [*PERMANENT, PERMANENT_ROWS]


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


def test_keys_that_are_repeated_are_refused(publication):
    with PartitionWriter(publication, 0, "a") as writer:
        writer.write(*hashes({"a": 1, "b": 1}))
        writer.write(*hashes({"b": 2}))
        with pytest.raises(DuplicateKeyError, match="'b'"):
            writer.finish()
    with pytest.raises(DuplicateKeyError, match="'a'"):
        write(publication, {"a": 1}, partition=1)


def test_no_field_of_a_losing_attempt_stays(publication, dataset):
    write(publication, {"a": 1, "b": 1, "c": 1}, attempt="dead")
    publication.commit([write(publication, {"a": None, "b": 2}, attempt="second")])
    assert content(dataset) == {"a": None, "b": 2}
    assert dataset.verify().rows == 2
    assert dataset.get("c") is None


def test_an_attempt_that_ends_after_the_publish_changes_nothing(publication, client, namespace):
    slow = PartitionWriter(publication, 0, "slow").__enter__()
    slow.write(*hashes({"a": 1}))
    publication.commit([write(publication, {"a": 2, "b": 2}, attempt="fast")])
    expected = keyspace(client, namespace)
    with pytest.raises(SupersededError, match="gone"):
        slow.write(*hashes({"b": 1, "c": 1}))
    slow.refused(SupersededError("late", "sales"))
    slow.__exit__(None, None, None)
    assert keyspace(client, namespace) == expected


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
