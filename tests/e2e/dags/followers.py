"""A DAG that runs when a dataset is published, and tells of what."""

from __future__ import annotations

import json
from typing import Any

from airflow.sdk import DAG, task
from locked_work import signals

from nexus_redis_provider.assets.gold import watched_gold_asset

sales = watched_gold_asset("followed")

with DAG("follower", schedule=sales):

    @task
    def tell(triggering_asset_events: Any = None) -> None:
        with signals() as client:
            for event in triggering_asset_events[sales]:
                client.rpush("heard", json.dumps(event.extra["payload"]))

    tell()
