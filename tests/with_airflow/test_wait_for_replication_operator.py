"""Waiting for replicas by an operator, in the worker and in the triggerer."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from airflow.sdk.exceptions import TaskDeferred

from nexus_redis_provider.core import replication
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    ReplicationLagError,
    ReplicationLostError,
)
from nexus_redis_provider.core.replication import await_replicas
from nexus_redis_provider.embedded import EmbeddedServer
from nexus_redis_provider.hooks.redis import NexusRedisHook
from nexus_redis_provider.operators.replication import WaitForReplicationOperator
from nexus_redis_provider.triggers.replication import ReplicationTrigger
from tests.core.backup_servers import AT_ONCE, replica_of
from tests.guarded import own_server
from tests.topologies import ClusterDeployment, crash, stopped
from tests.urls import connection_uri


@pytest.fixture
def primary(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedServer]:
    with own_server(*AT_ONCE) as primary:
        monkeypatch.setenv("AIRFLOW_CONN_OWN", connection_uri("nexus-redis", primary.endpoint))
        yield primary


@pytest.fixture
def written(primary: EmbeddedServer) -> Iterator[redis.Redis]:
    with primary.endpoint.client() as client:
        yield client


@pytest.fixture
def replica(primary: EmbeddedServer, written: redis.Redis) -> Iterator[EmbeddedServer]:
    with replica_of(primary) as replica:
        await_replicas(written, timeout=20, poll_interval=0.02)
        yield replica


@pytest.fixture
def asleep(replica: EmbeddedServer, written: redis.Redis) -> Iterator[EmbeddedServer]:
    """The replica is stopped, and has not what was written last."""
    with stopped(replica):
        written.set("a", "x" * 1000)
        yield replica


def operator(**options: Any) -> WaitForReplicationOperator:
    defaults = {"redis_conn_id": "own", "poll_interval": 0.05, "deferrable": False}
    return WaitForReplicationOperator(task_id="replicated", **defaults | options)


def deferred(task: WaitForReplicationOperator) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as raised:
        task.execute({})
    return raised.value


async def fired(trigger: ReplicationTrigger) -> dict[str, Any]:
    # As the triggerer makes it.
    path, arguments = trigger.serialize()
    assert path == f"{ReplicationTrigger.__module__}.ReplicationTrigger"
    async for event in ReplicationTrigger(**json.loads(json.dumps(arguments))).run():
        return event.payload
    raise AssertionError("no event")


def wake(server: EmbeddedServer) -> None:
    os.kill(server.pid, signal.SIGCONT)


@pytest.mark.parametrize("deferrable", [False, True])
def test_it_is_there_already(written, replica, deferrable: bool) -> None:
    written.set("a", 1)
    await_replicas(written, timeout=20, poll_interval=0.02)
    assert operator(deferrable=deferrable).execute({}) == 1


def test_in_the_worker(written, asleep) -> None:
    waker = threading.Timer(0.3, wake, [asleep])
    waker.start()
    assert operator().execute({}) == 1
    waker.join()
    with asleep.endpoint.client() as client:
        assert client.exists("a")


def test_too_late_in_the_worker(written, asleep) -> None:
    with pytest.raises(ReplicationLagError, match=rf"127\.0\.0\.1:{asleep.port} \(online\)"):
        operator(wait_timeout=0.2).execute({})


def test_a_failover_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker waits on; so do the hooks that share its pool go on, whenever they came."""
    marked, is_marked = replication.mark, threading.Event()

    def mark(client: redis.Redis) -> Any:
        marks = marked(client)
        is_marked.set()
        return marks

    with ClusterDeployment(with_replicas=True) as cluster:
        monkeypatch.setenv("AIRFLOW_CONN_OWN", connection_uri("nexus-redis", cluster.endpoint))
        dead, slow = cluster.servers[0], cluster.servers[4]

        def fail_over() -> None:
            is_marked.wait()
            crash(dead)
            wake(slow)
            cluster.fail_over(dead)
            dead.start()  # It follows the new primary.

        with NexusRedisHook("own") as hook:
            client = hook.get_conn()
            keys = {f"key:{number}" for number in range(100)}
            for key in keys:
                client.set(key, 1)
            await_replicas(client, timeout=60, poll_interval=0.05)
            with stopped(slow):
                for key in keys:
                    client.set(key, "x" * 100)
                with dead.endpoint.client() as node:
                    await_replicas(node, timeout=60, poll_interval=0.05)
                monkeypatch.setattr(replication, "mark", mark)
                failing = threading.Thread(target=fail_over, daemon=True)
                failing.start()
                assert operator(wait_timeout=300).execute({}) == 1
                failing.join()
            with NexusRedisHook("own") as other:
                for one in (hook, other):
                    assert {key.decode() for key in one.scan("key:*")} == keys
                    assert len(one.server_infos()) == 3


async def test_in_the_triggerer(written, asleep) -> None:
    task = operator(deferrable=True)
    waiting = deferred(task)
    assert 60 < waiting.timeout <= 120
    waker = threading.Timer(0.3, wake, [asleep])
    waker.start()
    event = await fired(waiting.trigger)
    waker.join()
    assert time.time() < event["until"]
    assert getattr(task, waiting.method_name)({}, event, **waiting.kwargs) == 1


async def test_too_late_in_the_triggerer(written, asleep) -> None:
    task = operator(deferrable=True, wait_timeout=0.3)
    waiting = deferred(task)
    event = await fired(waiting.trigger)
    with pytest.raises(ReplicationLagError, match=r"after 0\.3 s"):
        task.resume({}, event, **waiting.kwargs)


async def test_it_is_lost_meanwhile(primary, written, asleep) -> None:
    task = operator(deferrable=True)
    waiting = deferred(task)
    primary.stop()
    primary.start()
    event = await fired(waiting.trigger)
    assert time.time() < event["until"]
    with pytest.raises(ReplicationLostError):
        task.resume({}, event, **waiting.kwargs)


async def test_a_trigger_that_fires_early_is_waited_for_again(written, asleep) -> None:
    task = operator(deferrable=True)
    waiting = deferred(task)
    with pytest.raises(TaskDeferred) as again:
        task.resume({}, {"until": waiting.trigger.until}, **waiting.kwargs)
    assert again.value.trigger.serialize() == waiting.trigger.serialize()


@pytest.mark.parametrize("options", [{"replicas": 0}, {"wait_timeout": 0}, {"poll_interval": -1}])
def test_numbers_that_make_no_sense(options: Any) -> None:
    with pytest.raises(ConfigurationError):
        operator(**options)
