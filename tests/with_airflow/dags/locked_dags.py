"""A DAG per policy: locked work, and a report whatever came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, get_current_context, task

from nexus_redis_provider.core.locks.protocol import who_holds
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.hooks.redis import NexusRedisHook
from nexus_redis_provider.operators.dag_lock import dag_lock


def write(**line: Any) -> None:
    conf = get_current_context()["dag_run"].conf
    with Path(conf["trail"]).open("a") as trail:
        trail.write(json.dumps(line) + "\n")


@task
def work(token: int) -> None:
    conf = get_current_context()["dag_run"].conf
    with NexusRedisHook() as hook:
        holder = run(hook.get_conn(), who_holds(conf["lock"], namespace=conf["namespace"]))
    assert holder is not None
    write(token=token, owner=holder.owner, description=dict(holder.description))
    if conf.get("fail"):
        raise RuntimeError("as asked")


@task(trigger_rule="all_done")
def report() -> None:
    write(reported=True)


POLICIES: dict[str, dict[str, Any]] = {
    "fail": {"on_held": "fail", "retries": 2},
    "skip": {"on_held": "skip"},
    "wait": {"on_held": "wait"},
    "wait_in_worker": {"on_held": "wait", "deferrable": False},
    "wait_briefly": {"on_held": "wait", "wait_timeout": 0.3},
    "wait_briefly_in_worker": {"on_held": "wait", "wait_timeout": 0.3, "deferrable": False},
}

for policy, options in POLICIES.items():
    with (
        DAG(f"lock_{policy}", schedule=None),
        dag_lock(
            "{{ dag_run.conf['lock'] }}",
            redis_conn_id="{{ dag_run.conf.get('connection', 'nexus_redis_default') }}",
            namespace="{{ dag_run.conf['namespace'] }}",
            poll_interval=0.05,
            **options,
        ) as lock,
    ):
        worked = work(lock.output)
    worked >> report()
