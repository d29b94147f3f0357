"""What may befall a publish by Spark, with real processes: nothing is half published, or left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from nexus_redis_provider.core.errors import (
    PublishError,
    StaleFenceError,
    SupersededError,
    WriteError,
)
from nexus_redis_provider.embedded import EmbeddedServer, find_server
from tests.conftest import need_server
from tests.gold_faults import SHAPES, publish
from tests.guarded import own_server
from tests.topologies import stopped, until
from tests.with_spark.faults import LOAD_TASKS, OLD_TOKEN, Driver, Loads

pytestmark = pytest.mark.spark
NEW_TOKEN = OLD_TOKEN + 1


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """One for all tests, the last of which kills it."""
    with Driver(tmp_path_factory.mktemp("driver"), f"local[{LOAD_TASKS},4]") as driver:
        yield driver


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server that a test may ruin, but that keeps what it was told over a restart.

    Where it may not write more to a file, it is told so, as where a disk is full; else it would be
    ended by a signal.
    """
    binary = tmp_path / "server"
    binary.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec '{need_server(find_server)}' \"$@\"\n")
    binary.chmod(0o755)
    with own_server("--appendonly", "yes", binary=binary) as own:
        yield own


@pytest.fixture
def loads(own: EmbeddedServer, driver: Driver) -> Iterator[Loads]:
    with ExitStack() as stack:
        yield Loads(own, driver, stack)


def test_python_workers_that_are_killed(driver: Driver, loads: Loads) -> None:
    workers = loads.workers
    assert len(workers) >= len(SHAPES)
    for worker in workers:
        worker.kill()
    loads.go_on()
    loads.assert_published()
    assert driver.log.read_text().count("Python worker exited unexpectedly") >= len(workers)


def test_a_server_that_is_silent_for_20_seconds(own: EmbeddedServer, loads: Loads) -> None:
    with stopped(own):
        time.sleep(20)
    loads.go_on()
    loads.assert_published()
    assert all(reader.unanswered for reader in loads.readers)


def test_a_server_that_restarts(own: EmbeddedServer, loads: Loads) -> None:
    own.stop()
    own.start()
    loads.go_on()
    loads.assert_failed(PublishError, "restarted or failed over during the load")


def test_memory_that_is_used_up(own: EmbeddedServer, loads: Loads) -> None:
    with own.endpoint.client() as client:
        client.config_set("maxmemory", "1mb")
        loads.go_on()
        loads.errors()
        client.config_set("maxmemory", 0)
    loads.assert_failed(WriteError, "used memory > 'maxmemory'")


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_FSIZE"), reason="limits files on Linux alone")
def test_a_disk_that_is_full(own: EmbeddedServer, loads: Loads) -> None:
    server = psutil.Process(own.pid)
    unlimited = server.rlimit(psutil.RLIMIT_FSIZE)
    loads.go_on()
    server.rlimit(psutil.RLIMIT_FSIZE, (1, unlimited[1]))
    loads.errors()
    server.rlimit(psutil.RLIMIT_FSIZE, unlimited)
    with own.endpoint.client() as client:
        until(lambda: client.info("persistence")["aof_last_write_status"] == "ok", "a free disk")
    loads.assert_failed(WriteError, "MISCONF .*AOF")


def test_a_zombie_with_an_old_token(own: EmbeddedServer, loads: Loads) -> None:
    for reader in loads.readers:
        publish(own.endpoint, reader.keys, reader.shape, 3, fence=NEW_TOKEN)
    loads.go_on()
    loads.assert_failed(StaleFenceError, "fencing token 1 is older than 2", live=3)


def test_two_publishes_at_once(own: EmbeddedServer, loads: Loads) -> None:
    """The one that began later wins, whichever ends first."""
    for reader in loads.readers:
        publish(own.endpoint, reader.keys, reader.shape, 3, fence=OLD_TOKEN)
    loads.go_on()
    loads.assert_failed(SupersededError, "begun after .* is already published", live=3)


def test_a_driver_that_is_killed(own: EmbeddedServer, driver: Driver, loads: Loads) -> None:
    """The next publish succeeds, and removes what the dead one left once its lease is over."""
    workers = loads.workers
    driver.kill()
    psutil.wait_procs(workers, timeout=30)
    loads.assert_left()
    for reader in loads.readers:
        publish(own.endpoint, reader.keys, reader.shape, 3)
        reader.reads_on()
        assert max(reader.seen) == 3
