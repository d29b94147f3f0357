"""Datasets on a Cluster: every layout and mode, its rows on all nodes."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import pyarrow as pa
import pytest
import redis

from nexus_redis_provider.cli.main import main
from nexus_redis_provider.core.clusters import primaries_of
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    DuplicateKeyError,
    NoRoomError,
    PublishError,
    StaleFenceError,
    SupersededError,
    WriteError,
)
from nexus_redis_provider.core.gold import bucket_writers
from nexus_redis_provider.core.gold.batches import Plan, begin_batch
from nexus_redis_provider.core.gold.history import rollback
from nexus_redis_provider.core.gold.limits import Limits
from nexus_redis_provider.core.gold.manifests import Layout, Manifest, Mode
from nexus_redis_provider.core.gold.parts import plan_parts, read_part
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import AsyncGoldDataset, GoldDataset, Verification
from nexus_redis_provider.core.gold.specs import Report
from nexus_redis_provider.core.gold.sweeping import sweep
from nexus_redis_provider.core.gold.tables import publish_table
from nexus_redis_provider.core.gold.writers import PartitionWriter
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.embedded import find_server
from tests.conftest import need_server
from tests.core.gold_datasets import (
    batch,
    dealt,
    numbers,
    packed_batch,
    publish,
    publish_packed,
    spec,
    write,
    write_packed,
)
from tests.gold_faults import DELTA, JSON, PACKED, Shape, assert_nothing_left
from tests.topologies import ClusterDeployment

pytestmark = pytest.mark.usefixtures("rows_may_stay", "small_batches")

SHAPES = (JSON, PACKED, DELTA)


@pytest.fixture
def endpoint(deployment: ClusterDeployment) -> Endpoint:
    return deployment.endpoint


def published(
    endpoint: Endpoint, shape: Shape, namespace: str, version: int, **options: Any
) -> Manifest:
    plan = spec(namespace, layout=shape.layout, mode=shape.mode, **options)
    publish_as: Any = publish_packed if shape.layout is Layout.PACKED else publish
    manifest: Manifest = publish_as(endpoint, shape.rows(version), plan)
    return manifest


def write_all(writer: PartitionWriter, rows: dict[str, int], per_batch: int = 100) -> Report:
    """The rest of an attempt."""
    names = list(rows)
    for start in range(0, len(names), per_batch):
        writer.write(*batch({name: rows[name] for name in names[start : start + per_batch]}))
    return writer.finish()


def rows_of(dataset: GoldDataset) -> dict[str, int]:
    return {row["id"]: row["n"] for row in dataset.scan()}


def rows_by_node(client: redis.Redis, namespace: str, version: str) -> list[int]:
    """How many keys of rows, or of buckets, of a version each node has."""
    patterns = (f"{namespace}:gold:sales:{version}:*", f"{namespace}:gold:sales:*:{version}.*")
    return [
        sum(len(list(one.client.scan_iter(pattern, count=10_000))) for pattern in patterns)
        for one in primaries_of(client)
    ]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_versions_are_published_read_verified_rolled_back_and_swept(  # noqa: PLR0917
    endpoint: Endpoint,
    client: redis.Redis,
    namespace: str,
    keys: GoldKeys,
    dataset: GoldDataset,
    shape: Shape,
) -> None:
    first = published(endpoint, shape, namespace, 1)
    assert dataset.verify() == first
    assert all(rows_by_node(client, namespace, first.version))
    for version in range(2, 6):
        latest = published(endpoint, shape, namespace, version)
        assert dataset.verify() == latest
        assert rows_of(dataset) == shape.rows(version)
    assert dataset.get("k10") == {"id": "k10", "n": 5}
    rollback(client, "sales", namespace=namespace)
    dataset.verify()
    assert rows_of(dataset) == shape.rows(4)
    assert_nothing_left(client, keys)
    if shape.mode is Mode.SNAPSHOT:
        assert not any(rows_by_node(client, namespace, first.version))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_expire(
    endpoint: Endpoint, client: redis.Redis, namespace: str, dataset: GoldDataset, shape: Shape
) -> None:
    for version in (1, 2):
        manifest = published(endpoint, shape, namespace, version, ttl=600)
    assert dataset.verify() == manifest
    found = [*client.scan_iter(f"{namespace}:gold:sales:*", count=10_000)]
    assert len(found) > 10
    assert all(0 < client.ttl(key) <= 600 for key in found)


@pytest.mark.parametrize("how", [Publication.begin, Plan.make], ids=["begin", "plan"])
def test_other_layouts_are_refused_by_name(
    endpoint: Endpoint, client: redis.Redis, namespace: str, how: Any
) -> None:
    for layout in Layout:
        if layout in (Layout.JSON, Layout.PACKED):
            how(endpoint, spec(namespace, layout=layout))
            continue
        before = sorted(client.scan_iter(f"{namespace}*"))
        with pytest.raises(
            ConfigurationError, match=f"layout='{layout}' .*layout='json' or layout='packed'"
        ):
            how(endpoint, spec(namespace, layout=layout))
        assert sorted(client.scan_iter(f"{namespace}*")) == before


# Rival attempts.


def dead(publication: Publication, rows: dict[str, int], attempt: str = "first") -> None:
    """An attempt that has written these rows, and nothing after them."""
    with PartitionWriter(publication, 0, attempt) as writer:
        writer.write(*batch(rows))


@pytest.mark.parametrize("written", [1, 150, 400])
def test_a_second_attempt_publishes_exactly(  # noqa: PLR0917
    endpoint: Endpoint,
    client: redis.Redis,
    namespace: str,
    keys: GoldKeys,
    dataset: GoldDataset,
    written: int,
) -> None:
    publication = Publication.begin(endpoint, spec(namespace))
    dead(publication, numbers(0, written, 1))
    dead(publication, {"a": 1, "b": 1}, attempt="third")
    report = write(publication, numbers(0, 400, 2), attempt="second")
    assert publication.commit([report]) == dataset.verify()
    assert rows_of(dataset) == numbers(0, 400, 2)
    assert_nothing_left(client, keys)


def test_a_key_that_is_repeated_is_refused(endpoint: Endpoint, namespace: str) -> None:
    publication = Publication.begin(endpoint, spec(namespace))
    with pytest.raises(DuplicateKeyError, match="'k7'"):
        write(publication, [*numbers(0, 250).items(), ("k7", 7)])
    publication = Publication.begin(endpoint, spec(namespace))
    write(publication, numbers(0, 250), partition=1)
    with pytest.raises(DuplicateKeyError, match="'k249'"):
        write(publication, numbers(249, 250), partition=2)


def test_a_rival_that_is_slower_changes_nothing_after_the_publish(
    endpoint: Endpoint, client: redis.Redis, namespace: str, keys: GoldKeys, dataset: GoldDataset
) -> None:
    publication = Publication.begin(endpoint, spec(namespace))
    with (
        PartitionWriter(publication, 0, "slow") as slow,
        PartitionWriter(publication, 0, "last") as last,
    ):
        slow.write(*batch({"a": 1}))
        last.write(*batch({"b": 1, "c": 1}))
        last._settle()
        other = write(publication, {"x": 2}, partition=1)
        fast = write(publication, {"a": 2, "b": 2}, attempt="fast")
        manifest = publication.commit([fast, other])
        for late in (slow, last):
            # The last one is a row of another partition.
            with pytest.raises(SupersededError):
                write_all(late, {"b": 1, "d": 1, "x": 1})
    assert dataset.verify() == manifest
    assert rows_of(dataset) == {"a": 2, "b": 2, "x": 2}
    assert_nothing_left(client, keys)


def late_rows(writer: Any, publication: Publication) -> None:
    """Rows come to their nodes after the version was given up and swept."""
    send_first = writer._stream._send_to_owners

    def give_up(*things: Any) -> Any:
        publication.abort()
        return send_first(*things)

    writer._stream._send_to_owners = give_up


def test_a_writer_of_an_aborted_version_leaves_nothing(
    endpoint: Endpoint, client: redis.Redis, namespace: str
) -> None:
    publication = Publication.begin(endpoint, spec(namespace))
    with PartitionWriter(publication, 0, "a") as writer:
        writer.write(*batch(numbers(0, 300)))
        late_rows(writer, publication)
        with pytest.raises(SupersededError, match="gone"):
            write_all(writer, numbers(300, 300))
    assert not any(rows_by_node(client, namespace, publication.version))


def test_a_writer_of_buckets_of_an_aborted_version_leaves_nothing(
    endpoint: Endpoint, client: redis.Redis, namespace: str
) -> None:
    publication = Publication.begin(endpoint, spec(namespace, layout=Layout.PACKED))
    with bucket_writers.BucketWriter(publication, 0, "a") as writer:
        writer.write(*packed_batch(numbers(0, 300)))
        late_rows(writer, publication)
        with pytest.raises(SupersededError, match="gone"):
            writer.finish()
    assert not any(rows_by_node(client, namespace, publication.version))


# Upserts.


def upsert(namespace: str, **options: Any) -> Any:
    return spec(namespace, f"{namespace}:{{id}}", mode=Mode.UPSERT, **options)


def test_rows_are_upserted_under_keys_of_any_client(
    endpoint: Endpoint,
    client: redis.Redis,
    namespace: str,
    dataset: GoldDataset,
    permanent: list[str],
) -> None:
    permanent.append(f"{namespace}:k*")
    publish(endpoint, numbers(0, 300, 1), upsert(namespace))
    publish(endpoint, numbers(200, 200, 2) | {"{x}y": 2, "{}": 2}, upsert(namespace, ttl=600))
    assert client.get(f"{namespace}:k250") == b'{"id":"k250","n":2}'
    assert client.get(f"{namespace}:k150") == b'{"id":"k150","n":1}'
    assert 0 < client.ttl(f"{namespace}:{{x}}y") <= 600
    assert client.get(f"{namespace}:{{}}") == b'{"id":"{}","n":2}'
    assert dataset.get("k399") == {"id": "k399", "n": 2}


def test_an_older_fence_stops_an_upsert_at_its_next_batch(
    endpoint: Endpoint, client: redis.Redis, namespace: str
) -> None:
    older = Publication.begin(endpoint, upsert(namespace, fence=1, ttl=600))
    with PartitionWriter(older, 0, "a") as writer:
        writer.write(*batch({"a": 1}, f"{namespace}:"))
        publish(endpoint, {"a": 2, "b": 2}, upsert(namespace, fence=2, ttl=600))
        with pytest.raises(StaleFenceError):
            writer.write(*batch({"a": 1, "b": 1, "c": 1}, f"{namespace}:"))
    assert client.get(f"{namespace}:b") == b'{"id":"b","n":2}'
    assert client.get(f"{namespace}:c") is None


def test_a_micro_batch_is_applied_once(
    endpoint: Endpoint, client: redis.Redis, namespace: str
) -> None:
    plan = upsert(namespace, ttl=600)
    runs = [Plan.make(endpoint, plan) for _ in range(2)]
    older, newer = (begin_batch(endpoint, plan, run, "query", 0) for run in runs)
    assert older is not None
    assert newer is not None
    with PartitionWriter(older, 0, "a") as writer, pytest.raises(SupersededError):
        writer.write(*batch({"a": 1}, f"{namespace}:"))
    newer.commit([write(newer, {"a": 2})])
    assert client.get(f"{namespace}:a") == b'{"id":"a","n":2}'
    assert begin_batch(endpoint, plan, runs[1], "query", 0) is None


# Limits.


def test_writers_and_rows_are_limited(
    endpoint: Endpoint, namespace: str, dataset: GoldDataset
) -> None:
    limits = Limits(max_writers=1, max_rows_per_second=5_000)
    publication = Publication.begin(endpoint, spec(namespace, limits=limits))
    with PartitionWriter(publication, 0, "a") as one, PartitionWriter(publication, 1, "a") as other:
        for start in range(0, 600, 200):
            one.write(*batch(numbers(start, 100)))
            other.write(*batch(numbers(start + 100, 100)))
            assert not one._stream._lines  # type: ignore[attr-defined]
        publication.commit([one.finish(), other.finish()])
    assert dataset.verify().rows == 600


BIG = {f"k{n}-{'x' * 500}": n for n in range(20_000)}


def load(publication: Publication) -> None:
    if publication.spec.layout is Layout.PACKED:
        write_packed(publication, BIG)
        return
    with PartitionWriter(publication, 0, "a") as writer:
        write_all(writer, BIG, per_batch=2_000)


@pytest.mark.parametrize("shape", [JSON, PACKED], ids=str)
def test_a_node_that_is_full_refuses_the_rows_by_its_name(shape: Shape) -> None:
    need_server(find_server)
    options = ("--maxmemory-policy", "noeviction")
    with ClusterDeployment(server_options=options) as deployment:
        endpoint, keys = deployment.endpoint, GoldKeys("sales", "full")
        published(endpoint, shape, "full", 1)
        # Not that of the dataset's own keys, so that a row is what it refuses.
        full = next(iter(deployment.owners() - {deployment.server_of(keys.head)}))
        with full.endpoint.client() as node:
            node.config_set("maxmemory", node.info("memory")["used_memory"] + 500_000)
        unchecked = spec("full", layout=shape.layout, limits=Limits(memory_margin=None))
        publication = Publication.begin(endpoint, unchecked)
        with pytest.raises(WriteError, match=rf"OOM .*\(at 127.0.0.1:{full.port}\)"):
            load(publication)
        publication.abort()
        with endpoint.client() as client:
            dataset = GoldDataset(client, "sales", namespace="full")
            assert rows_of(dataset) == shape.rows(1)
            assert_nothing_left(client, keys)
        # Where room is looked for, it is the fullest node that counts.
        expecting = replace(unchecked, limits=Limits(expected_rows=20_000))
        with pytest.raises(NoRoomError, match=f"to be written to 127.0.0.1:{full.port}"):
            load(Publication.begin(endpoint, expecting))


def test_what_any_node_evicts_fails_the_publish() -> None:
    need_server(find_server)
    options = ("--maxmemory-policy", "allkeys-lru")
    with ClusterDeployment(server_options=options) as deployment:
        endpoint, own = deployment.endpoint, deployment.server_of(GoldKeys("sales", "full").head)
        evicting = next(iter(deployment.owners() - {own}))
        with evicting.endpoint.client() as node:
            node.config_set("maxmemory", node.info("memory")["used_memory"] + 500_000)
        unchecked = spec("full", limits=Limits(memory_margin=None))
        publication = Publication.begin(endpoint, unchecked)
        with PartitionWriter(publication, 0, "a") as writer:
            report = write_all(writer, BIG, per_batch=2_000)
        with pytest.raises(PublishError, match=rf"127.0.0.1:{evicting.port} evicted \d+ key"):
            publication.commit([report])


# Faces.


def test_a_table_is_published(endpoint: Endpoint, namespace: str, dataset: GoldDataset) -> None:
    table = pa.table({"shop": [f"s{n}" for n in range(1_000)], "n": range(1_000)})
    for layout, mode in (("json", "snapshot"), ("packed", "snapshot"), ("packed", "delta")):
        manifest = publish_table(
            table, "sales", key="shop", endpoint=endpoint, layout=layout, mode=mode,
            namespace=namespace,
        )  # fmt: skip
        assert dataset.verify() == manifest
        assert dataset.get("s7") == {"shop": "s7", "n": 7}


def test_the_command_line_shows_and_sweeps(
    deployment: ClusterDeployment,
    namespace: str,
    keys: GoldKeys,
    capsys: pytest.CaptureFixture[str],
) -> None:
    endpoint, options = deployment.endpoint, ["--url", deployment.url, "--namespace", namespace]
    manifest = published(endpoint, JSON, namespace, 1)
    publication = Publication.begin(endpoint, spec(namespace))
    with PartitionWriter(publication, 0, "a") as writer:
        writer.write(*batch(numbers(0, 300)))

    def says(*words: str) -> Any:
        assert main([*options, "gold", *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert [one["dataset"] for one in says("list")] == ["sales"]
    assert manifest.version in json.dumps(says("show", "sales"))
    with endpoint.client() as client:
        client.zadd(keys.staging, {publication.version: 1}, xx=True)  # The lease runs out.
    assert publication.version in json.dumps(says("sweep"))
    with endpoint.client() as client:
        assert not any(rows_by_node(client, namespace, publication.version))
        assert sweep(client, keys) == []
        assert_nothing_left(client, keys)


def test_rows_of_each_share_are_dealt_to_all_nodes(endpoint: Endpoint, namespace: str) -> None:
    publication = Publication.begin(endpoint, spec(namespace, layout=Layout.PACKED), 2)
    parts = dealt(numbers(0, 2_000), 2)
    publication.commit([write_packed(publication, part, n) for n, part in enumerate(parts)])
    with endpoint.client() as client:
        found = rows_by_node(client, namespace, publication.version)
    assert min(found) > max(found) / 3


async def test_rows_that_say_when_they_expire(
    endpoint: Endpoint, client: redis.Redis, dataset: GoldDataset, keys: GoldKeys, namespace: str
) -> None:
    past, soon = datetime(2020, 1, 1, tzinfo=UTC), datetime.now(UTC).replace(microsecond=0)
    moments = [past, soon + timedelta(hours=1), soon + timedelta(hours=2)] * 100
    table = pa.table({"id": [f"k{n}" for n in range(300)], "until": moments})
    where = {"endpoint": endpoint, "namespace": namespace}
    manifest = publish_table(table, "sales", key="id", ttl_column="until", **where)
    expiries = {int(at.timestamp() * 1000) for at in moments}
    prefix = keys.row_prefix(manifest.version)
    assert [client.pexpiretime(f"{prefix}k{n}") for n in range(3)] == [-2, *sorted(expiries)[1:]]
    others = [keys.manifest(manifest.version), keys.page(manifest.version, "0.table", 0)]
    assert {client.pexpiretime(name) for name in others} == {max(expiries)}
    assert dataset.verification() == Verification(manifest, 100)
    left = {f"k{n}" for n in range(300) if n % 3}
    assert {row["id"] for row in dataset.scan()} == left
    parts = plan_parts(client, keys, manifest, 3)
    found = chain.from_iterable(read_part(client, keys, manifest, part) for part in parts)
    assert {name.decode() for name, _ in chain.from_iterable(found)} == left
    async with endpoint.async_client() as async_client:
        twin = AsyncGoldDataset(async_client, "sales", namespace=namespace)
        assert {row["id"] async for row in twin.scan()} == left


def test_buckets_expire_each_at_its_moment(
    endpoint: Endpoint, client: redis.Redis, keys: GoldKeys, namespace: str
) -> None:
    manifest = published(endpoint, PACKED, namespace, 0, ttl=600, ttl_jitter=300)
    for number, share in enumerate(manifest.shares):
        for bucket in range(share.buckets):
            name = keys.bucket(f"{manifest.version}.{share.task}", number, bucket)
            before = zlib.crc32(b"%d.%d" % (number, bucket)) % 300_001
            assert client.pexpiretime(name) == manifest.created_ms + 600_000 - before
