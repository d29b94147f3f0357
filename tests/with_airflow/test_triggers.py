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

from nexus_redis_provider.core.errors import AccessDeniedError
from nexus_redis_provider.core.locks.protocol import inspect, release, who_holds
from nexus_redis_provider.core.locks.states import Holder
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.embedded import EmbeddedServer
from nexus_redis_provider.triggers.cache_warm import CacheWarmTrigger
from nexus_redis_provider.triggers.dag_lock import DagLockTrigger
from tests.conftest import CountClients
from tests.core.lock_calls import take
from tests.guarded import own_server
from tests.servers import calls_of, scripts_run
from tests.urls import connection_uri


def lock_trigger(namespace: str, **options: Any) -> DagLockTrigger:
    defaults = {
        "redis_conn_id": "nexus_redis_default",
        "owner": "airflow/dag/waiter",
        "deployment": "airflow",
        "lease": 600.0,
        "poll_interval": 0.02,
    }
    return DagLockTrigger(name="a", namespace=namespace, **defaults | options)


def line_up(
    client: redis.Redis,
    namespace: str,
    owner: str = "airflow/dag/waiter",
    deployment: str = "airflow",
) -> int:
    """As the worker does before it defers; returns the ticket."""
    call = take("a", owner, stay=60, deployment=deployment, namespace=namespace)
    return run(client, call).ticket


def run_holds(client: redis.Redis, namespace: str, lease: float = 600, run_id: str = "r1") -> int:
    """A DAG run of this deployment takes the lock; returns the token."""
    description = {"dag_id": "dag", "run_id": run_id}
    call = take(
        "a",
        f"airflow/dag/{run_id}",
        lease,
        deployment="airflow",
        description=description,
        namespace=namespace,
    )
    return run(client, call).token


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


def looks(client: redis.Redis) -> int:
    return calls_of(client, "eval", "evalsha", "pttl")


async def looked_at_in_vain(waiting: asyncio.Task[Any], client: redis.Redis) -> None:
    before = looks(client)
    deadline = time.monotonic() + 10
    while looks(client) < before + 4:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert not waiting.done()


FIRED = [{"until": None, "ticket": 0}]


async def test_a_free_lock_fires_at_once_and_stays_free(
    client: redis.Redis, namespace: str, eventually: Any, count_clients: CountClients
) -> None:
    before = count_clients()
    assert await events_of(lock_trigger(namespace)) == FIRED
    assert run(client, who_holds("a", namespace=namespace)) is None
    await eventually(lambda: count_clients() == before)


async def test_a_lock_that_is_given_back_fires(client: redis.Redis, namespace: str) -> None:
    token = run(client, take("a", "me", 60, namespace=namespace)).token
    ticket = line_up(client, namespace)
    trigger = lock_trigger(namespace, ticket=ticket, poll_interval=30)
    waiting = asyncio.create_task(events_of(trigger))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    run(client, release("a", "me", token, namespace=namespace))
    assert await asyncio.wait_for(waiting, 10) == [{"until": None, "ticket": ticket}]


async def test_a_lease_that_is_over_fires(client: redis.Redis, namespace: str) -> None:
    run(client, take("a", "me", 0.2, namespace=namespace))
    line_up(client, namespace)
    assert await asyncio.wait_for(events_of(lock_trigger(namespace)), 10) == FIRED
    assert run(client, who_holds("a", namespace=namespace)).owner == "me"


