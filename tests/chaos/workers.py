"""A worker process: it takes locks in its own way until it is told to stop, or is killed."""

from __future__ import annotations

import asyncio
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import LockHeldError, LockLostError, UnreachableError
from nexus_redis_provider.core.locks import AsyncLock, Lock
from tests.chaos.bugs import plant
from tests.chaos.journals import Journal
from tests.chaos.resources import Resource

NAMESPACE = "chaos"
LEASES = (0.3, 0.5, 1.0)
MAX_STAY = 1.0
MAX_WAIT = 6.0
STOP = "stop"
_TASKS = 3


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a process is started with.

    Attributes:
        kind: a key of `KINDS`.
        number: of the worker, which lives on in the process that replaces a killed one.
        source: the process's own name, unique in a run.
        seed: of its choices.
        endpoint: where it believes the server to be.
        until: monotonic time when it ends even if nobody tells it to.
        bug: a key of `BUGS`, or empty.
        resume: a run that a killed predecessor worked for, to be tried again; or empty.
    """

    kind: str
    number: int
    source: str
    seed: str
    directory: Path
    endpoint: Endpoint
    until: float
    bug: str = ""
    resume: str = ""


@dataclass(frozen=True, slots=True)
class Wish:
    """A lock as a worker wants it this time."""

    name: str
    owner: str
    lease: float
    wait: float
    mode: Any = "exclusive"
    permits: int = 1
    bound: str = "lease"

    @property
    def is_fenced(self) -> bool:
        """Whether it protects a resource that only one may write to."""
        return self.mode == "exclusive" and self.permits == 1


class Worker:
    """What workers of all kinds have in common."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.random = random.Random(assignment.seed)
        self.journal = Journal(assignment.directory, assignment.source)
        self._resources: dict[str, Resource] = {}
        self._stop = assignment.directory / STOP
        self._wishes = 0

    def goes_on(self) -> bool:
        return time.monotonic() < self.assignment.until and not self._stop.exists()

    def wish(self, *names: str) -> Wish:
        self._wishes += 1
        name, choice = self.random.choice(names), self.random.choice
        options: dict[str, Any] = {}
        if name == "three":
            options = {"permits": 3}
        elif name == "library":
            options = {"mode": choice(("shared", "shared", "shared", "exclusive"))}
        return Wish(
            name=name,
            owner=f"{self.assignment.source}-{self._wishes}",
            lease=choice(LEASES),
            wait=self.random.uniform(1, MAX_WAIT),
            **options,
        )

    def log(self, what: str, wish: Wish, *, at: float | None = None, **facts: Any) -> None:
        self.journal.log(what, at=at, name=wish.name, owner=wish.owner, **facts)

    def log_wants(self, wish: Wish) -> None:
        self.log("wants", wish, wait=wish.wait, mode=wish.mode, permits=wish.permits)

    def log_acquired(self, wish: Wish, token: int, asked: float, **facts: Any) -> None:
        self.log(
            "acquired",
            wish,
            token=token,
            asked=asked,
            mode=wish.mode,
            permits=wish.permits,
            bound=wish.bound,
            **facts,
        )

    def make_sure(self, wish: Wish, token: int, ensure_held: Callable[[], None]) -> None:
        """Log that the lock was held just before it was asked for; raises if it is not."""
        at = time.monotonic()
        ensure_held()
        self.log("held", wish, at=at, token=token)

    def work(self, wish: Wish, token: int, ensure_held: Callable[[], None]) -> Iterator[float]:
        """Work under the lock; yields pauses in seconds.

        Raises:
            LockLostError: it was noticed in time.
        """
        for _ in range(self.random.randint(1, 3)):
            self.make_sure(wish, token, ensure_held)
            base = self.read(wish, token) if wish.is_fenced else None
            # Now and then long enough for a renewal or two.
            yield self.random.uniform(0, 0.02 if self.random.random() < 0.95 else wish.lease)
            self.make_sure(wish, token, ensure_held)
            if base is not None:
                self.write(wish, token, base, ensure_held)
            self.make_sure(wish, token, ensure_held)

    def read(self, wish: Wish, token: int) -> int | None:
        value = self._resource(wish).read(token, wish.owner)
        self.log("read", wish, token=token, accepted=value is not None)
        return value

    def write(
        self, wish: Wish, token: int, base: int, ensure_held: Callable[[], None] | None = None
    ) -> None:
        accepted, held = self._resource(wish).write(token, wish.owner, base), False
        if ensure_held is not None:
            try:
                ensure_held()
                held = True
            except LockLostError:
                pass
        self.log("wrote", wish, token=token, accepted=accepted, held_after=held)

    def _resource(self, wish: Wish) -> Resource:
        if wish.name not in self._resources:
            self._resources[wish.name] = Resource(self.assignment.directory, wish.name)
        return self._resources[wish.name]

    def rest(self) -> float:
        return self.random.uniform(0, 0.05)


