"""A script that runs as soon as something is pushed to a list."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.clients import thread_client
from nexus_redis_provider.core.clusters import plain_client
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ServerError
from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks.protocol import release, who_holds
from nexus_redis_provider.core.scripts import run, run_when_pushed
from tests.core.lock_calls import take


@pytest.fixture
def blocking(endpoint: Endpoint) -> redis.Redis:
    return thread_client(endpoint)


def test_it_runs_when_pushed(
    blocking: redis.Redis, client: redis.Redis, namespace: str, wait_until: Any
) -> None:
    bell = LockKeys("a", namespace).wake("me")
    token = run(client, take("a", "holder", namespace=namespace)).token
    found: list[Any] = []

    def wait() -> None:
        found.append(
            run_when_pushed(blocking, bell, 60, take("a", "me", stay=60, namespace=namespace))
        )

    assert not run(client, take("a", "me", stay=60, bell="list:me", namespace=namespace)).acquired
    thread = threading.Thread(target=wait)
    thread.start()
    node = plain_client(client, bell)
    wait_until(lambda: node.info("clients")["blocked_clients"] == 1)
    assert not found
    run(client, release("a", "holder", token, namespace=namespace))
    # Before the one who waits had time to say anything.
    assert run(client, who_holds("a", namespace=namespace)).owner == "me"
    thread.join(30)
    assert found[0].acquired
    assert not client.exists(bell)


def test_a_push_that_came_before_counts(
    blocking: redis.Redis, client: redis.Redis, namespace: str
) -> None:
    bell = LockKeys("a", namespace).wake("me")
    client.lpush(bell, 1)
    assert run_when_pushed(blocking, bell, 60, take("a", "me", namespace=namespace)).acquired


def test_it_runs_when_the_time_is_over_even_if_the_script_is_not_known(
    blocking: redis.Redis, client: redis.Redis, namespace: str
) -> None:
    client.script_flush()
    bell = LockKeys("a", namespace).wake("me")
    assert run_when_pushed(blocking, bell, 0.01, take("a", "me", namespace=namespace)).acquired


def test_what_the_server_refuses_is_told_and_the_connection_stays_in_step(
    blocking: redis.Redis, client: redis.Redis, namespace: str
) -> None:
    keys = LockKeys("a", namespace)
    client.set(keys.wake("me"), "not a list")
    with pytest.raises(ServerError, match="WRONGTYPE"):
        run_when_pushed(blocking, keys.wake("me"), 60, take("a", "me", namespace=namespace))
    client.set(keys.lock, "not a hash")
    with pytest.raises(ServerError, match="WRONGTYPE"):
        run_when_pushed(blocking, keys.wake("other"), 0.01, take("a", "me", namespace=namespace))
    client.delete(keys.lock, keys.wake("me"))
    assert run(blocking, who_holds("a", namespace=namespace)) is None


def test_a_client_of_a_pool_will_do(client: redis.Redis, namespace: str) -> None:
    bell = LockKeys("a", namespace).wake("me")
    pooled = plain_client(client, bell)
    assert run_when_pushed(pooled, bell, 0.01, take("a", "me", namespace=namespace)).acquired
