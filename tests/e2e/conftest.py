"""One Airflow for all end-to-end tests: scheduler, triggerer, API server, task processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from demo.standalone import Standalone, alive
from nexus_redis_provider.embedded import EmbeddedServer, find_server
from tests.conftest import need_server
from tests.e2e.stage import Stage
from tests.guarded import in_role, own_server
from tests.urls import connection_uri, url_of

HERE = Path(__file__).parent
SETTINGS = {
    # Else a DAG file must have the word airflow in it.
    "AIRFLOW__CORE__DAG_DISCOVERY_SAFE_MODE": "False",
    # Waits for machines and work of another size.
    "AIRFLOW__CORE__PARALLELISM": "8",
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
    "AIRFLOW__DAG_PROCESSOR__PRINT_STATS_INTERVAL": "0",
}


@pytest.fixture(scope="session")
def signal_server() -> Iterator[EmbeddedServer]:
    """Where works tell what they do, and are told what to do: never what is tested."""
    need_server(find_server)
    with EmbeddedServer() as server:
        yield server


@pytest.fixture(scope="session")
def lock_server() -> Iterator[EmbeddedServer]:
    """Where the locks are; what it has said is still true after a restart."""
    need_server(find_server)
    with own_server("--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture(scope="session")
def job_logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Spark jobs write what they say, each into a file named by its fencing token."""
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="session")
def shared_stage(
    lock_server: EmbeddedServer, signal_server: EmbeddedServer, job_logs: Path
) -> Iterator[Stage]:
    environment = {
        "AIRFLOW_CONN_NEXUS_REDIS_DEFAULT": connection_uri(
            "nexus-redis", in_role(lock_server.endpoint, "airflow")
        ),
        "NEXUS_REDIS_URL": url_of(in_role(lock_server.endpoint, "spark")),
        "E2E_SIGNALS_URL": signal_server.url,
        "E2E_JOB_LOGS": str(job_logs),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        **SETTINGS,
    }
    signals = redis.Redis.from_url(signal_server.url, socket_timeout=None)
    with signals, lock_server.endpoint.client() as locks:
        with Standalone(HERE / "dags", environment) as airflow:
            stage = Stage(airflow, locks, signals)
            yield stage
            # Even work that is not over does not outlive it.
            stage.enter("unfinished")
            stage.at_work("unfinished")
            processes = airflow.processes()
        assert len(processes) > 6, "the parent, four components, and the task at least"
        assert alive(processes) == []
        assert not airflow.home.exists()


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    """The stage; who came in a test that failed does not stay in the way of the next one."""
    health = shared_stage.airflow.ask("GET", "monitor/health")
    assert health["scheduler"]["status"] == "healthy", shared_stage.airflow.tail()
    seen = set(shared_stage.seen)
    yield shared_stage
    shared_stage.dismiss(set(shared_stage.seen) - seen)
