"""A cluster of real processes that has the package from `--py-files` alone, and a secret."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

import nexus_redis_provider
from nexus_redis_provider.core.gold.readers import GoldDataset
from tests.core.gold_datasets import user
from tests.urls import url_of
from tests.with_spark import cluster_job
from tests.with_spark.clusters import HOME, standalone_cluster
from tests.with_spark.conftest import PASSWORD, SHORT_LIVED

pytestmark = pytest.mark.spark
VARIABLE = "NEXUS_REDIS_PASSWORD"


@pytest.fixture
def bare(tmp_path) -> dict[str, str]:
    """An environment whose Python has all that is installed, but not this package."""
    python = tmp_path / "python"
    # Without `site`, what was installed for development is not there.
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    environment = {
        **{name: os.environ[name] for name in ("PATH", "JAVA_HOME") if name in os.environ},
        **SHORT_LIVED,
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PYSPARK_PYTHON": str(python),
        "SPARK_HOME": str(HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_DAEMON_MEMORY": "256m",
    }
    tried = subprocess.run(
        [python, "-c", "import redis, pyspark, nexus_redis_provider"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No module named 'nexus_redis_provider'" in tried.stderr
    return environment


@pytest.fixture
def cluster(tmp_path, bare) -> Iterator[str]:
    """The URL of a master with two workers."""
    with standalone_cluster(tmp_path, bare) as cluster:
        yield cluster.url


def test_a_publish_by_a_cluster_keeps_the_secret(  # noqa: PLR0917
    tmp_path, bare, cluster, client, endpoint, namespace
):
    package = Path(nexus_redis_provider.__file__).parent
    zipped = shutil.make_archive(str(tmp_path / "package"), "zip", package.parent, package.name)
    (tmp_path / "events").mkdir()
    # Not on the command line, which every user of the machine can read.
    properties = tmp_path / "spark.properties"
    properties.write_text(
        f"spark.executorEnv.{VARIABLE} {PASSWORD}\n"
        "spark.eventLog.enabled true\n"
        "spark.eventLog.compress false\n"
        f"spark.eventLog.dir {tmp_path / 'events'}\n"
        "spark.executor.memory 512m\n"
        "spark.driver.memory 512m\n"
        "spark.driver.host 127.0.0.1\n"
        "spark.ui.port 0\n"
        "spark.sql.shuffle.partitions 2\n"
        "spark.scheduler.minRegisteredResourcesRatio 1.0\n"
        "spark.log.level INFO\n"
    )
    name = f"user-{namespace}"
    with user(client, endpoint, name, f">{PASSWORD}", "~*", "+@all"):
        job = subprocess.run(
            [
                *(HOME / "bin" / "spark-submit", "--master", cluster),
                *("--properties-file", properties, "--py-files", zipped, cluster_job.__file__),
                url_of(endpoint, name, password_env=VARIABLE),
                namespace,
            ],
            env={**bare, VARIABLE: PASSWORD},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert job.returncode == 0, job.stderr[-5000:]
    seen = json.loads(job.stdout.splitlines()[-1])
    assert "package.zip" in seen["package"]
    assert (seen["rows"], seen["found"]) == (1000, 1000)
    assert GoldDataset(client, "sales", namespace=namespace).verify().rows == 1000
    (events,) = (
        path for path in (tmp_path / "events").rglob("*") if path.name.startswith("events")
    )
    tasks = [line for line in events.read_text().splitlines() if "SparkListenerTaskEnd" in line]
    assert {json.loads(line)["Task Info"]["Executor ID"] for line in tasks} == {"0", "1"}

    # Where the secret was given to Spark, Spark says that it keeps it to itself.
    assert f'"spark.executorEnv.{VARIABLE}":"*********(redacted)"' in events.read_text()
    assert VARIABLE in seen["ui"]
    assert "literal Redis password" in seen["refusal"]
    logs = [*tmp_path.glob("*.log"), *tmp_path.glob("worker-*/*/*/std*"), events]
    assert len(logs) == 3 + 2 * 2 + 1
    for secret in (PASSWORD, "pw-literal"):
        assert secret not in job.stdout + job.stderr
        for path in logs:
            assert secret not in path.read_text(), path
