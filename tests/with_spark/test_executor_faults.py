"""Executors on two hosts: one that is killed, and tasks that run twice since they are slow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from nexus_redis_provider.embedded import EmbeddedServer
from tests.guarded import own_server
from tests.topologies import until
from tests.with_spark.clusters import HOME, Cluster, standalone_cluster
from tests.with_spark.conftest import SHORT_LIVED
from tests.with_spark.faults import LOAD_TASKS, ROOT, Driver, Loads

pytestmark = pytest.mark.spark
# A copy of a slow task goes to another host. Each has room for all tasks.
HOSTS = ("127.0.0.1", "127.0.0.2")
SLOW_S = 4
CONFIGURATION = {
    "spark.executor.cores": str(LOAD_TASKS),
    "spark.executor.memory": "512m",
    "spark.executorEnv.PYTHONPATH": str(ROOT),
    "spark.speculation": "true",
    "spark.speculation.task.duration.threshold": f"{SLOW_S}s",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Cluster]:
    environment = (
        os.environ | SHORT_LIVED | {"SPARK_HOME": str(HOME), "SPARK_DAEMON_MEMORY": "256m"}
    )
    with standalone_cluster(folder, environment, hosts=HOSTS, cores=LOAD_TASKS) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def driver(folder: Path, cluster: Cluster) -> Iterator[Driver]:
    with Driver(folder, cluster.url, **CONFIGURATION) as driver:
        yield driver


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with own_server() as server:
        yield server


@pytest.fixture
def loads(server: EmbeddedServer, driver: Driver) -> Iterator[Loads]:
    with ExitStack() as stack:
        yield Loads(server, driver, stack)


def test_an_executor_that_is_killed(cluster: Cluster, driver: Driver, loads: Loads) -> None:
    executor = max(cluster.executors(), key=lambda process: len(process.children(recursive=True)))
    workers = executor.children(recursive=True)
    executor.kill()
    # Until they notice, they may take the turn to write, and leave with it.
    psutil.wait_procs(workers, timeout=30)
    loads.go_on()
    loads.assert_published()
    assert "ExecutorLostFailure" in driver.log.read_text()


def test_tasks_that_run_twice(loads: Loads) -> None:
    """A copy of a slow task writes the same rows at the same time; those of one of them count."""
    until(loads.are_tried_twice, "a copy of a slow task of each", timeout=60)
    loads.go_on()
    loads.assert_published()
