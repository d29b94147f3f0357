"""A run of the chaos: a server, a bad network, workers that are killed and stopped, and an end.

The choice of faults and of what workers do follows the seed; how they meet is up to the machine.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks.protocol import Claim, acquire, inspect, release
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.embedded import EmbeddedServer
from tests.chaos.journals import Journal
from tests.chaos.oracles import Oracle
from tests.chaos.proxies import ChaosProxy
from tests.chaos.workers import LEASES, MAX_STAY, NAMESPACE, STOP, Assignment, main

SUPERVISOR = "supervisor"
AOF = ("--appendonly", "yes", "--appendfsync", "always")
CREW = {"plain": 3, "async": 3, "run": 4, "sleepy": 2, "thief": 2}
# Seconds: for everybody to get a lock when all faults are over, and for a wait to end.
BOUND_S = 15.0
_END_S = 20.0
_MAX_STOPPED = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to happen.

    Attributes:
        seed: of all choices.
        faults: how many of them.
        per_second: of faults, on average.
        weights: how often each kind comes.
        crew: workers by kind.
        bug: planted in the workers.
        is_brief: do without the end, in which everybody is served and nothing is left behind.
    """

    seed: int
    faults: int
    per_second: float = 5.0
    weights: dict[str, float] = field(
        default_factory=lambda: {
            "drop_reply": 30,
            "cut": 25,
            "stall": 15,
            "pause_worker": 14,
            "kill_worker": 12,
            "kill_server": 5,
        }
    )
    crew: dict[str, int] = field(default_factory=lambda: dict(CREW))
    bug: str = ""
    is_brief: bool = False


@dataclass(eq=False)
class _Slot:
    """A worker; the process behind it may be replaced."""

    number: int
    kind: str
    source: str
    process: BaseProcess
    is_stopped: bool = False

    def signal(self, number: signal.Signals) -> None:
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)


async def carry_out(
    plan: Plan, directory: Path, tell: Callable[[str], None] = lambda _: None
) -> None:
    """Do what the plan says; what came of it stands in the directory."""
    with EmbeddedServer(*AOF) as server:
        campaign = _Campaign(plan, directory, server, tell)
        try:
            await campaign.run()
        finally:
            await campaign.end()


