"""Runs on a real Airflow and what their works say: the words in which the scenarios are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeVar

import psutil
import redis

from demo.standalone import Standalone, StandaloneError
from nexus_redis_provider.core.locks.protocol import inspect
from nexus_redis_provider.core.locks.states import Holder, LockState
from nexus_redis_provider.core.scripts import run as call

T = TypeVar("T")
LONG = 120


@dataclass(frozen=True)
class Run:
    """A DAG run; in text as its owner's name ends, and as its work calls itself."""

    dag_id: str
    run_id: str

    def __str__(self) -> str:
        return f"{self.dag_id}/{self.run_id}"

    @classmethod
    def of(cls, text: str) -> Self:
        return cls(*text.split("/", 1))

    @property
    def path(self) -> str:
        return f"dags/{self.dag_id}/dagRuns/{self.run_id}"


class Event(NamedTuple):
    """What a work says: `start` or `end`, and the fencing token that it has."""

    what: str
    run: Run
    token: int


class Stage:
    """Where runs enter, work, and are told to end."""

    def __init__(self, airflow: Standalone, locks: redis.Redis, signals: redis.Redis) -> None:
        self.airflow = airflow
        self.signals = signals
        self._locks = locks
        self._processes: dict[Run, psutil.Process] = {}
        self.seen: list[Run] = []

    def enter(self, dag_id: str, **conf: object) -> Run:
        """Start a run."""
        self.seen.append(run := Run(dag_id, self.airflow.trigger(dag_id, conf)))
        return run

    def enter_to_wait(self, dag_id: str, **conf: object) -> Run:
        """Start a run; returns once it waits for its lock, where that costs no worker."""
        run = self.enter(dag_id, **conf)
        self.until_waiting(run)
        return run

    def until_waiting(self, run: Run) -> None:
        self.wait(lambda: self.task(run, "lock") == "deferred")
        assert self.task(run, "work") is None

    def at_work(self, *dag_ids: str) -> Run:
        """The run whose work started next."""
        found = self.signals.blpop([f"started {dag_id}" for dag_id in dag_ids], LONG)
        assert found, f"no work of {dag_ids} started"
        text, pid = found[1].decode().rsplit(" ", 1)
        self.seen.append(run := Run.of(text))
        self._processes[run] = psutil.Process(int(pid))
        return run

    def process(self, run: Run) -> psutil.Process:
        """That of the last try of its work; its parent is the supervisor."""
        return self._processes[run]

    def let_end(self, run: Run, how: str = "well") -> None:
        self.signals.rpush(f"end {run}", how)

    def dismiss(self, runs: Iterable[Run]) -> None:
        """Let their works end now or as soon as they start, whatever has become of the test."""
        for run in runs:
            self.signals.rpush(f"end {run}", *["well"] * 3)

    def events(self, *runs: Run) -> list[Event]:
        """What works of these runs said, in order."""
        found = [event.decode().split() for event in self.signals.lrange("events", 0, -1)]
        said = [Event(what, Run.of(run), int(token)) for what, run, token in found]
        return [event for event in said if event.run in runs]

    def worked(self, *runs: Run) -> list[tuple[Run, int]]:
        """Who worked, and with which token; fails if any two worked at the same time."""
        said = self.events(*runs)
        starts, ends = said[::2], said[1::2]
        assert [event.what for event in starts] == ["start"] * len(starts), said
        assert [event._replace(what="end") for event in starts] == ends, said
        return [(event.run, event.token) for event in starts]

    def state(self, run: Run) -> str:
        return str(self.airflow.ask("GET", run.path)["state"])

    def tasks(self, run: Run) -> dict[str, str | None]:
        found = self.airflow.ask("GET", f"{run.path}/taskInstances")["task_instances"]
        return {task["task_id"]: task["state"] for task in found}

    def task(self, run: Run, task_id: str) -> str | None:
        return self.tasks(run).get(task_id)

    def until(self, state: str, *runs: Run) -> None:
        """Return when all of the runs are in that state."""
        self.wait(lambda: all(self.state(run) == state for run in runs))

    def wait(self, condition: Callable[[], T]) -> T:
        """What the condition gives as soon as it is true."""
        try:
            return self.airflow.wait(condition, LONG)
        except StandaloneError as error:
            for run in dict.fromkeys(self.seen[-8:]):
                with suppress(StandaloneError):
                    error.add_note(f"{run} is {self.state(run)}: {self.tasks(run)}")
            raise

    def mark(self, run: Run, state: str) -> None:
        """As with the buttons of the UI."""
        self.airflow.ask("PATCH", run.path, json={"state": state})

    def clear(self, run: Run, task_id: str) -> None:
        """Let a task run again, as with the button of the UI."""
        body = {"dag_run_id": run.run_id, "task_ids": [task_id]}
        options = {"dry_run": False, "only_failed": False}
        self.airflow.ask("POST", f"dags/{run.dag_id}/clearTaskInstances", json=body | options)

    def log(self, run: Run, task_id: str) -> str:
        """All that the first try of a task said."""
        return self.airflow.task_log(run.dag_id, run.run_id, task_id).read_text()

    def lock(self, name: str) -> LockState:
        return call(self._locks, inspect(name))

    def holder(self, name: str) -> Holder | None:
        """The only holder, or None."""
        holders = self.lock(name).holders
        assert len(holders) < 2
        return holders[0] if holders else None

    def line(self, name: str) -> list[Run]:
        """Who waits for a lock, in order."""
        return [Run.of(waiter.owner.split("/", 1)[1]) for waiter in self.lock(name).waiters]
