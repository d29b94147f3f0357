"""Callers of all kinds at once, and what a fault did to them."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import NexusRedisError
from nexus_redis_provider.core.keys import GoldKeys
from tests.chaos.callers import (
    DATASET,
    Caller,
    GoldReader,
    HalfPublishedError,
    Locker,
    Publisher,
    WaitingWriter,
    Writer,
    key_of,
)
from tests.chaos.checks import of_resource
from tests.chaos.resources import read_resources
from tests.chaos.timelines import Op, Timeline
from tests.topologies import until

ALL: Sequence[type[Caller]] = (Writer, WaitingWriter, Locker, Locker, Publisher, GoldReader)
_WRITING = frozenset({Writer, WaitingWriter, Publisher})
# What each kind does before a fault, and again after it: so often, within so many seconds.
_OFTEN = 5
_PATIENCE_S = 90.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fault did.

    Attributes:
        fault: in a few words.
        without: seconds in which none of a kind of calls succeeded, at the longest.
        met: errors that callers saw.
        acknowledged, lost: writes and publishes, and how many of them are not there any more.
        stale: reads of an older version than was acknowledged.
        violations: of the lock, as the fenced resource saw them.
    """

    fault: str
    without: dict[str, float]
    met: list[BaseException]
    acknowledged: dict[str, int]
    lost: dict[str, int]
    stale: int
    violations: list[str]

    @property
    def errors(self) -> Counter[str]:
        """How often each type of error was met."""
        return Counter(type(error).__name__ for error in self.met)

    @property
    def half_published(self) -> int:
        """Reads of what no version has."""
        return self.errors[HalfPublishedError.__name__]

    @property
    def unclear(self) -> list[str]:
        """Errors that are none of this package, each once."""
        return sorted({repr(one) for one in self.met if not isinstance(one, NexusRedisError)})


class Load:
    """Callers in threads, for as long as the block lasts.

    Attributes:
        timeline: what they did.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        directory: Path,
        *,
        name: str = "out",
        kinds: Sequence[type[Caller]] = ALL,
    ) -> None:
        self.endpoint, self.directory, self.name, self.kinds = endpoint, directory, name, kinds
        self.timeline = Timeline()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(kind,)) for kind in kinds]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        try:
            self.works_again()
        except BaseException:
            self.stop()
            raise
        self.began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        self.ended = time.monotonic()

    def works_again(self) -> None:
        """Return when calls of each kind have succeeded some times from now on."""
        now, kinds = time.monotonic(), {kind.kind for kind in self.kinds}

        def idle() -> list[str]:
            return [kind for kind in kinds if len(self.timeline.done(kind, now)) < _OFTEN]

        try:
            until(lambda: not idle(), "callers that are served", _PATIENCE_S)
        except TimeoutError as error:
            met = Counter(map(repr, self.timeline.errors(now)))
            raise TimeoutError(f"{idle()} not served: {met.most_common(3)}") from error

    def outcome(self, fault: str, reached: Endpoint | None = None) -> Outcome:
        """What became of the callers, who have stopped.

        Args:
            fault: its name.
            reached: where their writes are to be by now; by default where they wrote.
        """
        timeline, acknowledged, lost = self.timeline, dict[str, int](), dict[str, int]()
        for kind in _WRITING.intersection(self.kinds):
            numbers = [op.value for op in timeline.done(kind.kind)]
            acknowledged[kind.kind] = len(numbers)
            with (reached or self.endpoint).client() as client:
                lost[kind.kind] = len(numbers) - self._kept(client, kind, numbers)
        return Outcome(
            fault=fault,
            without={
                kind.kind: timeline.without(kind.kind, self.began, self.ended)
                for kind in self.kinds
            },
            # Before it works, nothing is published.
            met=timeline.errors(self.began),
            acknowledged=acknowledged,
            lost=lost,
            stale=timeline.stale_reads(),
            violations=[
                str(violation)
                for name, accesses in read_resources(self.directory).items()
                for violation in of_resource(name, accesses)
            ],
        )

    def _kept(self, client: redis.Redis, kind: type[Caller], numbers: Sequence[int]) -> int:
        """How many of those that were acknowledged are there."""
        if kind is Publisher:
            told = client.xrange(GoldKeys(DATASET).events)
            return len({int(fields[b"fence"]) for _, fields in told}.intersection(numbers))
        keys = [key_of(kind.kind, self.name, number) for number in numbers]
        return int(client.exists(*keys)) if keys else 0

    def _run(self, kind: type[Caller]) -> None:
        caller = kind(self.endpoint, self.name, self.directory)
        with ExitStack() as stack:
            caller.begin(stack)
            for number in itertools.count(1):
                if self._is_over.wait(caller.pause):
                    return
                self.timeline.ops.append(_op(caller, number))


def _op(caller: Caller, number: int) -> Op:
    began = time.monotonic()
    try:
        value = caller.call(number)
    except Exception as error:  # noqa: BLE001 - it is what the fault is judged by
        return Op(caller.kind, began, time.monotonic(), error=error)
    return Op(caller.kind, began, time.monotonic(), value)
