"""Processes of Spark that a test may kill: a driver, its executors, and their Python workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import psutil

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import PublishError
from nexus_redis_provider.core.gold.manifests import Manifest
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.embedded import EmbeddedServer
from tests.gold_faults import (
    DELTA,
    HASH,
    JSON,
    PACKED,
    SHAPES,
    Reader,
    Shape,
    assert_settled,
    publish,
    staging,
)
from tests.guarded import own_server
from tests.topologies import until
from tests.with_spark import faults_job
from tests.with_spark.conftest import SHORT_LIVED

ROOT = Path(__file__).parents[2]
CONFIGURATION = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.default.parallelism": "1",  # Four shares of packed rows for each.
    "spark.scheduler.mode": "FAIR",
}


OLD_TOKEN = 1
LOAD_TASKS = 10
PATIENCE_S = 90
# Tasks write one after the other (see `faults_job.write_a_part`), what is theirs in two batches or
# more: of a quarter of a second each. What they may write is not looked at before.
_LOAD = {"fence": OLD_TOKEN, "max_writers": 1, "memory_margin": None}
_ROWS_PER_SECOND = {JSON: 300, HASH: 300, PACKED: 150, DELTA: 30}


class Driver:
    """A driver in a process of its own; used as a context manager.

    Attributes:
        log: what it and its JVM say.
    """

    def __init__(self, folder: Path, master: str, **configuration: str) -> None:
        self.log = folder / "driver.log"
        self._configuration = {"spark.master": master, **CONFIGURATION, **configuration}
        self._orders: dict[int, Future[Manifest]] = {}
        self._is_ready = threading.Event()

    def __enter__(self) -> Self:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", faults_job.__name__, json.dumps(self._configuration)],
                env=os.environ | SHORT_LIVED | {"PYSPARK_PYTHON": sys.executable},
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        try:
            self._warm_up()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _warm_up(self) -> None:
        """The first publish of a driver takes it some time, which is to be no part of a load."""
        if not self._is_ready.wait(PATIENCE_S):
            raise TimeoutError(f"no driver: {self.log.read_text()[-3000:]}")
        with own_server() as other:
            for publishing in [self.publish(shape, 1, other.endpoint) for shape in SHAPES]:
                publishing.result(PATIENCE_S)

    def publish(
        self, shape: Shape, version: int, endpoint: Endpoint, **options: Any
    ) -> Future[Manifest]:
        """Begin to publish a version to the dataset of a shape.

        The result is that of `publish`, or its error.
        """
        number = len(self._orders)
        self._orders[number] = Future()
        options |= {"dataset": str(shape), "endpoint": endpoint}
        line = faults_job.encoded((number, shape, version, options))
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self._orders[number]

    def kill(self) -> None:
        """End it and its JVM as a crash of the machine does; workers end by themselves then."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        with self.process:  # Its pipes are closed, too.
            self._listener.join()

    def _listen(self) -> None:
        for line in self.process.stdout:
            match faults_job.decoded(line):
                case "ready":
                    self._is_ready.set()
                case (number, Exception() as error):
                    self._orders[number].set_exception(error)
                case (number, manifest):
                    self._orders[number].set_result(manifest)


def workers_on(port: int, parent: int) -> list[psutil.Process]:
    """The descendants of a process that are connected to a server: Python workers that write."""
    children = psutil.Process(parent).children(recursive=True)
    return [process for process in children if _is_connected(process, port)]


def _is_connected(process: psutil.Process, port: int) -> bool:
    with suppress(psutil.NoSuchProcess):  # It has ended meanwhile.
        links = process.net_connections(kind="tcp")
        return any(link.raddr and link.raddr.port == port for link in links)
    return False


class Loads:
    """A dataset of each layout: a version that readers see, and the next one, half written."""

    def __init__(self, server: EmbeddedServer, driver: Driver, stack: ExitStack) -> None:
        self._server, self._driver = server, driver
        self._client = stack.enter_context(server.endpoint.client())
        self.readers: list[Reader] = []
        for shape in SHAPES:
            keys = GoldKeys(str(shape))
            publish(server.endpoint, keys, shape, 1)
            self.readers.append(stack.enter_context(Reader(server.endpoint, keys, shape)))
            self.readers[-1].reads_on()
        self._publishes = [
            driver.publish(shape, 2, server.endpoint, max_rows_per_second=rate, **_LOAD)
            for shape, rate in _ROWS_PER_SECOND.items()
        ]
        until(
            lambda: all(self._staged_rows(reader) for reader in self.readers),
            "rows of each that are staged",
            timeout=60,
        )

    @property
    def workers(self) -> list[psutil.Process]:
        """Python workers that are connected to the server, since they write to it."""
        return workers_on(self._server.port, self._driver.process.pid)

    def are_tried_twice(self) -> bool:
        """Whether of each a second attempt at a partition writes, too."""
        return all(self._attempts(reader) > 1 for reader in self.readers)

    def go_on(self) -> None:
        """Let tasks write the rest."""
        for reader in self.readers:
            for version in staging(self._client, reader.keys):
                self._client.unlink(reader.keys.writers(version))

    def assert_published(self) -> None:
        for reader, publishing in zip(self.readers, self._publishes, strict=True):
            publishing.result(PATIENCE_S)
            assert_settled(self._client, reader, live=2)

    def assert_failed(self, error: type[PublishError], says: str, live: int = 1) -> None:
        errors = self.errors()
        for reader, raised in zip(self.readers, errors, strict=True):
            assert type(raised) is error, raised
            assert_settled(self._client, reader, live=live, error=raised, says=says)

    def errors(self) -> list[BaseException | None]:
        """What came of each, when all have ended."""
        return [publishing.exception(PATIENCE_S) for publishing in self._publishes]

    def assert_left(self) -> None:
        """As a failed publish, but that nobody is there any more who could tidy up, or say so."""
        for reader in self.readers:
            assert self._staged_rows(reader) > 0
            assert_settled(self._client, reader, live=1)

    def _staged_rows(self, reader: Reader) -> int:
        return sum(staging(self._client, reader.keys).values())

    def _attempts(self, reader: Reader) -> int:
        """How many attempts at the first partition are known."""
        (version,) = staging(self._client, reader.keys)
        names = self._client.hkeys(reader.keys.attempts(version))
        return sum(name.startswith(b"0.") for name in names)
