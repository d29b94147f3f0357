"""The same by Spark Connect, whose client shares no JVM with Spark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.urls import url_of
from tests.with_spark import connect_job
from tests.with_spark.conftest import SHORT_LIVED

pytestmark = pytest.mark.spark


def test_a_client_of_spark_connect_publishes_and_reads(rows, endpoint, namespace):
    environment = {**os.environ, **SHORT_LIVED, "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run(
        [sys.executable, "-m", connect_job.__name__, url_of(endpoint), namespace],
        env=environment | {"PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert "connect" in seen["session"]
    assert (seen["published"], seen["upserted"]) == (100, 100)
    assert seen["repeated"][0] == "DuplicateKeyError"
    assert seen["failed"][0] == "PublishError"
    assert "No module named 'nowhere'" in seen["failed in Python"][1]
    assert "boom" in seen["failed"][1]
    assert rows.verify().rows == 100
    assert seen["read"] == [{"id": "7", "array(id)": [7]}]
