"""What users of each role do, once, as our code does it: on a server where only that is allowed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest

from nexus_redis_provider.core.backups.creating import create_backup
from nexus_redis_provider.core.diagnosis import diagnose
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import DuplicateKeyError
from nexus_redis_provider.core.fills import fill_once
from nexus_redis_provider.core.gold.batches import Plan, begin_batch
from nexus_redis_provider.core.gold.events import Follower
from nexus_redis_provider.core.gold.history import datasets, history, rollback
from nexus_redis_provider.core.gold.limits import Limits
from nexus_redis_provider.core.gold.manifests import Layout, Mode
from nexus_redis_provider.core.gold.parts import kept_manifest, plan_parts, read_part
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import AsyncGoldDataset, GoldDataset
from nexus_redis_provider.core.gold.sweeping import sweep
from nexus_redis_provider.core.gold.tables import publish_table
from nexus_redis_provider.core.gold.unpublishing import unpublish
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.core.keyspace import walks, weights
from nexus_redis_provider.core.monitoring import infos, latencies, slow_logs
from nexus_redis_provider.core.requirements import Requirement
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.core.tags import astamp, invalidate, stamp
from nexus_redis_provider.core.warmth import aprobe, probe
from tests.core.gold_datasets import spec, write, write_packed
from tests.core.test_lock_rights import operate, use_everything, use_replicas

Job = Callable[[Endpoint], None]

ROWS = pa.table({"id": [f"k{n}" for n in range(300)], "n": list(range(300))})
TOUCHED = pa.table({"id": [f"k{n}" for n in range(300)], "n": [7, *range(1, 300)]})
CHANGED = pa.table({"id": ["k0", "k1", "new"], "n": [0, 7, 8]})
LASTING = ROWS.append_column("lasts", pa.array([3600] * 299 + [None]))
LAYOUTS = {"json": Mode.SNAPSHOT, "hash": Mode.SNAPSHOT, "packed": Mode.DELTA}


def read_from_replicas(endpoint: Endpoint) -> None:
    """What may be stale, by clients of both kinds; no right is missing, whatever a replica has."""
    lenient = replace(endpoint, read_from="replica")
    with lenient.read_client() as client:
        client.get("nexus:gold:{a}:head")

    async def read() -> None:
        async with lenient.async_read_client() as client:
            await client.get("nexus:gold:{a}:head")

    asyncio.run(read())


def publish_in_every_way(endpoint: Endpoint) -> None:
    """All layouts and modes; with expiry, limits and a fence; over again; and away."""
    tokens = count(1)
    for layout, mode in LAYOUTS.items():
        for more in ({}, {"ttl": 3600}, {"ttl": 3600, "ttl_jitter": 60}):
            for table in (ROWS, TOUCHED, CHANGED, ROWS):
                publish_table(
                    table, layout, key="id", layout=layout, mode=mode, endpoint=endpoint,
                    fence=next(tokens), **more,
                )  # fmt: skip
    limits = Limits(max_rows_per_second=100_000, max_writers=1, expected_rows=300)
    for layout in ("json", "hash"):
        for more in ({}, {"ttl": 3600}):
            publish_table(
                ROWS, "upserted", key="nexus:gold:mine:{id}", layout=layout, mode="upsert",
                endpoint=endpoint, limits=limits, fence=next(tokens), **more,
            )  # fmt: skip
    for layout in ("json", "hash"):
        publish_table(
            LASTING, "lasting", key="id", layout=layout, ttl_column="lasts", endpoint=endpoint
        )
    publish_table(ROWS, "limited", key="id", endpoint=endpoint, limits=limits)
    with pytest.raises(DuplicateKeyError):
        publish_table(pa.concat_tables([ROWS, ROWS]), "json", key="id", endpoint=endpoint)
    fail_and_repeat(endpoint)
    with endpoint.client() as client:
        for dataset in LAYOUTS:
            rollback(client, dataset)
            sweep(client, GoldKeys(dataset))
            unpublish(client, dataset)
            sweep(client, GoldKeys(dataset))
            token = next(tokens)
            publish_table(
                CHANGED, dataset, key="id", layout=dataset, endpoint=endpoint, fence=token
            )


def fail_and_repeat(endpoint: Endpoint) -> None:
    """Attempts that meet the rows of others, and a publish that is given up."""
    for layout, attempt in (
        (Layout.JSON, write),
        (Layout.HASH, write),
        (Layout.PACKED, write_packed),
    ):
        what = spec("nexus", dataset=f"tried_{layout}", layout=layout)
        for mode in (Mode.SNAPSHOT, Mode.DELTA) if layout is Layout.PACKED else (Mode.SNAPSHOT,):
            publication = Publication.begin(endpoint, replace(what, mode=mode))
            attempt(publication, {"a": 1, "b": 2}, 0, "lost")
            publication.commit([attempt(publication, {"a": 1, "b": 2}, 0, "again")])
        publication = Publication.begin(endpoint, what)
        attempt(publication, {"c": 1}, 0, "a")
        publication.abort()


def stream(endpoint: Endpoint) -> None:
    """A micro-batch of a streaming query, and its repetition."""
    what = spec("nexus", "nexus:gold:streamed:{id}", dataset="streamed", mode=Mode.UPSERT)
    plan = Plan.make(endpoint, what)
    publication = begin_batch(endpoint, what, plan, "q", 1)
    assert publication is not None
    publication.commit([write(publication, {"a": 1, "b": 2})])
    assert begin_batch(endpoint, what, plan, "q", 1) is None


def read_in_every_way(endpoint: Endpoint) -> None:
    """What `publish_in_every_way` left."""
    with endpoint.client() as client:
        for name in LAYOUTS:
            # As a client whose connection was idle for a while.
            client.ping()
            dataset = GoldDataset(client, name)
            assert dataset.get("new") == {"id": "new", "n": 8}
            assert dataset.get_many(["k0", "gone"])[1] is None
            assert len(list(dataset.scan())) == 3
            assert dataset.verify().rows == 3
            asyncio.run(_read_async(endpoint, name))


async def _read_async(endpoint: Endpoint, name: str) -> None:
    async with endpoint.async_client() as client:
        dataset = AsyncGoldDataset(client, name)
        assert await dataset.get("new") == {"id": "new", "n": 8}
        assert len([row async for row in dataset.scan()]) == 3


def read_in_parts(endpoint: Endpoint) -> None:
    """As `spark.read` does."""
    with endpoint.client() as client:
        for name in LAYOUTS:
            keys = GoldKeys(name)
            manifest = kept_manifest(client, keys, GoldDataset(client, name).manifest().version)
            parts = plan_parts(client, keys, manifest, 2)
            assert (
                sum(len(rows) for p in parts for rows in read_part(client, keys, manifest, p)) == 3
            )


def read_plainly(endpoint: Endpoint) -> None:
    """As any client does, without this package."""
    with endpoint.client() as client:
        version = {name: client.hget(GoldKeys(name).head, "live").decode() for name in LAYOUTS}
        row = {name: f"{GoldKeys(name).row_prefix(version[name])}new" for name in LAYOUTS}
        assert b'"n":8' in client.get(row["json"])
        assert client.hget(row["hash"], "n") == b"8"
        assert client.hmget(row["hash"], "id", "n") == [b"new", b"8"]
        assert client.hgetall(row["hash"]) == {b"id": b"new", b"n": b"8"}
        assert client.mget(row["json"], "nexus:gold:none") == [client.get(row["json"]), None]


def stamp_entries(endpoint: Endpoint) -> None:
    """As who caches something, for the first time and again."""
    with endpoint.client() as client:
        assert stamp(client, ["a", "b"]) == asyncio.run(_stamp_async(endpoint))


async def _stamp_async(endpoint: Endpoint) -> str:
    async with endpoint.async_client() as client:
        return await astamp(client, ["b", "a"])


def invalidate_entries(endpoint: Endpoint) -> None:
    """As who knows that they are stale."""
    with endpoint.client() as client:
        before = stamp(client, ["a", "b"])
        assert invalidate(client, ["a", "b"])
        assert stamp(client, ["a", "b"]) != before


def lock(endpoint: Endpoint) -> None:
    """Hold, wait, steal, confirm, look and break."""
    use_everything(endpoint)
    use_replicas(endpoint)
    operate(endpoint)


def gate(endpoint: Endpoint) -> None:
    """What sensors and triggers do, and `fill`."""
    wanted = [
        Requirement(dataset="json", min_rows=1),
        Requirement(keys=("nexus:fill:a", "nexus:fill:b"), min_ttl=1),
        Requirement(pattern="nexus:fill:*", min_rows=2, min_ttl=1),
    ]
    fill_once(endpoint, wanted[1], lambda keys: dict.fromkeys(keys, 1), ttl=60)
    fill_once(endpoint, wanted[2], lambda _: {"nexus:fill:c": {"a": 1}}, ttl=60)

    with endpoint.client() as client:
        assert all(probe(client, requirement).is_warm for requirement in wanted)
    asyncio.run(_look(endpoint, wanted))
    asyncio.run(_follow(endpoint))


async def _look(endpoint: Endpoint, wanted: list[Requirement]) -> None:
    async with endpoint.async_client() as client:
        for requirement in wanted:
            assert (await aprobe(client, requirement)).is_warm


async def _follow(endpoint: Endpoint) -> None:
    """The first time it begins at the end; then where it was."""
    async with endpoint.async_client() as client:
        await client.hdel(GoldKeys("followed").watchers, "me")
    for _ in range(2):
        publish_table(CHANGED, "followed", key="id", endpoint=endpoint)
        async with Follower(endpoint, "followed", "me") as follower, asyncio.timeout(20):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    event = await anext(follower.events())
                    await follower.heard(event.id)


def inspect(endpoint: Endpoint) -> None:
    """What the hook and the command line show of a server, its keys and its datasets."""
    assert diagnose(endpoint)
    with endpoint.client() as client:
        assert set(LAYOUTS) <= set(datasets(client))
        assert run(client, history("json")).live
        for kind in ("string", "hash", "zset", "stream"):
            assert weights.big_keys(client, "nexus:*", top=1000)
            assert list(walks.scan(client, "nexus:*", kind=kind))
        assert weights.weigh(client, "nexus:*").keys
        assert weights.memory_of(client, ["nexus:fill:a"])
        assert walks.delete(client, "nexus:fill:*").deleted
        assert infos.server_infos(client)
        slow_logs.slow_log(client)
        latencies.latency_events(client)
        assert latencies.ping(client, 1)


def back_up(endpoint: Endpoint) -> None:
    """Snapshots that the servers send."""
    with endpoint.client() as client, TemporaryDirectory() as folder:
        client.ping()
        # Counted by the server: a tool that reads its files may not be at hand.
        assert create_backup(client, Path(folder)).manifest.databases[0].keys


JOBS: dict[str, tuple[Job, ...]] = {
    "spark": (
        *(publish_in_every_way, stream, read_in_every_way, read_in_parts, read_plainly),
        stamp_entries,
    ),
    "airflow": (
        *(lock, publish_in_every_way, read_in_every_way, gate, inspect),
        *(stamp_entries, invalidate_entries),
    ),
    "api": (read_in_every_way, read_plainly, stamp_entries),
    "backup": (back_up,),
}
