"""DAGs that publish without Spark, and one that a publish schedules."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, get_current_context, task

from nexus_redis_provider.assets.gold import watched_gold_asset
from nexus_redis_provider.operators.dag_lock import dag_lock
from nexus_redis_provider.operators.gold_publish import GoldPublishOperator
from nexus_redis_provider.sensors.cache_warm import CacheWarmSensor

# A DAG names its assets when it is parsed.
NAMESPACE = os.environ.get("GOLD_NAMESPACE", "test-parsed")
TEMPLATE = "{{ dag_run.conf['namespace'] }}"


@task
def report(facts: dict[str, Any]) -> None:
    conf = get_current_context()["dag_run"].conf
    with Path(conf["trail"]).open("a") as trail:
        trail.write(json.dumps(facts) + "\n")


with (
    DAG("gold_by_sql", schedule=None, template_searchpath=str(Path(__file__).parent)),
    dag_lock(namespace=NAMESPACE) as lock,
):
    publish = GoldPublishOperator(
        task_id="publish",
        sql="sales.sql",
        parameters={"least": "{{ dag_run.conf['least'] }}"},
        conn_id="source",
        dataset="sales",
        key=["shop", "day"],
        types={"day": "date"},
        ttl="{{ 30 + 30 }}",
        ttl_jitter="{{ 5 + 5 }}",
        min_rows="1",
        fence=lock.output,
        lineage={"by": "{{ task.task_id }}"},
        namespace=NAMESPACE,
    )
    warm = CacheWarmSensor(
        task_id="warm",
        dataset="sales",
        min_version=publish.output["version"],
        namespace=NAMESPACE,
        timeout=20,
    )
    report({"published": publish.output, "token": lock.output, "found": warm.output})

with DAG("gold_by_rows", schedule=None):

    @task
    def rows() -> list[dict[str, Any]]:
        return [{"id": "a", "n": 1}, {"id": "b", "n": None, "share": 0.5}]

    publish = GoldPublishOperator(
        task_id="publish",
        rows=rows(),
        dataset="{{ dag_run.conf['dataset'] }}",
        key="id",
        ttl=60,
        namespace=TEMPLATE,
        emit=False,
    )
    report({"published": publish.output})

with DAG("gold_follower", schedule=watched_gold_asset("sales", namespace=NAMESPACE)):
    report({})
