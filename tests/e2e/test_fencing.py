"""What no lock can prevent, a fencing token does: a writer that was paused comes back too late."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from demo.standalone import alive, kill
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.embedded import EmbeddedServer
from tests.e2e.stage import Run, Stage

pytestmark = [pytest.mark.e2e, pytest.mark.spark]
DATASET = "fenced"
KEYS = GoldKeys(DATASET)
ROWS = 1000


def test_a_publisher_that_was_paused_comes_too_late(
    stage: Stage, lock_server: EmbeddedServer, job_logs: Path
):
    with lock_server.endpoint.client() as client:
        late = stage.enter("publishing")
        assert stage.at_work("publishing") == late
        token = held_token(stage, late)
        stage.wait(lambda: client.keys(f"*:gold:{DATASET}:*"))
        with paused(stage.process(late)) as job:
            # Airflow ends the run, but the job is not in its reach.
            following = stage.enter_to_wait("publishing")
            stage.mark(late, "failed")
            assert stage.at_work("publishing") == following
            newer = held_token(stage, following)
            go_on(stage, following)
            stage.until("success", following)
            manifest = GoldDataset(client, DATASET).verify()
            assert manifest.fence == newer > token

            for process in job:
                process.resume()
            go_on(stage, late)
            stage.wait(lambda: not alive(job))
            said = (job_logs / f"{token}.log").read_text()
            assert "StaleFenceError" in said, said
            assert f"fencing token {token} is older than {newer}" in said

        # Readers see what they saw before, and nothing is left of what was refused.
        gold = GoldDataset(client, DATASET)
        assert gold.verify() == manifest
        assert {row["run"] for row in gold.scan()} == {str(following)}
        assert len(client.keys(f"*:gold:{DATASET}:*")) == ROWS
        assert client.zcard(KEYS.staging) == 0
        assert stage.state(late) == "failed"


def held_token(stage: Stage, run: Run) -> int:
    holder = stage.holder(f"dag:{run.dag_id}")
    assert holder
    assert holder.owner.endswith(f"/{run}")
    return holder.token


def go_on(stage: Stage, run: Run) -> None:
    stage.signals.rpush(f"go on {run}", "please")


@contextmanager
def paused(head: psutil.Process) -> Iterator[Sequence[psutil.Process]]:
    """A job's driver, JVM and Python workers, stopped; none of them is left behind."""
    job = [head, *head.children(recursive=True)]
    try:
        for process in job:
            process.suspend()
        yield job
    finally:
        kill(job)
