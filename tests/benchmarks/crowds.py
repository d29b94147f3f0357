"""Waiters in other processes, in threads or tasks, who write down when they got a lock."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Self

from nexus_redis_provider.core.endpoint import Endpoint
from tests.benchmarks.peers import WAITING, Way

PROCESSES = 4
_spawning = multiprocessing.get_context("spawn")


@dataclass(slots=True)
class Visit:
    """One waiter's way through a lock, on the clock that all processes of a machine share.

    Attributes:
        arrived: just before it asked, seconds.
        entered: when it had the lock; 0 if it never did.
        left: just before it gave the lock back.
    """

    arrived: float = 0.0
    entered: float = 0.0
    left: float = 0.0


def hold(
    way: Way, endpoint: Endpoint, name: str, work: Callable[[], None], loop: asyncio.Runner
) -> float:
    """Hold a lock while the work is done; returns when giving it back began."""
    if way.is_async:
        return loop.run(_ahold(way.waiting(endpoint, name), work))
    with way.waiting(endpoint, name):
        work()
        return time.monotonic()


async def _ahold(lock: Any, work: Callable[[], None]) -> float:
    async with lock:
        await asyncio.to_thread(work)
        return time.monotonic()


@dataclass
class Crowd:
    """Waiters for one lock, spread over processes; they come one after the other.

    They enter and leave a lock of their own first, so that imports and connections are made.
    """

    way: Way
    endpoint: Endpoint
    name: str
    size: int
    spacing: float
    _stack: ExitStack = field(default_factory=ExitStack)
    _pipes: list[Connection] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)

    def __enter__(self) -> Self:
        for first in range(min(PROCESSES, self.size)):
            pipe, theirs = _spawning.Pipe()
            numbers = range(first, self.size, PROCESSES)
            process = _spawning.Process(
                target=_be_a_part,
                args=(theirs, self.way.name, (self.endpoint, self.name), numbers, self.spacing),
            )
            process.start()
            self._stack.callback(process.join)
            self._stack.callback(process.kill)
            self._pipes.append(pipe)
            self.pids.append(process.pid or 0)
        for pipe in self._pipes:
            pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def come(self) -> None:
        """Let them come; returns when the last one has."""
        begins_at = time.monotonic() + 0.1
        for pipe in self._pipes:
            pipe.send(begins_at)
        for pipe in self._pipes:
            pipe.recv()

    def visits(self, until: float) -> list[Visit]:
        """What came of it, when all had the lock or the time is over, in the order of entering."""
        for pipe in self._pipes:
            pipe.send(until)
        found = [visit for pipe in self._pipes for visit in pipe.recv()]
        return sorted(found, key=lambda visit: visit.entered or float("inf"))


def _be_a_part(
    pipe: Connection, way_name: str, place: tuple[Endpoint, str], numbers: range, spacing: float
) -> None:
    endpoint, name = place
    way, visits = WAITING[way_name], [Visit() for _ in numbers]
    begins_at: list[float] = []
    ready, start, end = threading.Semaphore(0), threading.Event(), threading.Event()

    def wait_in_thread(number: int, visit: Visit) -> None:
        with way.lock(endpoint, f"{name}-warm-{number}"):
            ready.release()
        start.wait()
        _sleep_until(begins_at[0] + number * spacing)
        lock = way.waiting(endpoint, name)
        visit.arrived = time.monotonic()
        with lock:
            visit.entered = visit.left = time.monotonic()
        end.wait()  # A thread that ends closes its connections; no other is to wait for that.

    async def wait_in_task(number: int, visit: Visit) -> None:
        await asyncio.sleep(begins_at[0] + number * spacing - time.monotonic())
        lock = way.waiting(endpoint, name)
        visit.arrived = time.monotonic()
        async with lock:
            visit.entered = visit.left = time.monotonic()

    async def wait_in_loop() -> None:
        async with way.lock(endpoint, f"{name}-warm-{numbers.start}"):
            for _ in numbers:
                ready.release()
        await asyncio.to_thread(start.wait)
        await asyncio.gather(*map(wait_in_task, numbers, visits))

    if way.is_async:
        threading.Thread(target=lambda: asyncio.run(wait_in_loop()), daemon=True).start()
    else:
        for number, visit in zip(numbers, visits, strict=True):
            threading.Thread(target=wait_in_thread, args=(number, visit), daemon=True).start()
    for _ in numbers:
        ready.acquire()
    pipe.send("ready")
    begins_at.append(pipe.recv())
    start.set()
    while not all(visit.arrived for visit in visits):
        time.sleep(0.05)
    pipe.send("all are there")
    until = pipe.recv()
    while time.monotonic() < until and not all(visit.left for visit in visits):
        time.sleep(0.05)
    pipe.send(visits)
    pipe.recv()  # Nobody sends any more; the crowd ends with its parent at the latest.
    os._exit(0)


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


class Partner:
    """One waiter in another process, for one hand-off after the other."""

    def __init__(self, way: Way, endpoint: Endpoint, name: str) -> None:
        self._pipe, theirs = _spawning.Pipe()
        self._process = _spawning.Process(
            target=_be_partner, args=(theirs, way.name, endpoint, name)
        )

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def wait(self) -> None:
        """Let it ask for the lock now."""
        self._pipe.send(None)

    def entered_at(self) -> float:
        """When it had the lock; it has given it back by now."""
        return float(self._pipe.recv())


def _be_partner(pipe: Connection, way_name: str, endpoint: Endpoint, name: str) -> None:
    way = WAITING[way_name]

    async def in_loop() -> None:
        while True:
            await asyncio.to_thread(pipe.recv)
            async with way.waiting(endpoint, name):
                entered = time.monotonic()
            pipe.send(entered)

    if way.is_async:
        asyncio.run(in_loop())
    while True:
        pipe.recv()
        with way.waiting(endpoint, name):
            entered = time.monotonic()
        pipe.send(entered)
