"""Rows by key, beside the bare commands that fetch them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import struct
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

import redis

from nexus_redis_provider.core.gold.buckets import bucket_of, share_of
from nexus_redis_provider.core.gold.readers import AsyncGoldDataset, GoldDataset
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.embedded import EmbeddedServer
from nexus_redis_provider.spark import NexusRedisDataSource, publish
from tests.benchmarks.frames import KEY, frame, session
from tests.benchmarks.tables import heading, table

_LAYOUTS = ("json", "packed")
_READS = 7
_KEYS = 1000
_ROUNDS = 45
_CALLERS = 1000
_CROWDS = 15
_CONNECTIONS = 50
_PACKED = struct.Struct("<idq")
"""The columns of the frame that are not in its key, as they stand behind the bits of nulls."""


def measure(rows: int) -> None:
    """A thousand rows at a time, a thousand callers at a time, and all rows by Spark."""
    with EmbeddedServer() as server, server.endpoint.client() as client:
        df = frame(session(), rows)
        for layout in _LAYOUTS:
            publish(df, layout, key=KEY, endpoint=server.endpoint, layout=layout)
        heading(f"spark.read of {rows:,} rows, into nothing")
        print(f"Medians of {_READS} rounds, in which the layouts take turns.\n")
        table(" | rows/s | least | most", _by_spark(server, rows))
        session().stop()
        lines = [_many(client, layout, rows) for layout in _LAYOUTS]
        heading(f"get_many of {_KEYS:,} random rows of {rows:,}, decoded")
        print(f"Medians of {_ROUNDS} rounds, in which the ways take turns, and of their ratios.\n")
        table(
            " | get_many, ms | MGET or HGETs, ms | to them | decoded, ms | to these"
            " | one by one, ms | these to ours",
            lines,
        )
        heading(f"{_CALLERS:,} callers at once, asyncio, one row each")
        print(
            f"Medians of {_CROWDS} rounds in turns, and of their ratios. The bare commands have a "
            f"pool of {_CONNECTIONS} connections.\n"
        )
        table(
            " | get, rows/s | its connections | bare GET or HGET, rows/s | to it",
            [asyncio.run(_crowd(server, layout, rows)) for layout in _LAYOUTS],
        )


def _by_spark(server: EmbeddedServer, rows: int) -> list[list[str]]:
    session().dataSource.register(NexusRedisDataSource)
    speeds: dict[str, list[float]] = {layout: [] for layout in _LAYOUTS}
    for number in range(_READS + 2):
        for layout, found in speeds.items():
            options = {"dataset": layout, "url": server.url}
            began = time.perf_counter()
            df = session().read.format("nexus_redis").options(**options).load()
            df.write.format("noop").mode("overwrite").save()
            if number > 1:  # The first rounds warm up JVM and workers.
                found.append(rows / (time.perf_counter() - began))
    return [
        [layout, *(f"{of(found):,.0f}" for of in (statistics.median, min, max))]
        for layout, found in speeds.items()
    ]


def _key(number: int) -> tuple[str, int]:
    return f"metric_{number % 500:03d}", number


def _many(client: redis.Redis, layout: str, rows: int) -> list[str]:
    dataset = GoldDataset(client, layout)
    command = _commands(client, layout)

    def bare(commands: list[tuple[str, ...]]) -> list[bytes]:
        if layout == "json":
            return client.mget([key for _, key in commands])
        pipeline = client.pipeline(transaction=False)
        for one in commands:
            pipeline.hget(*one[1:])
        return pipeline.execute()

    def decoded(commands: list[tuple[str, ...]]) -> object:
        """What a client does that knows the columns; dates and keys stay as they are."""
        decode = json.loads if layout == "json" else partial(_PACKED.unpack_from, offset=1)
        return list(map(decode, bare(commands)))

    def one_by_one(commands: list[tuple[str, ...]]) -> object:
        return [client.execute_command(*one) for one in commands]

    ways = [dataset.get_many, bare, decoded, one_by_one]
    took: list[list[float]] = [[] for _ in ways]
    for number in range(_ROUNDS + 1):
        keys = [_key(at) for at in random.sample(range(rows), _KEYS)]
        given = [keys, *[list(map(command, keys))] * 3]
        # Who comes first finds the rows in none of the processor's caches.
        for place in random.sample(range(len(ways)), len(ways)):
            began = time.perf_counter()
            ways[place](given[place])
            if number:  # The first round warms up.
                took[place].append((time.perf_counter() - began) * 1000)
    ours, plain, parsed, single = took
    return [
        layout,
        f"{statistics.median(ours):.1f}",
        f"{statistics.median(plain):.1f}",
        f"{_ratio(ours, plain):.2f}",
        f"{statistics.median(parsed):.1f}",
        f"{_ratio(ours, parsed):.2f}",
        f"{statistics.median(single):.1f}",
        f"{_ratio(single, ours):.1f}",
    ]


def _ratio(one: Sequence[float], other: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def _commands(client: redis.Redis, layout: str) -> Callable[[tuple[str, int]], tuple[str, ...]]:
    """What a client sends that knows where a row is."""
    manifest, keys = GoldDataset(client, layout).manifest(), GoldKeys(layout)

    def command(key: tuple[str, int]) -> tuple[str, ...]:
        name = f"{key[0]}|{key[1]}"
        if layout == "json":
            return "GET", keys.row_prefix(manifest.version) + name
        key_hash, shares = zlib.crc32(name.encode()), len(manifest.shares)
        number = share_of(key_hash, shares)
        share = manifest.shares[number]
        bucket = bucket_of(key_hash, shares, share.buckets)
        return "HGET", keys.bucket(f"{manifest.version}.{share.task}", number, bucket), name

    return command


async def _crowd(server: EmbeddedServer, layout: str, rows: int) -> list[str]:
    with server.endpoint.client() as sync_client:
        command = _commands(sync_client, layout)
    pool = redis.asyncio.BlockingConnectionPool.from_url(server.url, max_connections=_CONNECTIONS)
    bare = redis.asyncio.Redis(connection_pool=pool)
    async with server.endpoint.async_client(client_name="ours") as client, bare:
        dataset = AsyncGoldDataset(client, layout)

        async def rate(way: Callable[[Any], Awaitable[object]], wanted: Iterable[Any]) -> float:
            began = time.perf_counter()
            await asyncio.gather(*map(way, wanted))
            return _CALLERS / (time.perf_counter() - began)

        pairs = []
        for number in range(_CROWDS + 1):
            keys = [_key(at) for at in random.sample(range(rows), _CALLERS)]
            commands = list(map(command, keys))
            ours = await rate(dataset.get, keys)
            theirs = await rate(lambda words: bare.execute_command(*words), commands)
            if number:  # The first round opens the connections.
                pairs.append((ours, theirs))
        connections = [one for one in await bare.client_list() if one["name"] == "ours"]
    await pool.aclose()
    ours, theirs = zip(*pairs, strict=True)
    return [
        layout,
        f"{statistics.median(ours):,.0f}",
        str(len(connections)),
        f"{statistics.median(theirs):,.0f}",
        f"{_ratio(ours, theirs):.1f}",
    ]


if __name__ == "__main__":
    measure(int(os.environ.get("ROWS", "1000000")))
