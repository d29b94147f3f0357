"""A whole Airflow of its own for the tests: a temporary home, sqlite, and one bundle of DAGs."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nexus_redis_provider.embedded import EmbeddedServer
from tests.guarded import in_role
from tests.urls import connection_uri

HERE = Path(__file__).parent
# Airflow reads these when it is imported, hence before any test module.
HOME = tempfile.mkdtemp(prefix="nexus-airflow-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
BUNDLE = {
    "name": "tests",
    "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
    "kwargs": {"path": str(HERE / "dags")},
}
os.environ |= {
    "AIRFLOW_HOME": HOME,
    "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "false",
    "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([BUNDLE]),
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
    "AIRFLOW__NEXUS_REDIS__DEPLOYMENT_ID": "airflow",
    "AIRFLOW__LOGGING__BASE_LOG_FOLDER": f"{HOME}/logs",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.airflow)
            # Airflow's own deprecations are not ours to fail on.
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session", autouse=True)
def connections(server: EmbeddedServer) -> Iterator[None]:
    """The test server by both connection types, and one where nobody answers."""
    airflow = in_role(server.endpoint, "airflow")
    uris = {
        "AIRFLOW_CONN_NEXUS_REDIS_DEFAULT": connection_uri("nexus-redis", airflow),
        "AIRFLOW_CONN_REDIS_DEFAULT": connection_uri("redis", airflow),
        "AIRFLOW_CONN_NOWHERE": "nexus-redis://127.0.0.1:1?retries=0",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, uri in uris.items():
            patch.setenv(name, uri)
        yield


@pytest.fixture(scope="session")
def database() -> None:
    from airflow.utils.db import initdb

    initdb()


RunDag = Callable[..., dict[str, Any]]


@pytest.fixture
def run_dag(database: None, namespace: str, tmp_path: Path) -> RunDag:
    """Runs a DAG of the folder to its end; returns states and tries by task, and what it wrote."""
    from airflow.dag_processing.dagbag import DagBag

    def run(dag_id: str, **conf: Any) -> dict[str, Any]:
        bag = DagBag(HERE / "dags", bundle_name="tests")
        assert not bag.import_errors
        trail = tmp_path / "trail"
        trail.write_text("")
        finished = bag.dags[dag_id].test(
            logical_date=datetime.now(UTC),
            run_conf={"namespace": namespace, "trail": str(trail), **conf},
        )
        instances = finished.get_task_instances()
        return {
            "run_id": finished.run_id,
            "state": str(finished.state),
            "states": {instance.task_id: str(instance.state) for instance in instances},
            "tries": {instance.task_id: instance.try_number for instance in instances},
            "trail": [json.loads(line) for line in trail.read_text().splitlines()],
        }

    return run
