"""A standalone Spark cluster of real processes on this machine."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyspark

from tests.topologies import until

HOME = Path(pyspark.__file__).parent
_ROOT = "org.apache.spark.deploy"
_URL = re.compile(r"Starting Spark master at (spark://\S+)")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A master and its workers.

    Attributes:
        url: of the master.
        workers: in the order of their hosts.
    """

    url: str
    workers: Sequence[psutil.Process]

    def executors(self) -> list[psutil.Process]:
        """The JVMs in which tasks run."""
        children = [process for worker in self.workers for process in worker.children()]
        return [process for process in children if _is_executor(process)]


def _is_executor(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):  # It has ended meanwhile.
        return "org.apache.spark.executor.CoarseGrainedExecutorBackend" in process.cmdline()
    return False


@contextmanager
def standalone_cluster(
    folder: Path,
    environment: Mapping[str, str],
    *,
    hosts: Sequence[str] = ("127.0.0.1", "127.0.0.1"),
    cores: int = 1,
) -> Iterator[Cluster]:
    """A master with a worker for each host; logs and what tasks say are in the folder."""
    with ExitStack() as stack:

        def start(name: str, *arguments: str) -> tuple[Path, psutil.Process]:
            log = folder / f"{name}.log"
            process = _running([HOME / "bin" / "spark-class", *arguments], log, environment, folder)
            return log, psutil.Process(stack.enter_context(process).pid)

        ports = ("--port", "0", "--webui-port", "0")
        log, _ = start("master", f"{_ROOT}.master.Master", "--host", "127.0.0.1", *ports)
        where = until(lambda: _URL.search(log.read_text()), "a master", timeout=60)
        workers = []
        for number, host in enumerate(hosts, 1):
            work = ("--work-dir", str(folder / f"worker-{number}"))
            size = ("--cores", str(cores), "--memory", "600m")
            options = ("--host", host, *ports, *size, *work, where[1])
            _, worker = start(f"worker-{number}", f"{_ROOT}.worker.Worker", *options)
            workers.append(worker)
        registered = "Registering worker"
        until(
            lambda: log.read_text().count(registered) == len(hosts),
            "all of its workers",
            timeout=60,
        )
        yield Cluster(where[1], workers)


@contextmanager
def _running(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str], folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=folder)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
