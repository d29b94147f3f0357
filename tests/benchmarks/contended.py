"""What a lock costs that others wait for, and how soon the next one has it."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from nexus_redis_provider.embedded import EmbeddedServer
from tests.benchmarks.counters import Look
from tests.benchmarks.crowds import PROCESSES, Crowd, Partner, Visit, hold
from tests.benchmarks.peers import PYTHON_REDIS_LOCK, WAITING, Way
from tests.benchmarks.tables import heading, percentile, table

# Holds of any length between these, so that who looks every 0.1 s is met at any moment.
_SHORTEST, _LONGEST = 0.002, 0.102
_SPACING = 0.004
_SETTLING = 1.0
_PATIENCE = 8.0
# Who came so much earlier is overtaken if it gets the lock later.
_EARLIER = 0.25


def one_waiter(server: EmbeddedServer, hand_offs: int) -> None:
    """From the holder's release to the waiter's entry, one waiter in another process."""
    latencies: dict[str, list[float]] = {name: [] for name in WAITING}
    with asyncio.Runner() as loop, ExitStack() as stack:
        partners = {
            way: stack.enter_context(Partner(way, server.endpoint, f"one-{way.name}"))
            for way in WAITING.values()
        }
        for number in range(hand_offs + 1):
            for way in random.sample(list(partners), len(partners)):
                latency = _hand_off(server, way, partners[way], loop)
                if number:  # The first one connects.
                    latencies[way.name].append(latency)
    heading("Hand-off to one waiter in another process")
    print(
        f"{hand_offs} each, in turns in random order, after holds of {_SHORTEST * 1000:.0f} to "
        f"{_LONGEST * 1000:.0f} ms. From the call that releases to the return of the one that "
        "acquires.\n"
    )
    peer = statistics.median(latencies[PYTHON_REDIS_LOCK.name])
    table(
        f" | p50, ms | p99, ms | p50 to {PYTHON_REDIS_LOCK.name}",
        [
            [name, *_quantiles(found), f"{statistics.median(found) / peer:.2f}"]
            for name, found in latencies.items()
        ],
    )


def _hand_off(server: EmbeddedServer, way: Way, partner: Partner, loop: asyncio.Runner) -> float:
    def work() -> None:
        partner.wait()
        time.sleep(random.uniform(_SHORTEST, _LONGEST))

    left = hold(way, server.endpoint, f"one-{way.name}", work, loop)
    return partner.entered_at() - left


@dataclass(frozen=True, slots=True)
class _Outcome:
    way: Way
    waiting: Look
    handing_on: Look
    latencies: list[float]
    overtakers: int


def many_waiters(server: EmbeddedServer, size: int, seconds: float) -> None:
    """What they cost while they wait, then a chain of hand-offs through all of them."""
    outcomes = [_crowd(server, way, size, seconds) for way in WAITING.values()]
    threads = f"{PROCESSES} processes with {size // PROCESSES} threads (or tasks) each"
    heading(f"{size:,} waiters while the lock is held")
    print(f"{threads}; {seconds:.0f} s. CPU in % of one core.\n")
    table(
        " | requests/s | commands/s, with those in scripts | CPU, server | CPU, waiters",
        [[outcome.way.name, *_rates(outcome.waiting)] for outcome in outcomes],
    )
    heading(f"Hand-offs through {size:,} waiters")
    print(
        f"{threads}. Each gives the lock back as soon as it has it. Who gets it ahead of one that "
        f"came {_EARLIER} s earlier, or more, overtakes. At most {_PATIENCE:.0f} s.\n"
    )
    by_name = {outcome.way.name: outcome for outcome in outcomes}
    peer = statistics.median(by_name[PYTHON_REDIS_LOCK.name].latencies)
    table(
        f" | hand-offs | p50, ms | p99, ms | p50 to {PYTHON_REDIS_LOCK.name} | overtakers"
        " | requests per hand-off | commands",
        [_hand_offs(outcome, peer) for outcome in outcomes],
    )


def _crowd(server: EmbeddedServer, way: Way, size: int, seconds: float) -> _Outcome:
    name, looks = f"crowd-{size}-{way.name}", []
    with (
        asyncio.Runner() as loop,
        server.endpoint.client() as client,
        Crowd(way, server.endpoint, name, size, _SPACING) as crowd,
    ):

        def work() -> None:
            crowd.come()
            time.sleep(_SETTLING)
            looks.append(Look.at_once(client, crowd.pids))
            time.sleep(seconds)
            looks.append(Look.at_once(client, crowd.pids))

        left = hold(way, server.endpoint, name, work, loop)
        visits = crowd.visits(until=left + _PATIENCE)
        looks.append(Look.at_once(client, crowd.pids))
    began, ended, done = looks
    return _Outcome(
        way,
        began.until(ended),
        ended.until(done),
        list(_latencies(left, visits)),
        _overtakers(visits),
    )


def _latencies(left: float, visits: list[Visit]) -> Iterator[float]:
    for visit in visits:
        if visit.entered:
            yield visit.entered - left
            left = visit.left


def _overtakers(visits: list[Visit]) -> int:
    earliest, count = float("inf"), 0
    for visit in reversed(visits):
        count += bool(visit.entered) and earliest < visit.arrived - _EARLIER
        earliest = min(earliest, visit.arrived)
    return count


def _quantiles(seconds: list[float]) -> list[str]:
    return [f"{percentile(seconds, share) * 1000:.2f}" for share in (0.5, 0.99)]


def _rates(spent: Look) -> list[str]:
    return [
        f"{spent.requests / spent.at:,.0f}",
        f"{spent.commands / spent.at:,.0f}",
        f"{spent.server_cpu / spent.at:.1%}",
        f"{spent.client_cpu / spent.at:.1%}",
    ]


def _hand_offs(outcome: _Outcome, peer: float) -> list[str]:
    count, spent = len(outcome.latencies), outcome.handing_on
    return [
        outcome.way.name,
        f"{count:,}",
        *_quantiles(outcome.latencies),
        f"{statistics.median(outcome.latencies) / peer:.2f}",
        f"{outcome.overtakers:,}",
        f"{spent.requests / count:,.1f}",
        f"{spent.commands / count:,.1f}",
    ]
