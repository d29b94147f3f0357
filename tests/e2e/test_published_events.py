"""A publish, by whomever, schedules a DAG."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from nexus_redis_provider.core.gold.history import rollback
from nexus_redis_provider.core.gold.tables import publish_table
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.embedded import EmbeddedServer
from tests.e2e.stage import LONG, Stage

pytestmark = pytest.mark.e2e
DATASET = "followed"


def test_every_publish_runs_the_dag(stage: Stage, lock_server: EmbeddedServer):
    keys = GoldKeys(DATASET)

    def publish() -> str:
        table = pa.table({"id": ["a"]})
        return publish_table(table, DATASET, key="id", endpoint=lock_server.endpoint).version

    def heard() -> tuple[str, str]:
        """What the next run was told."""
        found = stage.signals.blpop(["heard"], LONG)
        assert found, stage.airflow.ask("GET", "assets/events")
        event = json.loads(found[1])
        return event["kind"], event["version"]

    with lock_server.endpoint.client() as client:
        stage.wait(lambda: client.hlen(keys.watchers) == 1)
        first = publish()
        assert heard() == ("publish", first)
        second = publish()
        assert heard() == ("publish", second)
        rollback(client, DATASET)
        assert heard() == ("rollback", first)
        # What Airflow has stored does not come again.
        newest = client.xinfo_stream(keys.events)["last-generated-id"]
        stage.wait(lambda: client.hvals(keys.watchers) == [newest])

    stored = stage.airflow.ask("GET", "assets/events")["asset_events"]
    kinds = [event["extra"]["payload"]["kind"] for event in stored if "payload" in event["extra"]]
    assert sorted(kinds) == ["publish", "publish", "rollback"]
    assert not stage.signals.llen("heard")
