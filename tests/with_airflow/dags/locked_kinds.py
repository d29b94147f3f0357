"""Locks of every kind, by what a run is given as its configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, get_current_context, task

from nexus_redis_provider.core.locks.protocol import inspect
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.hooks.redis import NexusRedisHook
from nexus_redis_provider.operators.dag_lock import dag_lock


def conf(name: str, default: str = "") -> str:
    return f"{{{{ dag_run.conf.get('{name}', '{default}') }}}}"


def write(**line: Any) -> None:
    with Path(get_current_context()["dag_run"].conf["trail"]).open("a") as trail:
        trail.write(json.dumps(line) + "\n")


@task
def look(name: str) -> None:
    namespace = get_current_context()["dag_run"].conf["namespace"]
    with NexusRedisHook() as hook:
        state = run(hook.get_conn(), inspect(name, namespace=namespace))
    write(
        owners=[holder.owner for holder in state.holders],
        permits=[holder.permits for holder in state.holders],
        token=state.token,
    )


# Every option that may be a template is one.
with (
    DAG("lock_templated", schedule=None),
    dag_lock(
        "region {{ dag_run.conf['region'] }}",
        redis_conn_id=conf("connection", "nexus_redis_default"),
        mode=conf("mode", "exclusive"),
        permits=conf("permits", "1"),
        lease=conf("lease", "600"),
        on_held=conf("on_held", "fail"),
        on_unreachable=conf("on_unreachable", "fail"),
        wait_timeout=conf("wait_timeout", "20"),
        claim_timeout=conf("claim_timeout", "60"),
        replicas=conf("replicas", "0"),
        namespace="{{ dag_run.conf['namespace'] }}",
        poll_interval=0.1,
    ),
):
    look("region {{ dag_run.conf['region'] }}")


with DAG("locked_task", schedule=None):

    @task.locked(
        lock="{{ dag_run.conf['lock'] }}",
        on_held=conf("on_held", "wait"),
        lease=conf("lease", "30"),
        namespace="{{ dag_run.conf['namespace'] }}",
        poll_interval=0.1,
        retries=0,
    )
    def work(number: int, lock: Any = None) -> int:
        context = get_current_context()
        lock.ensure_held()
        write(number=number, token=lock.token, owner=lock.owner)
        options = context["dag_run"].conf
        if options.get("lose"):
            with NexusRedisHook() as hook:
                hook.get_conn().delete(f"{options['namespace']}:lock:{{{options['lock']}}}")
            lock.lost.wait(60)
        if options.get("fail"):
            raise RuntimeError("as asked")
        return number * 2

    @task
    def total(numbers: list[int]) -> None:
        write(total=sum(numbers))

    total(work.expand(number=[1, 2, 3]))


with (
    DAG("locked_in_locked", schedule=None),
    dag_lock("{{ dag_run.conf['lock'] }}", namespace="{{ dag_run.conf['namespace'] }}"),
):

    @task.locked(
        lock="{{ dag_run.conf['lock'] }}",
        namespace="{{ dag_run.conf['namespace'] }}",
        task_id="work",
    )
    def never() -> None:
        raise AssertionError("a lock within itself")

    never()


with DAG("locked_where_it_may_vanish", schedule=None):
    here: dict[str, Any] = {"lock": "t", "redis_conn_id": "cache", "retries": 0}

    @task.locked(**here)
    def refused() -> None:
        raise AssertionError("a lock that may vanish")

    @task.locked(**here, allow_eviction=True)
    def allowed(lock: Any = None) -> None:
        write(held=lock.held)

    refused()
    allowed()
