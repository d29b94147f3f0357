"""Ten thousand who wait in one process: what they cost, and how soon one of them is woken.

`python -m tests.benchmarks.waiting` runs this alone; QUEUERS (10000) and SECONDS (30) in the
environment change the size. Each case has a process and a server of its own, and waits at the same
time as the others: what is measured then is the CPU time of processes, not a duration. They wake
one after the other.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

import psutil

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.locks.protocol import Claim, acquire, release
from nexus_redis_provider.core.locks.waiting import WaitingRoom
from nexus_redis_provider.core.scripts import arun, run
from nexus_redis_provider.embedded import EmbeddedServer
from tests.benchmarks.counters import Look
from tests.benchmarks.tables import heading, percentile, table

QUEUERS = int(os.environ.get("QUEUERS", "10000"))
SECONDS = float(os.environ.get("SECONDS", "30"))
_POLL = 10.0
_STAY = 120
_LEASE = 3600
# By then all have been looked at, and looks are spread as they are for good.
_SETTLING = 1.3 * _POLL
_WAKES = 200

# Returns when it is the turn of who claims the lock; the place in the line is taken already.
Waiter = Callable[[Endpoint, Claim], Awaitable[None]]


async def in_waiting_room(endpoint: Endpoint, claim: Claim) -> None:
    async with WaitingRoom.of(endpoint) as room:
        with room.place(claim.name, claim.owner, poll=_POLL, namespace=claim.namespace) as place:
            while not (await place.news()).is_turn:
                pass


@dataclass(frozen=True, slots=True)
class Case:
    """So many locks, each held by somebody, and waiters for each."""

    locks: int
    waiters: int

    def __str__(self) -> str:
        return f"{self.locks:,} x {self.waiters:,}"


@dataclass(frozen=True, slots=True)
class Cost:
    """What it was.

    Attributes:
        connections: of the process while all wait.
        memory: bytes of the process for each waiter.
        server_memory: bytes of the server for each waiter, and for its share of a lock.
        spent: while all waited.
        turns: seconds from the call that releases until the next waiter knows.
        entries: seconds from the call that releases until the next one has the lock.
    """

    connections: int
    memory: float
    server_memory: float
    spent: Look
    turns: list[float]
    entries: list[float]


def measure(waiter: Waiter = in_waiting_room) -> None:
    sizes = ((1, QUEUERS), (QUEUERS // 10, 10), (QUEUERS, 1))
    cases = [Case(locks, waiters) for locks, waiters in sizes]
    spawning = multiprocessing.get_context("spawn")
    pipes = []
    for case in cases:
        pipe, theirs = spawning.Pipe()
        spawning.Process(target=_run, args=(theirs, case, waiter), daemon=True).start()
        pipes.append(pipe)
    for pipe in pipes:
        pipe.recv()
    costs = []
    for pipe in pipes:
        pipe.send("wake")
        costs.append(pipe.recv())
    heading(f"{QUEUERS:,} waiters in one process")
    print(f"{SECONDS:.0f} s, each looked after every {_POLL:.0f} s. {_WAKES} are woken in turn.\n")
    table(
        "locks x waiters | connections | KB each | KB each, server | CPU s/min | server CPU s/min"
        " | requests/s | commands/s, with those in scripts",
        [_idle_row(case, cost) for case, cost in zip(cases, costs, strict=True)],
    )
    table(
        "locks x waiters | release to news, p50, ms | p99, ms"
        " | release to entry, p50, ms | p99, ms",
        [_wake_row(case, cost) for case, cost in zip(cases, costs, strict=True)],
    )


def _idle_row(case: Case, cost: Cost) -> list[str]:
    spent = cost.spent
    return [
        str(case),
        str(cost.connections),
        f"{cost.memory / 1024:.1f}",
        f"{cost.server_memory / 1024:.1f}",
        f"{spent.client_cpu / spent.at * 60:.1f}",
        f"{spent.server_cpu / spent.at * 60:.1f}",
        f"{spent.requests / spent.at:,.0f}",
        f"{spent.commands / spent.at:,.0f}",
    ]


def _wake_row(case: Case, cost: Cost) -> list[str]:
    quantiles = [
        percentile(seconds, share)
        for seconds in (cost.turns, cost.entries)
        for share in (0.5, 0.99)
    ]
    return [str(case), *(f"{seconds * 1000:.2f}" for seconds in quantiles)]


def _run(pipe: Connection, case: Case, waiter: Waiter) -> None:
    with EmbeddedServer() as server:
        pipe.send(asyncio.run(_Queue(pipe, case, waiter, server).measured()))


class _Queue:
    def __init__(
        self, pipe: Connection, case: Case, waiter: Waiter, server: EmbeddedServer
    ) -> None:
        self._pipe = pipe
        self._case = case
        self._waiter = waiter
        self._endpoint = server.endpoint
        self._onlooker = server.endpoint.client()
        self._woken: asyncio.Queue[tuple[Claim, float]] = asyncio.Queue()

    async def measured(self) -> Cost:
        names = [f"lock-{number}" for number in range(self._case.locks)]
        heads = [Claim(name, "head") for name in names]
        tokens = [run(self._onlooker, acquire(head, _LEASE)).token for head in heads]
        async with WaitingRoom.of(self._endpoint) as room:
            await room.run(acquire(Claim("first", "call"), 1))
            memory, server_memory = self._memory()
            tasks = []
            for name in names:
                for number in range(self._case.waiters):
                    claim = Claim(name, f"host/4711/{name}/{number:08}")
                    await room.run(acquire(claim, _LEASE, stay=_STAY, bell=room.channel))
                    tasks.append(asyncio.create_task(self._wait(claim)))
            await asyncio.sleep(_SETTLING)
            connections = len(self._onlooker.client_list()) - 1
            later, server_later = self._memory()
            began = Look.at_once(self._onlooker, [os.getpid()])
            await asyncio.sleep(SECONDS)
            spent = began.until(Look.at_once(self._onlooker, [os.getpid()]))
            self._pipe.send("waited")
            await asyncio.to_thread(self._pipe.recv)
            turns, entries = await self._wake(room, heads, tokens)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return Cost(
            connections,
            (later - memory) / len(tasks),
            (server_later - server_memory) / len(tasks),
            spent,
            turns,
            entries,
        )

    def _memory(self) -> tuple[int, int]:
        used = self._onlooker.info("memory")["used_memory"]
        return psutil.Process().memory_info().rss, int(used)

    async def _wait(self, claim: Claim) -> None:
        await self._waiter(self._endpoint, claim)
        self._woken.put_nowait((claim, time.monotonic()))

    async def _wake(
        self, room: WaitingRoom, heads: list[Claim], tokens: list[int]
    ) -> tuple[list[float], list[float]]:
        """Release locks, one after the other, and the same one again if there is but one."""
        turns, entries = [], []
        holders = list(zip(heads, tokens, strict=True))
        async with self._endpoint.async_client() as client:
            await client.ping()
            for number in range(min(_WAKES, QUEUERS)):
                place = number % len(holders)
                holder, token = holders[place]
                left = time.monotonic()
                await arun(client, release(holder.name, holder.owner, token))
                claim, turn = await self._woken.get()
                hold = await room.run(acquire(claim, _LEASE, stay=_STAY, bell=room.channel))
                entries.append(time.monotonic() - left)
                turns.append(turn - left)
                holders[place] = claim, hold.token
        return turns, entries


if __name__ == "__main__":
    measure()
