"""Rows that expire each at a moment of its own: which one, and what readers make of it."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from itertools import chain

import pytest

from nexus_redis_provider.core.errors import (
    ConfigurationError,
    GoldError,
    NotPublishedError,
    PublishError,
    SupersededError,
)
from nexus_redis_provider.core.gold.history import rollback
from nexus_redis_provider.core.gold.losses import have_expired
from nexus_redis_provider.core.gold.manifests import Layout, Mode
from nexus_redis_provider.core.gold.parts import plan_parts, read_part
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import AsyncGoldDataset, GoldDataset
from nexus_redis_provider.core.gold.specs import Spec
from nexus_redis_provider.core.gold.versions import Row
from nexus_redis_provider.core.gold.writers import PartitionWriter
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.core.scripts import run
from tests.core.gold_datasets import (
    dataset_keys,
    dealt,
    hashes,
    keyspace,
    numbers,
    publish,
    publish_packed,
    spec,
    version_keys,
    write,
    write_packed,
)
from tests.kinds import with_hashes

TTL = {"ttl": 600, "ttl_jitter": timedelta(seconds=300)}
ABC = {"a": 1, "b": 2, "c": 3}
LAYOUTS = [Layout.JSON, Layout.HASH]


def moment(name: str, expires_ms: int | None, jitter_ms: int = 300_000) -> int:
    """When what is called so expires."""
    assert expires_ms is not None
    return expires_ms - zlib.crc32(name.encode()) % (jitter_ms + 1)


def first_of(name: str, others: Iterable[str]) -> dict[str, float]:
    """A ttl and jitter with which one name expires after a second, and others minutes later."""
    for jitter_ms in range(600_000, 900_000):
        end = jitter_ms + 1000
        least = min(moment(other, end, jitter_ms) for other in others)
        if moment(name, end, jitter_ms) < 1100 and least > 120_000:
            return {"ttl": end / 1000, "ttl_jitter": jitter_ms / 1000}
    raise AssertionError("no such jitter")


def moments(client, prefix: str, names: Iterable[str]) -> dict[str, int]:
    return {name: client.pexpiretime(f"{prefix}{name}") for name in names}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_row_of_a_version_expires_by_its_key(endpoint, client, namespace, layout):
    rows = numbers(0, 100)
    manifest = publish(endpoint, rows, spec(namespace, layout=layout, **TTL))
    assert manifest.expires_ms == manifest.created_ms + 600_000
    assert manifest.expires_from_ms == manifest.created_ms + 300_000
    prefix = GoldKeys("sales", namespace).row_prefix(manifest.version)
    found = moments(client, prefix, rows)
    assert found == {name: moment(name, manifest.expires_ms) for name in rows}
    spread = max(found.values()) - min(found.values())
    assert 200_000 < spread <= 300_000
    of_the_version = version_keys(namespace, manifest.version, ())
    assert {client.pexpiretime(name) for name in of_the_version} == {manifest.expires_ms}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_row_that_is_upserted_expires_by_its_key(endpoint, client, namespace, layout):
    key = f"{namespace}:{{id}}"
    upsert = spec(namespace, key, layout=layout, mode=Mode.UPSERT, **TTL)
    for rows in (ABC, {"a": 9}):
        manifest = publish(endpoint, rows, upsert)
        found = moments(client, f"{namespace}:", rows)
        assert found == {name: moment(f"{namespace}:{name}", manifest.expires_ms) for name in found}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attempts_at_a_partition_agree(endpoint, client, namespace, layout):
    publication = Publication.begin(endpoint, spec(namespace, layout=layout, **TTL))
    prefix = GoldKeys("sales", namespace).row_prefix(publication.version)
    write(publication, ABC, attempt="first")
    before = moments(client, prefix, ABC)
    manifest = publication.commit([write(publication, ABC, attempt="second")])
    assert moments(client, prefix, ABC) == before
    assert set(before.values()) == {moment(name, manifest.expires_ms) for name in ABC}


@with_hashes
def test_batches_that_are_split_keep_each_row_with_its_moment(endpoint, client, namespace):
    limits = spec(namespace).limits
    slow = spec(namespace, layout=Layout.HASH, limits=replace(limits, max_rows_per_second=4000))
    publication = Publication.begin(endpoint, replace(slow, **TTL))
    rows = numbers(0, 2500)
    with PartitionWriter(publication, 0, "a") as writer:
        writer.write(*hashes(rows))
        manifest = publication.commit([writer.finish()])
    prefix = GoldKeys("sales", namespace).row_prefix(manifest.version)
    found = moments(client, prefix, ["k0", "k1700", "k2499"])
    assert found == {name: moment(name, manifest.expires_ms) for name in found}


def buckets(client, namespace: str) -> dict[str, dict[str, int]]:
    """When each source of each bucket expires, by `share.bucket`."""
    found: dict[str, dict[str, int]] = {}
    for key in keyspace(client, namespace):
        if ":gold:sales:{" in key:
            identity, _, source = key.partition("{")[2].partition("}:")
            found.setdefault(identity, {})[source] = client.pexpiretime(key)
    return found


def test_each_bucket_expires_by_its_number(endpoint, client, namespace):
    packed = spec(namespace, layout=Layout.PACKED, **TTL)
    manifest = publish_packed(endpoint, numbers(0, 500), packed)
    found = buckets(client, namespace)
    assert len(found) > 10
    for identity, sources in found.items():
        assert list(sources.values()) == [moment(identity, manifest.expires_ms)]


@pytest.mark.parametrize("ttl", [6_000, 5_000])
@pytest.mark.parametrize("jitter", [300, 500, None])
def test_no_overlay_expires_after_what_is_beneath_it(endpoint, client, namespace, ttl, jitter):
    packed = spec(namespace, layout=Layout.PACKED, mode=Mode.DELTA, ttl=5_500, ttl_jitter=300)
    first = publish_packed(endpoint, numbers(0, 600), packed)
    second = replace(packed, ttl=ttl, ttl_jitter=jitter)
    manifest = publish_packed(endpoint, numbers(0, 600) | {"k1": 1}, second)
    beneath = {name: max(of.values()) for name, of in buckets(client, namespace).items()}
    (overlaid,) = [of for of in buckets(client, namespace).values() if len(of) > 1]
    jitter_ms = (jitter or 0) * 1000
    for identity, at in beneath.items():
        newest = moment(identity, manifest.expires_ms, jitter_ms)
        assert at == max(newest, moment(identity, first.expires_ms))
    (overlay,) = [at for name, at in overlaid.items() if name.startswith(manifest.version)]
    assert overlay == min(overlaid.values())


def test_a_delta_builds_on_nothing_that_may_vanish_meanwhile(endpoint, client, namespace):
    packed = spec(namespace, layout=Layout.PACKED, mode=Mode.DELTA, ttl=800, ttl_jitter=300)
    publish_packed(endpoint, numbers(0, 200), packed)
    publish_packed(endpoint, numbers(0, 200), packed)
    assert {len(sources) for sources in buckets(client, namespace).values()} == {2}


def test_a_delta_whose_base_began_to_vanish_is_not_published(
    endpoint, client, namespace, wait_until
):
    options = {"layout": Layout.PACKED, "mode": Mode.DELTA}
    base = publish_packed(endpoint, ABC, spec(namespace, ttl=604, ttl_jitter=600, **options))
    # A lease that is short lets a delta build on rows that vanish soon; its load may take longer.
    short = spec(namespace, ttl=600, staging_lease=0.5, **options)
    publication = Publication.begin(endpoint, short)
    assert publication.base == base
    publication = replace(publication, spec=replace(short, staging_lease=60))
    assert run(client, publication.renewal()) >= 0
    parts = dealt(ABC, publication.shares)
    reports = [write_packed(publication, part, number) for number, part in enumerate(parts)]

    def began_to_vanish() -> bool:
        assert run(client, publication.renewal()) >= 0
        return run(client, have_expired(GoldKeys("sales", namespace), base))

    wait_until(began_to_vanish)
    with pytest.raises(SupersededError, match="Publish again"):
        publication.commit(reports)
    publication.abort()
    # What is there is written as a whole.
    assert publish_packed(endpoint, ABC, spec(namespace, ttl=600, **options)).rows == 3


def test_what_an_expired_overlay_has_covered_does_not_come_back(
    endpoint, client, namespace, wait_until
):
    packed = spec(namespace, layout=Layout.PACKED, mode=Mode.DELTA, ttl=6_000)
    publish_packed(endpoint, {"a": 1, "b": 1, "c": 1}, packed, shares=1)
    short = replace(packed, **first_of("0.0", ["1.0"]))
    manifest = publish_packed(endpoint, {"a": 2, "b": 1, "c": 1}, short, shares=1)
    rows = GoldDataset(client, "sales", namespace=namespace)
    assert rows.get("a") == {"id": "a", "n": 2}
    overlay = GoldKeys("sales", namespace).bucket(f"{manifest.version}.a", 0, 0)
    assert client.exists(overlay)
    wait_until(lambda: not client.exists(overlay))
    assert rows.get_many(["a", "b"]) == [None, None]
    assert list(rows.scan()) == []
    assert rows.verification().expired == 3


def plan_of(namespace: str, layout: Layout) -> Spec:
    """Of a dataset of `a`, `b` and `c`, of which `a` expires after a second."""
    if layout is Layout.PACKED:
        return spec(namespace, layout=layout, **first_of("0.0", ["1.0", "2.0"]))
    return spec(namespace, layout=layout, **first_of("a", "bc"))


def by_id(rows: Iterable[Row]) -> dict[str, int]:
    return {row["id"]: row["n"] for row in rows}


@pytest.mark.parametrize("layout", Layout)
async def test_readers_miss_what_has_expired_and_nothing_else(
    *, endpoint, client, namespace, wait_until, layout
):
    plan = plan_of(namespace, layout)
    make = publish_packed if layout is Layout.PACKED else publish
    # Of three shares, each has one row: `a` is in the first.
    names = {zlib.crc32(f"k{n}".encode()) % 3: f"k{n}" for n in range(30)}
    first, *others = [names[n] for n in range(3)] if layout is Layout.PACKED else "abc"
    manifest = make(endpoint, {first: 1, others[0]: 2, others[1]: 3}, plan)
    rows = GoldDataset(client, "sales", namespace=namespace)
    keys = GoldKeys("sales", namespace)
    row = f"{keys.row_prefix(manifest.version)}{first}"
    if layout is Layout.PACKED:
        row = keys.bucket(f"{manifest.version}.a", 0, 0)
    assert rows.get(first) == {"id": first, "n": 1}
    wait_until(lambda: not client.exists(row))

    left = [{"id": name, "n": n} for n, name in enumerate(others, 2)]
    assert rows.get_many([first, *others]) == [None, *left]
    assert by_id(rows.scan()) == by_id(left)
    assert rows.verify() == manifest
    assert rows.verification().expired == 1
    read = (read_part(client, keys, manifest, one) for one in plan_parts(client, keys, manifest, 9))
    assert sorted(name.decode() for name, _ in chain(*chain(*read))) == sorted(others)
    async with endpoint.async_client() as async_client:
        twin = AsyncGoldDataset(async_client, "sales", namespace=namespace)
        assert await twin.get_many([first, *others]) == [None, *left]
        assert by_id([row async for row in twin.scan()]) == by_id(left)

    newer = make(endpoint, {first: 9}, replace(plan, ttl=None, ttl_jitter=None))
    assert rows.get(first) == {"id": first, "n": 9}
    assert rollback(client, "sales", namespace=namespace) == manifest
    assert rows.get_many([first, *others]) == [None, *left]
    make(endpoint, {first: 9}, replace(plan, keep=0, ttl=60, ttl_jitter=None))
    assert not [key for key in keyspace(client, namespace) if manifest.version in key]
    assert not [key for key in keyspace(client, namespace) if newer.version in key]


@pytest.mark.parametrize("layout", Layout)
def test_what_is_missing_before_anything_expires_was_lost(endpoint, client, namespace, layout):
    make = publish_packed if layout is Layout.PACKED else publish
    manifest = make(endpoint, ABC, spec(namespace, layout=layout, **TTL))
    keys, rows = GoldKeys("sales", namespace), GoldDataset(client, "sales", namespace=namespace)
    lost = next(key for key in keyspace(client, namespace) if ":gold:sales:" in key)
    client.unlink(lost)
    with pytest.raises(GoldError, match="rows with checksum"):
        rows.verify()
    with pytest.raises(NotPublishedError):
        list(rows.scan())
    (part,) = plan_parts(client, keys, manifest, 1)
    with pytest.raises(GoldError, match="removed or expired"):
        list(read_part(client, keys, manifest, part))


def test_a_scan_tells_rows_that_expired_from_a_version_that_was_removed(
    endpoint, client, namespace, wait_until
):
    plan = spec(namespace, keep=0, **first_of("a", "b"))
    manifest = publish(endpoint, {"a": 1} | numbers(0, 2500), plan)
    row = f"{GoldKeys('sales', namespace).row_prefix(manifest.version)}a"
    wait_until(lambda: not client.exists(row))
    scan = GoldDataset(client, "sales", namespace=namespace).scan()
    assert next(scan)["id"] == "k0"
    # As a sweep begins, which has not come to the manifest yet.
    client.zrem(GoldKeys("sales", namespace).versions, manifest.version)
    client.unlink(row.removesuffix("a") + "k2499")
    with pytest.raises(NotPublishedError):
        list(scan)


def test_a_load_that_outlasts_the_first_row_replaces_nothing(
    endpoint, client, namespace, wait_until
):
    manifest = publish(endpoint, ABC, spec(namespace, ttl=60))
    plan = spec(namespace, ttl=600.05, ttl_jitter=600)
    publication = Publication.begin(endpoint, plan)
    report = write(publication, {"b": 2})
    first_s = publication.expires_from_ms / 1000
    wait_until(lambda: client.time() > (int(first_s), (first_s % 1) * 1_000_000))
    with pytest.raises(PublishError, match="ttl"):
        publication.commit([report])
    assert GoldDataset(client, "sales", namespace=namespace).verify() == manifest
    publication.abort()
    rest = dataset_keys(namespace, "head", "versions")
    assert keyspace(client, namespace) == rest | version_keys(namespace, manifest.version, ABC)


@pytest.mark.parametrize(
    "options",
    [
        {"ttl_jitter": 1},
        {"ttl": 10, "ttl_jitter": 10},
        {"ttl": timedelta(seconds=10), "ttl_jitter": 10.001},
        {"ttl": 10, "ttl_jitter": 0},
        {"ttl": 10, "ttl_jitter": -1},
        {"ttl": 10, "ttl_jitter": float("nan")},
        {"ttl": 10, "ttl_jitter": True},
        {"ttl": 10, "ttl_jitter": "1"},
    ],
)
def test_a_jitter_that_is_none_is_refused(namespace, options):
    with pytest.raises(ConfigurationError, match="ttl_jitter"):
        spec(namespace, **options)