class PlainWorker(Worker):
    """Takes locks of all kinds by `Lock`."""

    def run(self) -> None:
        while self.goes_on():
            wish = self.wish("one", "two", "mixed", "three", "library")
            lock = Lock(self.assignment.endpoint, **_options(wish))
            wish = replace(wish, owner=lock.owner)
            self.log_wants(wish)
            asked = time.monotonic()
            try:
                with lock:
                    self.log_acquired(wish, lock.token, asked)
                    for pause in self.work(wish, lock.token, lock.ensure_held):
                        time.sleep(pause)
                    self.log("releasing", wish, token=lock.token)
            except LockHeldError:
                self.log("refused", wish)
            except LockLostError:
                self.log("lost", wish, token=lock.token)
            except UnreachableError:
                self.log("unreachable", wish)
            time.sleep(self.rest())


class AsyncWorker(Worker):
    """Takes locks of all kinds by `AsyncLock`, in several tasks."""

    def run(self) -> None:
        asyncio.run(self._run_all())

    async def _run_all(self) -> None:
        asyncio.get_running_loop().set_exception_handler(self._crash)
        await asyncio.gather(*(self._run_one() for _ in range(_TASKS)))

    def _crash(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        text = "".join(traceback.format_exception(error)) if error else context["message"]
        self.journal.log("crash", error=f"{context['message']}: {text}")

    async def _run_one(self) -> None:
        while self.goes_on():
            wish = self.wish("one", "two", "mixed", "three", "library")
            lock = AsyncLock(self.assignment.endpoint, **_options(wish))
            wish = replace(wish, owner=lock.owner)
            self.log_wants(wish)
            asked = time.monotonic()
            try:
                async with lock:
                    self.log_acquired(wish, lock.token, asked)
                    for pause in self.work(wish, lock.token, lock.ensure_held):
                        await asyncio.sleep(pause)
                    self.log("releasing", wish, token=lock.token)
            except LockHeldError:
                self.log("refused", wish)
            except LockLostError:
                self.log("lost", wish, token=lock.token)
            except UnreachableError:
                self.log("unreachable", wish)
            await asyncio.sleep(self.rest())


def _options(wish: Wish) -> dict[str, Any]:
    return {
        "name": wish.name,
        "lease": wish.lease,
        "wait": wish.wait,
        "mode": wish.mode,
        "permits": wish.permits,
        # Waiters count as living for three times as long.
        "poll": MAX_STAY / 3,
        "namespace": NAMESPACE,
    }


def main(assignment: Assignment) -> None:
    """Be a worker; what it did not expect stands in its log."""
    from tests.chaos.runs import RunWorker, SleepyWorker, Thief

    kinds: dict[str, type[Any]] = {
        "plain": PlainWorker,
        "async": AsyncWorker,
        "run": RunWorker,
        "sleepy": SleepyWorker,
        "thief": Thief,
    }
    worker = kinds[assignment.kind](assignment)
    journal: Journal = worker.journal
    threading.excepthook = lambda args: journal.log(
        "crash", error="".join(traceback.format_exception(args.exc_value))
    )
    if assignment.bug:
        plant(assignment.bug)
    journal.log("began", kind=assignment.kind)
    try:
        worker.run()
    except Exception:  # noqa: BLE001 - whatever it is, the judge is to know
        journal.log("crash", error=traceback.format_exc())
    journal.log("ended")
