"""How fast a lock that nobody else wants is taken and given back."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import redis

from nexus_redis_provider.embedded import EmbeddedServer
from tests.benchmarks.counters import Look
from tests.benchmarks.peers import REDIS_PY, REDIS_PY_ASYNC, UNCONTENDED, UNCONTENDED_ASYNC, Way
from tests.benchmarks.tables import heading, table

PAIRS = 500
_COUNTED = 200


def measure(server: EmbeddedServer, rounds: int) -> None:
    with asyncio.Runner() as loop, server.endpoint.client() as client:
        ways = {
            (way, fresh): _pairs(server, loop, way, fresh=fresh)
            for way in (*UNCONTENDED, *UNCONTENDED_ASYNC)
            for fresh in (False, True)
        }
        counts = {key: _count(client, run) for key, run in ways.items()}
        speeds = _in_turns(ways, rounds)
    heading("A free lock: acquire and release")
    print(
        f"Medians of {rounds} rounds of {PAIRS} pairs in random order; the ratios are medians of "
        "the ratios of each round.\n"
    )
    for some, peer in ((UNCONTENDED, REDIS_PY), (UNCONTENDED_ASYNC, REDIS_PY_ASYNC)):
        _print(some, peer, speeds, counts)


def _pairs(
    server: EmbeddedServer, loop: asyncio.Runner, way: Way, *, fresh: bool
) -> Callable[[int], None]:
    endpoint, name = server.endpoint, f"free-{way.name}"
    kept = way.lock(endpoint, name)

    def lock() -> Any:
        return way.lock(endpoint, name) if fresh else kept

    def run(pairs: int) -> None:
        for _ in range(pairs):
            with lock():
                pass

    async def arun(pairs: int) -> None:
        for _ in range(pairs):
            async with lock():
                pass

    return (lambda pairs: loop.run(arun(pairs))) if way.is_async else run


def _count(client: redis.Redis, run: Callable[[int], None]) -> tuple[float, float]:
    """Round trips and commands of a pair, when all that is needed once is there."""
    run(20)
    before = Look.at_once(client)
    run(_COUNTED)
    spent = before.until(Look.at_once(client))
    return spent.requests / _COUNTED, spent.commands / _COUNTED


def _in_turns(
    ways: dict[tuple[Way, bool], Callable[[int], None]], rounds: int
) -> dict[tuple[Way, bool], list[float]]:
    speeds: dict[tuple[Way, bool], list[float]] = {key: [] for key in ways}
    for _ in range(rounds):
        for key in random.sample(list(ways), len(ways)):
            pairs = max(1, round(PAIRS * key[0].effort))
            began = time.perf_counter()
            ways[key](pairs)
            speeds[key].append(pairs / (time.perf_counter() - began))
    return speeds


def _print(
    ways: tuple[Way, ...],
    peer: Way,
    speeds: dict[tuple[Way, bool], list[float]],
    counts: dict[tuple[Way, bool], tuple[float, float]],
) -> None:
    def cells(way: Way, *, fresh: bool) -> list[str]:
        mine, theirs = speeds[way, fresh], speeds[peer, fresh]
        ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
        return [f"{statistics.median(mine):,.0f}", f"{ratio:.2f}"]

    table(
        f"{'asyncio' if peer.is_async else 'threads'} | pairs/s, one object | to {peer.name} | "
        f"a fresh object each | to {peer.name} | round trips | commands, with those in scripts",
        [
            [way.name, *cells(way, fresh=False), *cells(way, fresh=True)]
            + [f"{count:.1f}" for count in counts[way, False]]
            for way in ways
        ],
    )
