"""Runs that exclude each other; the work tells when it starts and ends, and ends when told to."""

import os

import redis
from airflow.sdk import dag, get_current_context, task

from nexus_redis_provider.operators.dag_lock import dag_lock

PATIENCE = 120


@task
def work(token: int) -> None:
    run_id = get_current_context()["run_id"]
    with redis.Redis.from_url(os.environ["E2E_REDIS_URL"], socket_timeout=None) as client:
        client.rpush("events", f"start {run_id} {token}")
        client.rpush("started", run_id)
        told = client.blpop([f"end {run_id}"], PATIENCE)
        client.rpush("events", f"end {run_id} {token}")
        if told is None:
            raise TimeoutError("nobody told the work to end")
        if told[1] == b"badly":
            raise RuntimeError("told to fail")


def exclusive(dag_id: str, on_held: str) -> None:
    @dag(dag_id, schedule=None)
    def runs():
        with dag_lock(on_held=on_held, poll_interval=0.5) as lock:
            work(lock.output)

    runs()


exclusive("waiting", "wait")
exclusive("skipping", "skip")
