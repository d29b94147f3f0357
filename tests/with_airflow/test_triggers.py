"""What waits in the triggerer: it looks, fires once, takes nothing and leaves no connection."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
import redis
import structlog
from airflow.triggers.base import BaseTrigger

from nexus_redis_provider.core.locks import acquire, inspect, release
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.embedded import EmbeddedServer
from nexus_redis_provider.triggers.cache_warm import CacheWarmTrigger
from nexus_redis_provider.triggers.dag_lock import DagLockTrigger


def lock_trigger(namespace: str, **options: Any) -> DagLockTrigger:
    defaults = {"redis_conn_id": "nexus_redis_default", "poll_interval": 0.02}
    return DagLockTrigger(name="a", namespace=namespace, **defaults | options)


def warm_trigger(namespace: str, **options: Any) -> CacheWarmTrigger:
    defaults = {"redis_conn_id": "nexus_redis_default", "poll_interval": 0.02}
    requirement = {"keys": [f"{namespace}:k"], "namespace": namespace}
    return CacheWarmTrigger(requirement=requirement, **defaults | options)


def restored(trigger: BaseTrigger) -> BaseTrigger:
    """As another triggerer gets it."""
    classpath, arguments = trigger.serialize()
    assert classpath == f"{type(trigger).__module__}.{type(trigger).__name__}"
    return type(trigger)(**json.loads(json.dumps(arguments)))


async def events_of(trigger: BaseTrigger) -> list[Any]:
    return [event.payload async for event in restored(trigger).run()]


def clients(client: redis.Redis) -> int:
    return len(client.client_list(_type="normal"))


def looks(client: redis.Redis) -> int:
    stats = client.info("commandstats")
    names = ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_pttl")
    return sum(stats.get(name, {"calls": 0})["calls"] for name in names)


async def looked_at_in_vain(waiting: asyncio.Task[Any], client: redis.Redis) -> None:
    before = looks(client)
    deadline = time.monotonic() + 10
    while looks(client) < before + 4:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert not waiting.done()


async def test_a_free_lock_fires_at_once_and_stays_free(
    client: redis.Redis, namespace: str, eventually: Any
) -> None:
    before = clients(client)
    assert await events_of(lock_trigger(namespace)) == [{"until": None}]
    assert run(client, inspect("a", namespace=namespace)) is None
    await eventually(lambda: clients(client) == before)


async def test_a_lock_that_is_given_back_fires(client: redis.Redis, namespace: str) -> None:
    token = run(client, acquire("a", "me", 60, namespace=namespace)).holder.token
    waiting = asyncio.create_task(events_of(lock_trigger(namespace)))
    await looked_at_in_vain(waiting, client)
    run(client, release("a", "me", token, namespace=namespace))
    assert await asyncio.wait_for(waiting, 10) == [{"until": None}]


async def test_a_lease_that_is_over_fires(client: redis.Redis, namespace: str) -> None:
    run(client, acquire("a", "me", 0.2, namespace=namespace))
    assert await asyncio.wait_for(events_of(lock_trigger(namespace)), 10) == [{"until": None}]
    assert run(client, inspect("a", namespace=namespace)).owner == "me"


@pytest.mark.parametrize("make", [lock_trigger, warm_trigger])
async def test_the_end_of_patience_fires(make: Any, client: redis.Redis, namespace: str) -> None:
    run(client, acquire("a", "me", 60, namespace=namespace))
    until = time.time() + 0.2
    trigger = make(namespace, until=until, poll_interval=30)
    assert await asyncio.wait_for(events_of(trigger), 10) == [{"until": until}]
    assert time.time() >= until


@pytest.mark.parametrize("make", [lock_trigger, warm_trigger])
async def test_a_cancelled_wait_leaves_no_connection(
    make: Any, client: redis.Redis, namespace: str, eventually: Any
) -> None:
    run(client, acquire("a", "me", 60, namespace=namespace))
    before = clients(client)
    waiting = asyncio.create_task(events_of(make(namespace)))
    await eventually(lambda: clients(client) == before + 1)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await eventually(lambda: clients(client) == before)
    assert run(client, inspect("a", namespace=namespace)).owner == "me"


@pytest.mark.parametrize("make", [lock_trigger, warm_trigger])
async def test_one_cancellation_is_enough(make: Any, client: redis.Redis, namespace: str) -> None:
    run(client, acquire("a", "me", 60, namespace=namespace))
    for turns in range(0, 1500, 10):
        waiting = asyncio.create_task(events_of(make(namespace, poll_interval=0.0001)))
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        done, _ = await asyncio.wait([waiting], timeout=5)
        assert done, f"swallowed after {turns} turns of the event loop"


async def test_a_warm_cache_fires(client: redis.Redis, namespace: str) -> None:
    waiting = asyncio.create_task(events_of(warm_trigger(namespace)))
    await looked_at_in_vain(waiting, client)
    client.set(f"{namespace}:k", 1, ex=60)
    assert await asyncio.wait_for(waiting, 10) == [{"until": None}]


async def test_a_filler_that_is_gone_fires(client: redis.Redis, namespace: str) -> None:
    token = run(client, acquire("a", "filler", 60, namespace=namespace)).holder.token
    waiting = asyncio.create_task(events_of(warm_trigger(namespace, filler="a")))
    await looked_at_in_vain(waiting, client)
    run(client, release("a", "filler", token, namespace=namespace))
    assert await asyncio.wait_for(waiting, 10) == [{"until": None}]


async def test_waiting_outlives_an_absent_server(
    monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    with EmbeddedServer() as server:
        monkeypatch.setenv(
            "AIRFLOW_CONN_OWN", f"nexus-redis://{server.endpoint.nodes[0]}?retries=0"
        )
        with server.endpoint.client() as client:
            run(client, acquire("a", "me", 60))
        trigger = lock_trigger("nexus", redis_conn_id="own")
        with structlog.testing.capture_logs() as logs:
            waiting = asyncio.create_task(anext(trigger.run()))
            server.stop()
            await eventually(lambda: "cannot be reached" in str(logs))
            assert not waiting.done()
        await asyncio.to_thread(server.start)
        assert (await asyncio.wait_for(waiting, 10)).payload == {"until": None}
