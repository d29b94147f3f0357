"""The suite also passes on other kinds of server: a part of it on each, for all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.deploy.programs import ROOT, need

LOCKS = tuple(
    f"tests/core/test_lock_{part}.py"
    for part in ("protocol", "lines", "permits", "deployments", "breaking")
)
# What talks to servers in different ways: scripts, pipelines, streams, SCAN.
SPREAD = (
    *LOCKS,
    "tests/core/test_warmth.py",
    "tests/core/test_gold_writing.py",
)
PARTS = {
    # Locks, Gold, a Cluster; and with the rights of their roles operators and a Spark job.
    "tls": (
        *LOCKS,
        "tests/core/test_gold_tables.py",
        "tests/core/test_clusters.py::test_rights_that_are_enough_in_a_cluster",
        "tests/with_airflow/test_dag_locks.py::test_lock_work_unlock",
        "tests/with_airflow/test_gold_publish_operator.py::test_a_query_under_a_lock",
        "tests/with_spark/test_publish_data_source.py::test_it_publishes_what_publish_publishes",
    ),
    "sentinel": SPREAD,
    "cluster": SPREAD,
}


@pytest.mark.parametrize("kind", PARTS)
def test_a_part_passes(kind: str, binaries: None) -> None:
    if kind == "tls":
        need("openssl")
    ran = subprocess.run(
        # The wheel's server has no TLS.
        [sys.executable, "-m", "pytest", "-q", "-k", "not wheel", *PARTS[kind]],
        cwd=ROOT,
        env=os.environ | {"NEXUS_TEST_SERVER": kind},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert " passed" in ran.stdout
