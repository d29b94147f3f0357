"""A whole Airflow of one's own for some minutes: `airflow standalone`, driven by its REST API."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import httpx
import psutil

_T = TypeVar("_T")
# Each look costs the API server CPU that Airflow and its tasks need.
_PAUSE = 0.5
_TRIES = 5
_COMPONENTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")


class StandaloneError(Exception):
    """Airflow did not do what it was asked to; the message holds the end of its log."""


class Standalone:
    """Scheduler, triggerer, DAG processor and API server on free ports, in a folder of their own.

    Nothing of it is left when the block ends, however it ends: no process, no file.

    Example:
        with Standalone(Path("dags"), {}) as airflow:
            run_id = airflow.trigger("my_dag")
            airflow.wait(lambda: airflow.runs("my_dag")[run_id] == "success", timeout=60)
    """

    def __init__(self, dags: Path, environment: Mapping[str, str]) -> None:
        """Prepare; Airflow starts on entering the block.

        Args:
            dags: folder of the DAG files.
            environment: further variables of Airflow and of its tasks, such as AIRFLOW_CONN_...
        """
        self._folder = tempfile.TemporaryDirectory(prefix="nexus-standalone-")
        self.home = Path(self._folder.name)
        self.log = self.home / "standalone.log"
        api, *log_servers = _free_ports(3)
        self.url = f"http://127.0.0.1:{api}"
        # What is set for another Airflow, such as its database, must not reach this one.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW_")}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        settings = self._settings(dags, api, *log_servers)
        self._environment = inherited | {"PATH": path} | settings | dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._restarted: list[subprocess.Popen[bytes]] = []
        self._client = httpx.Client(base_url=self.url, timeout=30)

    def _settings(
        self, dags: Path, api: int, worker_logs: int, trigger_logs: int
    ) -> dict[str, str]:
        return {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(api),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_logs),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_logs),
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        }

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def wait(self, condition: Callable[[], _T], timeout: float) -> _T:
        """What the condition gives as soon as it is true.

        Raises:
            StandaloneError: Airflow ended, or time is over.
        """
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            if self._process is None or self._process.poll() is not None:
                raise StandaloneError(f"Airflow ended by itself.\n{self.tail()}")
            if time.monotonic() > deadline:
                raise StandaloneError(f"Not within {timeout:.0f} s.\n{self.tail()}")
            time.sleep(_PAUSE)
        return found

    def knows(self, dag_id: str) -> bool:
        """Whether Airflow has read a DAG.

        Raises:
            StandaloneError: it cannot be imported.
        """
        if self._client.get(f"/api/v2/dags/{dag_id}").is_success:
            return True
        for error in self.ask("GET", "importErrors")["import_errors"]:
            raise StandaloneError(f"{error['filename']}:\n{error['stack_trace']}")
        return False

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run of a DAG, waiting until Airflow knows the DAG; returns the run's id."""
        self.wait(lambda: self.knows(dag_id), timeout=120)
        body = {"logical_date": None, "conf": dict(conf or {})}
        return str(self.ask("POST", f"dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def runs(self, dag_id: str) -> dict[str, str]:
        """States of all runs of a DAG by run id: queued, running, success or failed."""
        found = self.ask("GET", f"dags/{dag_id}/dagRuns")["dag_runs"]
        return {run["dag_run_id"]: run["state"] for run in found}

    def tasks(self, dag_id: str) -> dict[tuple[str, str], str | None]:
        """States of the tasks of all runs of a DAG by run id and task id."""
        found = self.ask("GET", f"dags/{dag_id}/dagRuns/~/taskInstances")["task_instances"]
        return {(task["dag_run_id"], task["task_id"]): task["state"] for task in found}

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """What the REST API (v2) replies to a request; options as of httpx.

        Raises:
            StandaloneError: it refuses, with its reason.
        """
        for _ in range(_TRIES):
            reply = self._client.request(method, f"/api/v2/{path}", **options)
            if not _is_database_busy(reply):
                break
        if not reply.is_success:
            raise StandaloneError(f"{method} {path}: {reply.status_code} {reply.text}")
        return reply.json() if reply.content else None

    def task_log(self, dag_id: str, run_id: str, task_id: str) -> Path:
        """File of the first try of a task; it is there once the task runs."""
        folder = self.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}"
        return folder / f"task_id={task_id}" / "attempt=1.log"

    def processes(self) -> list[psutil.Process]:
        """All that Airflow and its tasks consist of at this moment."""
        return [one for head in self._heads() for one in _family(head.pid)]

    def kill(self, component: str) -> None:
        """Kill the scheduler, the triggerer or the dag-processor, as if its machine were gone."""
        kill(_family(next(one.pid for one in self.processes() if component in _words(one))))

    def start(self, component: str) -> None:
        """Start a component that was killed again; returns before it is ready."""
        with self.log.open("ab") as log:
            self._restarted.append(self._airflow(component, log))

    def tail(self, lines: int = 40) -> str:
        """The end of what Airflow printed, without the requests that were made of it."""
        printed = self.log.read_text(errors="replace").splitlines()
        return "\n".join([line for line in printed if "[http.access]" not in line][-lines:])

    def _start(self) -> None:
        with self.log.open("ab") as log:
            self._process = self._airflow("standalone", log)
        self.wait(self._is_healthy, timeout=180)
        token = self._client.get("/auth/token").raise_for_status().json()["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"

    def _airflow(self, command: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C reaches it through `_stop`, once and in order.
        return subprocess.Popen(
            ["airflow", command],
            env=self._environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _heads(self) -> list[subprocess.Popen[bytes]]:
        return [] if self._process is None else [self._process, *self._restarted]

    def _is_healthy(self) -> bool:
        try:
            health = self._client.get("/api/v2/monitor/health").raise_for_status().json()
        except httpx.HTTPError:
            return False
        return all(health[component]["status"] == "healthy" for component in _COMPONENTS)

    def _stop(self) -> None:
        self._client.close()
        for head in self._heads():
            end(head)
        self._folder.cleanup()


def end(process: subprocess.Popen[bytes], grace: float = 6) -> None:
    """End a process and all it has started: asked to first, then by force."""
    # Tasks run in process groups of their own and would outlive their parents.
    family = _family(process.pid)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + grace
    while left := alive(family):
        if time.monotonic() > deadline:
            # The scheduler waits for its tasks, however long they work.
            family = [relative for one in left for relative in _family(one.pid)]
            kill(family)
        process.poll()
        time.sleep(0.1)
    process.wait()


def kill(processes: Iterable[psutil.Process]) -> None:
    """End processes by force; harmless where they have ended."""
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; not those that have ended and wait for a parent to take notice."""
    return [one for one in processes if one.is_running() and not _is_zombie(one)]


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _is_database_busy(reply: httpx.Response) -> bool:
    """Whether nothing was done, since SQLite, which has one writer at a time, had another one."""
    return reply.status_code == 503 or (reply.status_code == 500 and "Database error" in reply.text)


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _family(pid: int) -> list[psutil.Process]:
    try:
        head = psutil.Process(pid)
        return [head, *head.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _free_ports(count: int) -> Iterator[int]:
    with contextlib.ExitStack() as stack:
        # All at once, or the same one might come twice.
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return iter([probe.getsockname()[1] for probe in probes])
