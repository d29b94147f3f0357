"""A DAG for each Gold configuration: lock the run, publish with Spark, gate, read back, unlock.

Every `*.json` in `gold/` beside this file, or in the folder that NEXUS_GOLD_CONFIGS names, becomes
the DAG `gold_<name>`. What stands in the file is explained by `spark_jobs/gold_to_redis.py --help`;
its `dag` object holds arguments of `gold_dag` below. Each source with a path is a parameter of the
run, so that a run can read other files.

The Spark job finds Redis by NEXUS_REDIS_URL in the environment of the worker, which it inherits:
no password stands in a command line, in Spark's plans or in rendered fields. It has to be the
server of `redis_conn_id`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, Param, task

from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.hooks.redis import NexusRedisHook
from nexus_redis_provider.operators.dag_lock import dag_lock
from nexus_redis_provider.operators.locking import OnHeld
from nexus_redis_provider.sensors.cache_warm import CacheWarmSensor

HERE = Path(__file__).resolve().parent
CONFIGS = Path(os.environ.get("NEXUS_GOLD_CONFIGS", HERE / "gold"))
JOB = os.environ.get("NEXUS_GOLD_JOB", str(HERE.parent / "spark_jobs" / "gold_to_redis.py"))


@task
def read_back(dataset: str, redis_conn_id: str) -> list[dict[str, Any]]:
    with NexusRedisHook(redis_conn_id) as hook:
        rows = [
            json.dumps(row, default=str)
            for row in islice(GoldDataset(hook.get_conn(), dataset).scan(), 3)
        ]
    for row in rows:
        print(row)  # noqa: T201 - into the task's log
    return [json.loads(row) for row in rows]


def gold_dag(
    path: Path,
    config: dict[str, Any],
    *,
    schedule: str | None = None,
    tags: Sequence[str] = (),
    on_held: OnHeld = "wait",
    state_conn_id: str | None = None,
    redis_conn_id: str = "nexus_redis_default",
    spark_conn_id: str = "spark_default",
) -> DAG:
    """The DAG of one configuration.

    Args:
        path: where the configuration is, for the job to read.
        config: what stands in it.
        schedule: of the DAG; None runs it on demand.
        tags: of the DAG.
        on_held: what a run does while another one holds the lock.
        state_conn_id: the Redis of the lock; by default `[nexus_redis] state_conn_id`.
        redis_conn_id: the Redis that NEXUS_REDIS_URL names, where the datasets are published.
        spark_conn_id: the Spark connection; without it the operator would try YARN.
    """
    files = {name: source["path"] for name, source in config["sources"].items() if "path" in source}
    params = {
        name: Param(file, type="string", title=f"Path of {name}") for name, file in files.items()
    }
    arguments = [str(path), "--fence", "{{ ti.xcom_pull(task_ids='lock') }}"]
    for name in files:
        arguments += ["--input", f"{name}={{{{ params['{name}'] }}}}"]
    for fact in ("dag_id={{ dag.dag_id }}", "run_id={{ run_id }}"):
        arguments += ["--lineage", fact]
    with (
        DAG(f"gold_{path.stem}", schedule=schedule, tags=list(tags), params=params) as dag,
        dag_lock(redis_conn_id=state_conn_id, on_held=on_held, lock_task_id="lock"),
    ):
        publish = SparkSubmitOperator(
            task_id="publish",
            name="{{ dag.dag_id }} {{ run_id }}",
            application=JOB,
            application_args=arguments,
            conn_id=spark_conn_id,
            conf={"spark.log.level": "WARN"},
        )
        for name, dataset in config["datasets"].items():
            warm = CacheWarmSensor(
                task_id=f"warm_{name}",
                redis_conn_id=redis_conn_id,
                dataset=name,
                min_rows=dataset.get("min_rows", 1),
                newer_than="{{ dag_run.start_date }}",
                deferrable=True,
                timeout=300,
            )
            rows = read_back.override(task_id=f"read_{name}")(name, redis_conn_id)
            publish >> warm >> rows
    return dag


for file in sorted(CONFIGS.glob("*.json")):
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        gold_dag(file, content, **content.get("dag", {}))
    except (KeyError, TypeError, ValueError) as error:
        # Airflow shows this as the file's import error; the configuration to mend is named.
        raise ValueError(f"Gold configuration {file.name}: {error!r}") from error