class _Campaign:
    def __init__(
        self, plan: Plan, directory: Path, server: EmbeddedServer, tell: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._directory = directory
        self._server = server
        self._tell = tell
        # The order of faults does not depend on whom they meet.
        self._schedule = random.Random(plan.seed)
        self._random = random.Random(f"{plan.seed}/targets")
        self._journal = Journal(directory, SUPERVISOR)
        self._oracle = Oracle(directory)
        self._proxy = ChaosProxy(server.endpoint.nodes[0], self._random, self._count)
        self._slots: list[_Slot] = []
        self._faults = self._processes = 0
        self._under_way: set[asyncio.Task[None]] = set()
        self._restarting = asyncio.Lock()
        # Children of a clean process that has imported what they need: no time goes into starting.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.chaos.workers", "tests.chaos.runs"])
        self._until = time.monotonic() + 60 + 3 * plan.faults / plan.per_second

    async def run(self) -> None:
        node = await self._proxy.start()
        self._endpoint = replace(
            self._server.endpoint, nodes=(node,), connect_timeout=0.4, read_timeout=0.4
        )
        kinds = [kind for kind, count in self._plan.crew.items() for _ in range(count)]
        for number, kind in enumerate(kinds):
            self._slots.append(self._start(number, kind))
        await self._do_harm()
        if not self._plan.is_brief:
            await self._calm_down()
            await self._serve_everybody()
            await self._send_home()
            await self._look_what_is_left()

    async def end(self) -> None:
        """Leave no process and no task behind, however it went."""
        async with self._restarting:
            pass
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        for slot in self._slots:
            if slot.process.is_alive():
                self._kill(slot)
        await self._proxy.close()
        self._journal.close()

    def _count(self, kind: str, **facts: object) -> None:
        self._faults += 1
        # A step of the wall clock, by which the server counts leases, would explain a lot.
        self._journal.log("fault", kind=kind, clock=time.time() - time.monotonic(), **facts)
        if self._faults % 100 == 0:
            self._tell(f"{self._faults} faults")

    def _start(self, number: int, kind: str, resume: str = "") -> _Slot:
        self._processes += 1
        source = f"w{number}.{self._processes}"
        assignment = Assignment(
            kind=kind,
            number=number,
            source=source,
            seed=f"{self._plan.seed}/{source}",
            directory=self._directory,
            endpoint=self._endpoint,
            until=self._until,
            bug=self._plan.bug,
            resume=resume,
        )
        process = self._context.Process(target=main, args=(assignment,), name=source)
        process.start()
        return _Slot(number, kind, source, process)

    async def _do_harm(self) -> None:
        kinds, weights = zip(*self._plan.weights.items(), strict=True)
        while self._faults < self._plan.faults:
            await asyncio.sleep(self._schedule.expovariate(self._plan.per_second))
            (kind,) = self._schedule.choices(kinds, weights)
            getattr(self, f"_{kind}")()

    def _drop_reply(self) -> None:
        self._proxy.drop_reply()

    def _cut(self) -> None:
        self._proxy.cut()

    def _stall(self) -> None:
        self._proxy.stall(self._random.uniform(0.05, 1.5))

    def _pause_worker(self) -> None:
        running = [slot for slot in self._slots if not slot.is_stopped]
        if len(running) > len(self._slots) - _MAX_STOPPED:
            self._spawn(self._pause(self._random.choice(running)))

    def _kill_worker(self) -> None:
        slot = self._random.choice(self._slots)
        self._kill(slot)
        self._count("killed worker")
        resume = ""
        for owner in self._oracle.runs_of(slot.number):
            # A scheduler lets the same run try again, or fails it.
            if not resume and self._random.random() < 0.5:
                resume = owner
            else:
                self._fail_run(owner)
        self._slots[self._slots.index(slot)] = self._start(slot.number, slot.kind, resume)

    def _kill(self, slot: _Slot) -> None:
        slot.process.kill()
        slot.process.join()
        slot.process.close()
        self._journal.log("killed", victim=slot.source)

    def _kill_server(self) -> None:
        if not self._restarting.locked():
            self._spawn(self._restart_server())

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def _fail_run(self, owner: str) -> None:
        self._journal.log("died", owner=owner)
        self._oracle.end(owner)

    async def _pause(self, slot: _Slot) -> None:
        """Stop a worker for up to three of the longest leases."""
        duration = self._random.uniform(0.1, 3 * max(LEASES))
        slot.is_stopped = True
        self._journal.log("stopped", victim=slot.source)
        slot.signal(signal.SIGSTOP)
        self._count("stopped worker")
        try:
            await asyncio.sleep(duration / 2)
            if slot in self._slots and self._random.random() < 0.3:
                # No heartbeat: the scheduler gives the run up, and its worker becomes a zombie.
                for owner in self._oracle.runs_of(slot.number):
                    self._fail_run(owner)
            await asyncio.sleep(duration / 2)
        finally:
            self._journal.log("continued", victim=slot.source)
            slot.is_stopped = False
            if slot in self._slots:
                slot.signal(signal.SIGCONT)

    async def _restart_server(self) -> None:
        async with self._restarting:
            # Who connects to a port of the ephemeral range while nobody listens may get itself.
            self._proxy.has_upstream = False
            os.kill(self._server.pid, signal.SIGKILL)
            self._count("killed server")
            self._server.stop()
            await asyncio.sleep(self._random.uniform(0, 0.3))
            await asyncio.to_thread(self._server.start)
            self._proxy.has_upstream = True

    async def _calm_down(self) -> None:
        self._proxy.stop_faults()
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=_END_S)
        for task in list(self._under_way):
            await task
        self._journal.log("calm", living=[slot.source for slot in self._slots])
        self._tell("no more faults")

    async def _serve_everybody(self) -> None:
        """Wait until every worker that takes locks got one; the judge says if it did not."""
        waiting = {
            path: path.stat().st_size if path.exists() else 0
            for slot in self._slots
            if slot.kind != "thief"
            for path in [self._directory / f"{slot.source}.jsonl"]
        }
        deadline = time.monotonic() + BOUND_S + 1
        while waiting and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            waiting = {path: size for path, size in waiting.items() if not _acquired(path, size)}

    async def _send_home(self) -> None:
        (self._directory / STOP).touch()
        self._journal.log("closing")
        deadline = time.monotonic() + _END_S
        for slot in self._slots:
            left = max(0.0, deadline - time.monotonic())
            await asyncio.to_thread(slot.process.join, left)
            if slot.process.is_alive():
                self._journal.log("stuck", victim=slot.source)
            self._journal.log("gone", victim=slot.source, code=slot.process.exitcode)

    async def _look_what_is_left(self) -> None:
        """Write down what stands in Redis when every lease and every waiter's stay is over."""
        await asyncio.sleep(max(*LEASES, MAX_STAY) + 0.1)
        with self._server.endpoint.client() as client:
            keys = [key.decode() for key in client.scan_iter(count=1000)]
            self._journal.log("left", keys={key: client.pttl(key) for key in keys})
            for name in sorted({LockKeys.name_of(key) for key in keys}):
                state = run(client, inspect(name, namespace=NAMESPACE))
                claim = Claim(name, "broom", namespace=NAMESPACE)
                attempt = run(client, acquire(claim, 60))
                if attempt.acquired:
                    run(client, release(name, "broom", attempt.token, namespace=NAMESPACE))
                lock = LockKeys(name, NAMESPACE)
                self._journal.log(
                    "swept",
                    name=name,
                    newest=state.token,
                    token=attempt.token,
                    fields=[field.decode() for field in client.hkeys(lock.lock)],
                    line=client.zcard(lock.line),
                )


def _acquired(path: Path, size: int) -> bool:
    """Whether a log says so beyond a size."""
    return path.exists() and b'"acquired"' in path.read_bytes()[size:]
