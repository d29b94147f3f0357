"""Two runs of a DAG at the same moment, and what can be seen of them while they work."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import redis

from demo.standalone import Standalone, StandaloneError
from nexus_redis_provider.core.locks.protocol import who_holds
from nexus_redis_provider.core.scripts import run

_TOLD = {"running", "success", "skipped", "failed", "upstream_failed"}
_OVER = {"success", "failed"}


class Watch:
    """Starts the runs and tells what happens, as it happens.

    Attributes:
        results: what the Spark job reported, a dict per dataset.
        refusal: what the lock task of the other run said.
    """

    def __init__(
        self, airflow: Standalone, client: redis.Redis, dag_id: str, say: Callable[[str], None]
    ) -> None:
        self._airflow = airflow
        self._client = client
        self._dag_id = dag_id
        self._say = say
        self._runs: dict[str, str] = {}
        self._states: dict[tuple[str, str], str] = {}
        self._told: dict[Path, int] = {}
        self._holder: str | None = None
        self.results: list[dict[str, Any]] = []
        self.refusal = ""

    def run_twice(self, conf: Mapping[str, Any], timeout: float) -> None:
        """Returns when both runs are over, one of them having worked and one kept out.

        Raises:
            StandaloneError: it came otherwise; with the end of the log of what failed.
        """
        for name in ("A", "B"):
            self._runs[name] = self._airflow.trigger(self._dag_id, conf)
            self._say(f"  run {name} is {self._runs[name]}")
        self._airflow.wait(self._both_over, timeout)
        worked = [name for name in self._runs if self._states.get((name, "publish")) == "success"]
        kept_out = [name for name in self._runs if self._states.get((name, "publish")) == "skipped"]
        if len(worked) != 1 or len(kept_out) != 1:
            raise StandaloneError(f"One run was to work and one to be skipped:\n{self._failures()}")
        if failures := self._failures():
            raise StandaloneError(failures)
        self.refusal = next(
            line for line in self._lines(kept_out[0], "lock") if "is held by" in line
        )

    def _both_over(self) -> bool:
        # Runs first: what was over before is not missed among the tasks.
        runs, tasks = self._airflow.runs(self._dag_id), self._airflow.tasks(self._dag_id)
        for name, run_id in self._runs.items():
            self._tell_states(
                name, {task: tasks[run, task] for run, task in tasks if run == run_id}
            )
            self._tell_progress(name)
        self._tell_holder()
        return all(runs[run_id] in _OVER for run_id in self._runs.values())

    def _tell_states(self, name: str, states: Mapping[str, str | None]) -> None:
        changed: dict[str, list[str]] = {}
        for task, state in states.items():
            if state in _TOLD and self._states.get((name, task)) != state:
                self._states[name, task] = state
                changed.setdefault(state, []).append(task)
        for state, tasks in changed.items():
            self._say(f"  run {name}  {state:<9} {', '.join(tasks)}")

    def _tell_progress(self, name: str) -> None:
        lines = self._lines(name, "publish")
        log = self._log(name, "publish")
        for line in lines[self._told.get(log, 0) :]:
            if line.startswith('{"dataset"'):
                self.results.append(result := json.loads(line))
                self._say(f"    Spark  {result['dataset']}: {result['rows']:,} rows published")
            elif line.startswith("gold_to_redis: "):
                self._say(f"    Spark  {line.removeprefix('gold_to_redis: ')}")
        self._told[log] = len(lines)

    def _tell_holder(self) -> None:
        holder = run(self._client, who_holds(f"dag:{self._dag_id}"))
        if holder and holder.owner != self._holder:
            self._holder = holder.owner
            self._say(f"  Redis: the lock is held by {holder.owner}, token {holder.token}")

    def _failures(self) -> str:
        failed = [key for key, state in self._states.items() if state == "failed"]
        return "\n".join(
            f"run {name}, task {task}, failed:\n" + "\n".join(self._lines(name, task)[-30:])
            for name, task in failed
        )

    def _log(self, name: str, task: str) -> Path:
        return self._airflow.task_log(self._dag_id, self._runs[name], task)

    def _lines(self, name: str, task: str) -> list[str]:
        """The messages in a task's log."""
        log = self._log(name, task)
        if not log.exists():
            return []
        complete = log.read_text(encoding="utf-8", errors="replace").rpartition("\n")[0]
        return [_message(line) for line in complete.splitlines()]


def _message(line: str) -> str:
    try:
        return str(json.loads(line)["event"])
    except (ValueError, KeyError, TypeError):
        return line