class Oracle:
    """Stands for Airflow's answer to whether a run is queued or running."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.alive: bool | Exception = True
        self.asked: list[str] = []
        for module in ("triggers.dag_lock.ais_dag_run_alive",):
            monkeypatch.setattr(f"nexus_redis_provider.{module}", self.answer)

    async def answer(self, holder: Holder) -> bool:
        self.asked.append(holder.owner)
        if isinstance(self.alive, Exception):
            raise self.alive
        return self.alive


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Oracle:
    return Oracle(monkeypatch)


async def test_a_run_that_lives_keeps_the_lock_and_gets_a_new_lease(
    client: redis.Redis, namespace: str, oracle: Oracle, eventually: Any
) -> None:
    token = run_holds(client, namespace, lease=0.3)
    line_up(client, namespace)
    waiting = asyncio.create_task(events_of(lock_trigger(namespace, lease=3600.0)))
    await eventually(lambda: run(client, who_holds("a", namespace=namespace)).expires_in > 3500)
    assert run(client, who_holds("a", namespace=namespace)).token == token
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_a_run_that_is_over_fires_whatever_its_lease(
    client: redis.Redis, namespace: str, oracle: Oracle, eventually: Any
) -> None:
    run_holds(client, namespace)
    line_up(client, namespace)
    waiting = asyncio.create_task(events_of(lock_trigger(namespace)))
    await eventually(lambda: len(oracle.asked) > 3)
    assert not waiting.done()
    oracle.alive = False
    assert await asyncio.wait_for(waiting, 10) == FIRED
    holder = run(client, who_holds("a", namespace=namespace))
    assert holder.owner == "airflow/dag/r1", "the worker takes it, the trigger does not"


async def test_while_airflow_cannot_say_the_holder_lives(
    client: redis.Redis, namespace: str, oracle: Oracle, eventually: Any
) -> None:
    oracle.alive = RuntimeError("no answer")
    run_holds(client, namespace, lease=0.1)
    line_up(client, namespace)
    with structlog.testing.capture_logs() as logs:
        waiting = asyncio.create_task(events_of(lock_trigger(namespace)))
        await eventually(lambda: len(oracle.asked) > 5)
    assert not waiting.done()
    assert "cannot say if airflow/dag/r1 lives: no answer" in str(logs)
    oracle.alive = False
    assert await asyncio.wait_for(waiting, 10) == FIRED


async def test_a_foreign_run_is_bound_by_its_lease_alone(
    client: redis.Redis, namespace: str, oracle: Oracle
) -> None:
    oracle.alive = False
    run_holds(client, namespace, lease=0.4)
    line_up(client, namespace, deployment="elsewhere")
    trigger = lock_trigger(namespace, deployment="elsewhere")
    assert await asyncio.wait_for(events_of(trigger), 10) == FIRED
    assert oracle.asked == []


async def test_who_is_first_here_asks_even_behind_one_who_cannot(
    client: redis.Redis, namespace: str, oracle: Oracle, eventually: Any
) -> None:
    run_holds(client, namespace, lease=0.3)
    line_up(client, namespace, "plain/python", deployment="")
    line_up(client, namespace)
    waiting = asyncio.create_task(events_of(lock_trigger(namespace, lease=3600.0)))
    await eventually(lambda: run(client, who_holds("a", namespace=namespace)).expires_in > 3500)
    assert not waiting.done(), "the run lives, and its lease was renewed"
    oracle.alive = False
    assert await asyncio.wait_for(waiting, 10) == FIRED


async def test_only_the_head_asks(
    client: redis.Redis, namespace: str, oracle: Oracle, eventually: Any
) -> None:
    run_holds(client, namespace)
    owners = [f"airflow/dag/w{n}" for n in range(20)]
    for owner in owners:
        line_up(client, namespace, owner)
    with structlog.testing.capture_logs() as logs:
        tasks = [
            asyncio.create_task(events_of(lock_trigger(namespace, owner=owner))) for owner in owners
        ]
        await eventually(lambda: len(oracle.asked) > 4)
        asked = len(oracle.asked)
        await eventually(lambda: "Number 20 of 20 in line for lock" in str(logs))
    assert "held by airflow/dag/r1 since" in str(logs)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert asked < 20 * 4, "twenty triggers would have asked twenty times as often"


async def test_a_thousand_triggers_share_two_connections(
    client: redis.Redis,
    namespace: str,
    oracle: Oracle,
    eventually: Any,
    count_clients: CountClients,
) -> None:
    run_holds(client, namespace)
    before = count_clients()
    tasks = []
    for n in range(1000):
        owner = f"airflow/dag/w{n}"
        line_up(client, namespace, owner)
        trigger = lock_trigger(namespace, owner=owner, poll_interval=1)
        tasks.append(asyncio.create_task(events_of(trigger)))
    await eventually(lambda: count_clients() == before + 2)
    calls, began_at = scripts_run(client), time.monotonic()
    await asyncio.sleep(3)
    assert count_clients() == before + 2
    # Four scripts a look, and a look a second, give or take a fifth; one at each end is cut in two.
    looks = (time.monotonic() - began_at) / 0.8 + 2
    assert 4 <= scripts_run(client) - calls <= 4 * looks
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await eventually(lambda: count_clients() == before)


async def test_a_second_triggerer_does_no_harm(
    client: redis.Redis, namespace: str, oracle: Oracle
) -> None:
    """The same trigger in two event loops, as after a triggerer was thought dead."""
    run_holds(client, namespace)
    ticket = line_up(client, namespace)
    trigger = lock_trigger(namespace, poll_interval=0.2, ticket=ticket)
    elsewhere = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(events_of(trigger))))
    here = asyncio.create_task(events_of(trigger))
    await asyncio.sleep(0.3)
    assert not here.done()
    assert not elsewhere.done()
    oracle.alive = False
    events = await asyncio.wait_for(asyncio.gather(here, elsewhere), 10)
    assert events == [[{"until": None, "ticket": ticket}]] * 2
    (waiter,) = run(client, inspect("a", namespace=namespace)).waiters
    assert waiter.ticket == ticket


@pytest.mark.parametrize("make", [lock_trigger, warm_trigger])
async def test_the_end_of_patience_fires(make: Any, client: redis.Redis, namespace: str) -> None:
    run(client, take("a", "me", 60, namespace=namespace))
    line_up(client, namespace)
    until = time.time() + 0.2
    trigger = make(namespace, until=until, poll_interval=30)
    ((event),) = await asyncio.wait_for(events_of(trigger), 10)
    assert event["until"] == until
    assert time.time() >= until


@pytest.mark.parametrize("make", [lock_trigger, warm_trigger])
async def test_a_cancelled_wait_leaves_no_connection(
    make: Any, client: redis.Redis, namespace: str, eventually: Any, count_clients: CountClients
) -> None:
    run(client, take("a", "me", 60, namespace=namespace))
    line_up(client, namespace)
    before = count_clients()
    waiting = asyncio.create_task(events_of(make(namespace)))
    await eventually(lambda: count_clients() > before)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await eventually(lambda: count_clients() == before)
    assert run(client, who_holds("a", namespace=namespace)).owner == "me"


@pytest.mark.parametrize("make", [lock_trigger, warm_trigger])
async def test_one_cancellation_is_enough(make: Any, client: redis.Redis, namespace: str) -> None:
    run(client, take("a", "me", 60, namespace=namespace))
    line_up(client, namespace)
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
    token = run(client, take("a", "filler", 60, namespace=namespace)).token
    waiting = asyncio.create_task(events_of(warm_trigger(namespace, filler="a")))
    await looked_at_in_vain(waiting, client)
    run(client, release("a", "filler", token, namespace=namespace))
    assert await asyncio.wait_for(waiting, 10) == [{"until": None}]


async def test_waiting_outlives_an_absent_server(
    monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    with own_server() as server:
        monkeypatch.setenv(
            "AIRFLOW_CONN_OWN", connection_uri("nexus-redis", server.endpoint, retries="0")
        )
        with server.endpoint.client() as client:
            run(client, take("a", "me", 60))
            line_up(client, "nexus")
        trigger = lock_trigger("nexus", redis_conn_id="own")
        with structlog.testing.capture_logs() as logs:
            waiting = asyncio.create_task(anext(trigger.run()))
            await eventually(lambda: "Number 1 of 1" in str(logs))
            await asyncio.to_thread(server.stop)
            await eventually(lambda: "cannot be reached" in str(logs))
            assert not waiting.done()
        # It forgot everything: a worker must stand in line anew.
        await asyncio.to_thread(server.start)
        assert (await asyncio.wait_for(waiting, 10)).payload == {"until": None, "ticket": 0}


async def test_a_denied_wait_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedServer("--requirepass", "secret") as server:
        monkeypatch.setenv("AIRFLOW_CONN_OWN", f"nexus-redis://{server.endpoint.nodes[0]}")
        with pytest.raises(AccessDeniedError, match="denied access"):
            await asyncio.wait_for(events_of(lock_trigger("nexus", redis_conn_id="own")), 10)
