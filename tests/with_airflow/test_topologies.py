"""Operator, trigger and hook, with Sentinels and in a Cluster."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred

from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.operators import locking
from nexus_redis_provider.operators.dag_lock import DagLockOperator, DagUnlockOperator
from tests.topologies import ClusterDeployment, SentinelDeployment
from tests.urls import connection_uri
from tests.with_airflow.contexts import context_of


@pytest.mark.parametrize("kind", [SentinelDeployment, ClusterDeployment])
async def test_a_run_takes_the_lock_after_another(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kind() as deployment:
        endpoint = deployment.endpoint
        monkeypatch.setenv("AIRFLOW_CONN_SPREAD", connection_uri("nexus-redis", endpoint))
        with DAG("spread", schedule=None):
            options = {"name": "a", "redis_conn_id": "spread"}
            lock = DagLockOperator(task_id="lock", wait_timeout=20, **options)
            unlock = DagUnlockOperator(task_id="unlock", **options)
        first, second = context_of("spread", "r1"), context_of("spread", "r2")
        token = await asyncio.to_thread(lock.execute, first)
        with pytest.raises(TaskDeferred) as deferred:
            await asyncio.to_thread(lock.execute, second)
        waiting = asyncio.create_task(anext(deferred.value.trigger.run()))
        assert await asyncio.to_thread(unlock.execute, first) is True
        event = await asyncio.wait_for(waiting, 20)
        newer = await asyncio.to_thread(lock.resume, second, event.payload)
        assert newer > token
        assert await asyncio.to_thread(unlock.execute, second) is True


def test_replicas_confirm_a_lock_while_its_slot_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "_REPLICA_TIMEOUT_MS", 4000)
    with ClusterDeployment(primaries=2, with_replicas=True) as deployment:
        uri = connection_uri("nexus-redis", deployment.endpoint)
        monkeypatch.setenv("AIRFLOW_CONN_SPREAD", uri)
        with DAG("spread", schedule=None):
            lock = DagLockOperator(task_id="lock", name="a", redis_conn_id="spread", replicas=1)
        token = lock.execute(context_of("spread", "r"))
        for moved in (0, 1):
            with deployment.moving(LockKeys("a").lock, keys=moved):
                assert lock.execute(context_of("spread", "r")) == token
