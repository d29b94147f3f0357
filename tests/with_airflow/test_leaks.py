"""Hooks, sensors, operators and triggers leave no connection, however they end."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.context import OutletEventAccessors
from airflow.triggers.base import BaseTrigger

from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.locks.protocol import release
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.embedded import EmbeddedServer
from nexus_redis_provider.hooks.redis import NexusRedisHook
from nexus_redis_provider.operators.dag_lock import DagLockOperator, DagUnlockOperator
from nexus_redis_provider.operators.gold_publish import GoldPublishOperator
from nexus_redis_provider.sensors.cache_warm import CacheWarmSensor
from nexus_redis_provider.triggers.cache_warm import CacheWarmTrigger
from nexus_redis_provider.triggers.dag_lock import DagLockTrigger
from nexus_redis_provider.triggers.gold_published import GoldPublishedTrigger
from tests.conftest import CountClients, Eventually
from tests.core.lock_calls import take
from tests.kinds import KIND, single_server
from tests.servers import Server, counting, shared_server
from tests.urls import connection_uri
from tests.with_airflow.contexts import context_of

CONN_ID = "counted"
# That have keys.
SERVERS = 3 if KIND == "cluster" else 1


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that nobody else is connected to."""
    with shared_server() as own:
        monkeypatch.setenv("AIRFLOW_CONN_COUNTED", connection_uri("nexus-redis", own.endpoint))
        yield own


@pytest.fixture
def watcher(own: Server) -> Iterator[redis.Redis]:
    with own.endpoint.client() as watcher:
        yield watcher


@pytest.fixture
def count(own: Server, watcher: redis.Redis) -> Iterator[CountClients]:
    """How many clients the server has, but for the watcher."""
    with counting(own, watcher) as count:

        def counted() -> int:
            gc.collect()
            return count()

        yield counted


def test_hooks(count: CountClients) -> None:
    with NexusRedisHook(CONN_ID) as one, closing(NexusRedisHook(CONN_ID)) as other:
        client = one.get_conn()
        assert other.get_conn() is client, "they share a pool"
        assert not client.exists("a")
        before = count()
        assert 1 <= before <= SERVERS, "each server has one at most"
        assert not other.get_conn().exists("a")
        assert count() == before
    assert count() == 0, "closed, although somebody still has the client"
    forgotten = NexusRedisHook(CONN_ID)
    assert not forgotten.get_conn().exists("a")
    assert 1 <= count() <= SERVERS
    del forgotten
    assert count() == 0
    assert NexusRedisHook(CONN_ID).test_connection()[0]
    assert count() == 0


@pytest.mark.usefixtures("own")
def test_sensors_and_operators(watcher: redis.Redis, count: CountClients, namespace: str) -> None:
    where = {"redis_conn_id": CONN_ID, "namespace": namespace}
    with DAG("d", schedule=None):
        sensor = CacheWarmSensor(task_id="warm", keys=["a"], **where)
        filling = CacheWarmSensor(task_id="fill", keys=["b"], fill=lambda _: {"b": 1}, **where)
        lock = DagLockOperator(task_id="lock", name="a", on_held="fail", **where)
        unlock = DagUnlockOperator(task_id="unlock", name="a", **where)
        publish = GoldPublishOperator(
            task_id="publish",
            dataset="sales",
            key="k",
            rows=[{"k": 1}],
            **where,
        )
    mine, theirs = context_of("d", "mine"), context_of("d", "theirs")
    instance = SimpleNamespace(dag_id="d", run_id="mine", task_id="publish")
    published: Any = {"ti": instance, "outlet_events": OutletEventAccessors()}
    for _ in range(5):
        assert not sensor.poke(mine).is_done
        assert filling.poke(mine).is_done
        watcher.delete("b")
        lock.execute(mine)
        holder = take("a", "another", namespace=namespace)
        assert not run(watcher, holder).acquired
        unlock.execute(mine)
        token = run(watcher, holder).token
        with pytest.raises(AirflowFailException):
            lock.execute(theirs)
        run(watcher, release("a", "another", token, namespace=namespace))
        publish.execute(published)
    assert GoldDataset(watcher, "sales", namespace=namespace).get(1) == {"k": 1}
    # The thread that fills under a lock keeps its one connection to each server.
    assert count() <= SERVERS


def triggers(namespace: str) -> list[BaseTrigger]:
    """Some of each kind, which wait."""
    where: dict[str, Any] = {"redis_conn_id": CONN_ID, "namespace": namespace}
    polling: dict[str, Any] = {"redis_conn_id": CONN_ID, "poll_interval": 0.05}
    requirement = {"keys": ["absent"], "namespace": namespace}
    return [
        *(CacheWarmTrigger(requirement=requirement, **polling) for _ in range(50)),
        *(
            DagLockTrigger(
                name="a",
                owner=f"o{number}",
                deployment="airflow",
                lease=600,
                poll_interval=0.05,
                **where,
            )
            for number in range(50)
        ),
        GoldPublishedTrigger(dataset="sales", watcher="w", **where),
    ]


async def fire(trigger: BaseTrigger) -> Any:
    return [event async for event in trigger.run()]


async def test_triggers_that_are_cancelled(
    watcher: redis.Redis, count: CountClients, namespace: str, eventually: Eventually
) -> None:
    run(watcher, take("a", "holder", 600, namespace=namespace))
    for number in range(50):
        run(watcher, take("a", f"o{number}", stay=600, namespace=namespace))
    for _ in range(3):
        waiting = [asyncio.create_task(fire(trigger)) for trigger in triggers(namespace)]
        await asyncio.sleep(0.5)
        # Those that poll take eight, those that wait for locks two, a follower two.
        assert 3 <= count() <= 12 * SERVERS
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        await eventually(lambda: count() == 0)


@pytest.mark.usefixtures("own")
async def test_triggers_that_fire(
    count: CountClients, namespace: str, eventually: Eventually
) -> None:
    requirement = {"keys": ["absent"], "namespace": namespace}
    for _ in range(3):
        trigger = CacheWarmTrigger(
            redis_conn_id=CONN_ID,
            requirement=requirement,
            poll_interval=0.05,
            until=time.time() + 0.3,
        )
        await asyncio.gather(*(fire(trigger) for _ in range(20)))
        await eventually(lambda: count() == 0)


@single_server
async def test_triggers_whose_server_goes_away(
    own: EmbeddedServer, namespace: str, eventually: Eventually
) -> None:
    waiting = [asyncio.create_task(fire(trigger)) for trigger in triggers(namespace)[:60]]
    await asyncio.sleep(0.3)
    own.stop()
    await asyncio.sleep(0.3)
    own.start()
    await asyncio.sleep(0.5)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    with own.endpoint.client() as client:
        await eventually(lambda: len(client.client_list()) == 1)
