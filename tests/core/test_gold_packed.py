"""Datasets of packed rows: written in buckets, read by key, and never half there."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    DuplicateKeyError,
    GoldError,
    NotPublishedError,
    NullKeyError,
    PublishError,
    SupersededError,
    UnreachableError,
    WriteError,
)
from nexus_redis_provider.core.gold import buckets
from nexus_redis_provider.core.gold.bucket_writers import BucketWriter
from nexus_redis_provider.core.gold.history import history, rollback
from nexus_redis_provider.core.gold.limits import Limits
from nexus_redis_provider.core.gold.manifests import Layout, Mode
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import AsyncGoldDataset, GoldDataset
from nexus_redis_provider.core.gold.sweeping import sweep
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.core.scripts import run
from tests.core.gold_datasets import (
    dataset_keys,
    dealt,
    keyspace,
    numbers,
    packed_batch,
    publish_packed,
    spec,
    write_packed,
)
from tests.kinds import single_server
from tests.proxies import FaultyProxy

pytestmark = pytest.mark.usefixtures("rows_may_stay")


@pytest.fixture
def packed(namespace: str) -> Any:
    return spec(namespace, layout=Layout.PACKED)


@pytest.fixture
def rows(client: redis.Redis, namespace: str) -> GoldDataset:
    return GoldDataset(client, "sales", namespace=namespace)


def buckets_of(client: redis.Redis, namespace: str) -> set[str]:
    return {key for key in keyspace(client, namespace) if ":gold:sales:" in key}


def test_rows_are_found_by_key(endpoint: Endpoint, packed: Any, rows: GoldDataset) -> None:
    published = numbers(0, 2_000, 7)
    manifest = publish_packed(endpoint, published, packed)
    assert manifest.rows == 2_000
    assert rows.get("k1234") == {"id": "k1234", "n": 7}
    assert rows.get("nobody") is None
    keys = [f"k{n}" for n in range(1_990, 2_010)]
    assert rows.get_many(keys) == [
        {"id": key, "n": 7} if key in published else None for key in keys
    ]
    assert {row["id"]: row["n"] for row in rows.scan()} == published
    assert rows.verify() == rows.manifest()


async def test_asyncio_finds_the_same(endpoint: Endpoint, packed: Any, namespace: str) -> None:
    published = numbers(0, 300)
    publish_packed(endpoint, published, packed)
    async with endpoint.async_client() as client:
        dataset = AsyncGoldDataset(client, "sales", namespace=namespace)
        assert await dataset.get("k299") == {"id": "k299", "n": 0}
        assert await dataset.get_many(["k300", "k0"]) == [None, {"id": "k0", "n": 0}]
        assert {row["id"] async for row in dataset.scan()} == set(published)


def test_buckets_are_small_and_tight(
    endpoint: Endpoint, packed: Any, client: redis.Redis, namespace: str
) -> None:
    publish_packed(endpoint, numbers(0, 10_000), packed)
    names = sorted(buckets_of(client, namespace))
    assert 10_000 / buckets.ROWS * 0.9 <= len(names) <= 10_000 / buckets.ROWS * 1.1
    encodings = {client.object("encoding", name) for name in names[:50]}
    assert encodings == {b"listpack"}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_shares_may_be_empty(
    endpoint: Endpoint, packed: Any, rows: GoldDataset, count: int
) -> None:
    publish_packed(endpoint, numbers(0, count), packed, shares=8)
    assert len(list(rows.scan())) == count
    assert rows.verify().rows == count
    assert rows.get("k5") is None


def test_readers_follow_and_versions_go(
    endpoint: Endpoint, packed: Any, rows: GoldDataset, client: redis.Redis, namespace: str
) -> None:
    first = publish_packed(endpoint, numbers(0, 500, 1), packed)
    assert rows.get("k0") == {"id": "k0", "n": 1}
    publish_packed(endpoint, numbers(0, 500, 2), packed, shares=5)
    assert rows.get("k0") == {"id": "k0", "n": 2}
    rollback(client, "sales", first.version, namespace=namespace)
    assert rows.get("k0") == {"id": "k0", "n": 1}
    last = publish_packed(endpoint, numbers(0, 500, 3), replace(packed, keep=0))
    assert {row["n"] for row in rows.scan()} == {3}
    left = keyspace(client, namespace)
    assert {key for key in left if ":gold:sales:" in key} == {
        key for key in left if f":{last.version}.a" in key
    }
    assert left - buckets_of(client, namespace) == dataset_keys(
        namespace, "head", "versions", f"manifest:{last.version}", f"attempts:{last.version}"
    )


def test_rows_expire_in_their_buckets(
    endpoint: Endpoint, packed: Any, client: redis.Redis, namespace: str
) -> None:
    manifest = publish_packed(endpoint, numbers(0, 200), replace(packed, ttl=600))
    expiries = {client.pexpiretime(name) for name in buckets_of(client, namespace)}
    assert expiries == {manifest.expires_ms}


@pytest.mark.parametrize("twice", [("k1", 1), ("k1", 2)])
def test_a_repeated_key_is_refused_before_anything_is_written(
    endpoint: Endpoint, packed: Any, client: redis.Redis, namespace: str, twice: tuple[str, int]
) -> None:
    publication = Publication.begin(endpoint, packed)
    pairs = [*numbers(0, 50).items(), twice]
    with BucketWriter(publication, 0, "a") as writer:
        writer.write(*packed_batch(pairs[:20]))
        writer.write(*packed_batch(pairs[20:]))
        with pytest.raises(DuplicateKeyError, match="k1"):
            writer.finish()
    assert not buckets_of(client, namespace)


def test_keys_with_equal_hashes_are_told_apart(
    endpoint: Endpoint, packed: Any, rows: GoldDataset
) -> None:
    twins = ("plumless", "buckeroo")
    assert zlib.crc32(twins[0].encode()) == zlib.crc32(twins[1].encode())
    published = numbers(0, 100) | {twins[1]: 1, twins[0]: 2}
    publish_packed(endpoint, published, packed)
    assert rows.get_many(twins) == [{"id": twin, "n": published[twin]} for twin in twins]
    rows.verify()


def test_null_keys_and_strays_are_refused(endpoint: Endpoint, packed: Any) -> None:
    publication = Publication.begin(endpoint, packed, 2)
    with BucketWriter(publication, 0, "a") as writer:
        keys, values, hashes = packed_batch({"a": 1})
        with pytest.raises(NullKeyError):
            writer.write(pa.array([None], pa.string()), values, hashes)
        with pytest.raises(PublishError, match="'a' came to share 0 of 2"):
            writer.write(keys, values, np.array([1], np.int64))


def test_a_losing_attempt_leaves_nothing(
    endpoint: Endpoint, packed: Any, rows: GoldDataset, client: redis.Redis, namespace: str
) -> None:
    publication = Publication.begin(endpoint, packed, 2)
    parts = dealt(numbers(0, 300, 1), 2)
    wins = [write_packed(publication, part, share, "wins") for share, part in enumerate(parts)]
    write_packed(publication, dealt(numbers(0, 300, 2), 2)[1], 1, "loses")
    manifest = publication.commit(wins)
    assert {row["n"] for row in rows.scan()} == {1}
    assert all(f":{manifest.version}.wins" in key for key in buckets_of(client, namespace))


def test_a_zombie_changes_nothing_and_leaves_nothing(
    endpoint: Endpoint, packed: Any, rows: GoldDataset, client: redis.Redis, namespace: str
) -> None:
    publication = Publication.begin(endpoint, packed)
    with BucketWriter(publication, 0, "zombie") as zombie:
        zombie.write(*packed_batch(numbers(0, 300, 2)))
        publication.commit([write_packed(publication, numbers(0, 300, 1))])
        before = keyspace(client, namespace)
        with pytest.raises(SupersededError):
            zombie.finish()
    assert keyspace(client, namespace) == before
    assert {row["n"] for row in rows.scan()} == {1}


def test_an_abandoned_version_is_swept(
    endpoint: Endpoint, packed: Any, client: redis.Redis, namespace: str
) -> None:
    publication = Publication.begin(endpoint, packed)
    write_packed(publication, numbers(0, 300))
    publication.abandon()
    assert sweep(client, GoldKeys("sales", namespace)) == [publication.version]
    assert keyspace(client, namespace) == dataset_keys(namespace, "head")


def test_a_missing_share_is_refused(endpoint: Endpoint, packed: Any) -> None:
    publication = Publication.begin(endpoint, packed, 2)
    report = write_packed(publication, dealt(numbers(0, 10), 2)[1], 1)
    with pytest.raises(PublishError, match=r"shares \[1\] were reported, not all 2"):
        publication.commit([report])
    publication.abort()


def test_buckets_that_are_not_there_are_missed(
    endpoint: Endpoint, packed: Any, rows: GoldDataset, client: redis.Redis, namespace: str
) -> None:
    publish_packed(endpoint, numbers(0, 1_000), packed)
    client.unlink(min(buckets_of(client, namespace)))
    with pytest.raises(GoldError, match="1000 with"):
        rows.verify()
    with pytest.raises(NotPublishedError):
        list(rows.scan())


def test_a_changed_value_is_found_out(
    endpoint: Endpoint, packed: Any, rows: GoldDataset, client: redis.Redis, namespace: str
) -> None:
    publish_packed(endpoint, numbers(0, 100), packed)
    bucket = min(buckets_of(client, namespace))
    name, value = next(iter(client.hgetall(bucket).items()))
    client.hset(bucket, name, value[:-1] + b"\1")
    with pytest.raises(GoldError):
        rows.verify()


def test_a_full_server_refuses_and_forgets(
    endpoint: Endpoint, packed: Any, client: redis.Redis, namespace: str
) -> None:
    unlooked = replace(packed, limits=Limits(memory_margin=None))
    publication = Publication.begin(endpoint, unlooked)
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 200_000)
    try:
        with BucketWriter(publication, 0, "a") as writer:
            writer.write(*packed_batch(numbers(0, 50_000)))
            with pytest.raises(WriteError, match="OOM"):
                writer.finish()
    finally:
        client.config_set("maxmemory", 0)
    publication.abort()
    assert keyspace(client, namespace) == dataset_keys(namespace, "head")


@single_server
@pytest.mark.parametrize("cut_at", [2_000, 20_000, 100_000])
def test_a_connection_that_breaks_is_an_error(
    endpoint: Endpoint, packed: Any, rows: GoldDataset, cut_at: int
) -> None:
    publication = Publication.begin(endpoint, packed)
    with FaultyProxy(replace(endpoint, retries=0)) as proxy:
        proxy.cut_after(cut_at)
        with pytest.raises(UnreachableError):
            write_packed(replace(publication, endpoint=proxy.endpoint), numbers(0, 20_000, 1))
    publication.commit([write_packed(publication, numbers(0, 10, 2), attempt="b")])
    assert len(list(rows.scan())) == 10


def test_upserts_are_not_packed(namespace: str) -> None:
    with pytest.raises(ConfigurationError, match="layout='packed' does not go with mode='upsert'"):
        spec(namespace, layout=Layout.PACKED, mode=Mode.UPSERT)


def test_a_reader_refuses_what_a_later_release_packed(
    endpoint: Endpoint, packed: Any, rows: GoldDataset, client: redis.Redis, namespace: str
) -> None:
    manifest = publish_packed(endpoint, numbers(0, 10), packed)
    key = GoldKeys("sales", namespace).manifest(manifest.version)
    body = client.hget(key, "body").replace(b'"packing":1', b'"packing":2')
    client.hset(key, "body", body)
    with pytest.raises(GoldError, match="packing 2"):
        rows.get("k1")
    assert run(client, history("sales", namespace=namespace)).live == manifest.version
