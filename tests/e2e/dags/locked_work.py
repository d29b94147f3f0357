"""Work that tells when it starts and ends, and ends when told to; and DAGs that lock it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import redis
from airflow.sdk import DAG, get_current_context, task

from nexus_redis_provider.operators.dag_lock import DEFAULT_NAME, dag_lock

PATIENCE = 240


def signals() -> redis.Redis:
    """Another server than that of the locks, so that an outage of those leaves the work alone."""
    return redis.Redis.from_url(os.environ["E2E_SIGNALS_URL"], socket_timeout=None)


def this_run() -> str:
    run = get_current_context()["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


@task
def work(token: int = 0) -> None:
    run = this_run()
    with signals() as client:
        client.rpush("events", f"start {run} {token}")
        client.rpush(f"started {run.partition('/')[0]}", f"{run} {os.getpid()}")
        told = client.blpop([f"end {run}"], PATIENCE)
        client.rpush("events", f"end {run} {token}")
    if told is None:
        raise TimeoutError("nobody told the work to end")
    if told[1] == b"badly":
        raise RuntimeError("told to fail")


def exclusive(
    dag_id: str,
    name: str = DEFAULT_NAME,
    *,
    schedule: str | None = None,
    of_dag: Mapping[str, Any] | None = None,
    of_work: Mapping[str, Any] | None = None,
    **of_lock: Any,
) -> None:
    """Make a DAG of locked work."""
    with (
        DAG(dag_id, schedule=schedule, **(of_dag or {})),
        dag_lock(name, **({"poll_interval": 1} | of_lock)) as lock,
    ):
        work.override(**(of_work or {}))(lock.output)
