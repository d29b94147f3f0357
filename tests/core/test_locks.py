"""The promises of a lock in plain Python, kept by every client on every server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    LockHeldError,
    UnreachableError,
)
from nexus_redis_provider.core.locks import Lock
from nexus_redis_provider.core.locks.protocol import inspect, release, who_holds
from nexus_redis_provider.core.scripts import run
from tests.core.lock_calls import holding, take
from tests.guarded import own_server

NOWHERE = Endpoint.from_url("redis://127.0.0.1:1?retries=0")


async def test_a_context_holds_and_gives_back(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis
) -> None:
    async with holding(kind, endpoint, "a", namespace=namespace) as lock:
        assert lock.held
        lock.ensure_held()
        assert run(client, who_holds("a", namespace=namespace)).token == lock.token
        with pytest.raises(LockHeldError) as refused:
            async with holding(kind, endpoint, "a", namespace=namespace):
                pytest.fail("two holders")
        assert refused.value.owner == lock.owner
    assert not lock.held
    assert run(client, who_holds("a", namespace=namespace)) is None


async def test_a_context_waits_its_turn(kind: str, endpoint: Endpoint, namespace: str) -> None:
    async def turn(order: list[str]) -> None:
        async with holding(kind, endpoint, "a", namespace=namespace, wait=10, poll=0.01):
            order.append("in")
            await asyncio.sleep(0)
            order.append("out")

    order: list[str] = []
    await asyncio.gather(*(turn(order) for _ in range(5)))
    assert order == ["in", "out"] * 5


async def test_a_wait_ends(kind: str, endpoint: Endpoint, namespace: str) -> None:
    async with holding(kind, endpoint, "a", namespace=namespace):
        with pytest.raises(LockHeldError, match="after waiting"):
            async with holding(kind, endpoint, "a", namespace=namespace, wait=0.05, poll=0.01):
                pytest.fail("two holders")


async def test_the_error_of_the_work_is_not_hidden(
    kind: str, endpoint: Endpoint, namespace: str
) -> None:
    async def fail_when_the_server_is_gone() -> None:
        async with holding(kind, endpoint, "a", namespace=namespace) as lock:
            lock._endpoint = NOWHERE
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_when_the_server_is_gone()


async def test_without_a_server_there_is_no_lock(kind: str) -> None:
    with pytest.raises(UnreachableError):
        async with holding(kind, NOWHERE, "a"):
            pytest.fail("a lock from nowhere")


def test_a_lock_is_not_entered_twice(endpoint: Endpoint, namespace: str) -> None:
    lock = Lock(endpoint, "twice", namespace=namespace)
    with lock:
        with pytest.raises(ConfigurationError, match="entered by this very object"), lock:
            pass
        lock.ensure_held()
    with lock:
        lock.ensure_held()


async def test_a_semaphore_in_plain_python(kind: str, endpoint: Endpoint, namespace: str) -> None:
    inside, most = 0, 0

    async def work() -> None:
        nonlocal inside, most
        async with holding(kind, endpoint, "s", permits=2, wait=30, namespace=namespace):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.03)
            inside -= 1

    await asyncio.gather(*(work() for _ in range(5)))
    assert most == 2


async def test_shared_locks_in_plain_python(kind: str, endpoint: Endpoint, namespace: str) -> None:
    shared = {"mode": "shared", "namespace": namespace}
    async with (
        holding(kind, endpoint, "rw", **shared),
        holding(kind, endpoint, "rw", **shared),
    ):
        with pytest.raises(LockHeldError):
            async with holding(kind, endpoint, "rw", namespace=namespace):
                pytest.fail("an exclusive holder beside shared ones")
    async with holding(kind, endpoint, "rw", namespace=namespace):
        with pytest.raises(LockHeldError):
            async with holding(kind, endpoint, "rw", **shared):
                pytest.fail("a shared holder beside an exclusive one")


async def test_waiters_are_served_in_their_order(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    order: list[int] = []

    async def wait(number: int) -> None:
        async with holding(kind, endpoint, "a", namespace=namespace, wait=30):
            order.append(number)

    async with holding(kind, endpoint, "a", namespace=namespace):
        tasks = []
        for number in range(4):
            tasks.append(asyncio.create_task(wait(number)))
            await eventually(
                lambda due=number + 1: run(client, inspect("a", namespace=namespace)).length == due
            )
    await asyncio.gather(*tasks)
    assert order == list(range(4))


async def test_who_gives_up_leaves_the_line(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis
) -> None:
    async with holding(kind, endpoint, "a", namespace=namespace):
        with pytest.raises(LockHeldError, match=r"after waiting 0\.. s at place 1 of the line"):
            async with holding(kind, endpoint, "a", namespace=namespace, wait=0.1):
                pytest.fail("two holders")
        assert run(client, inspect("a", namespace=namespace)).length == 0


async def test_waiting_outlives_a_restart(kind: str, namespace: str, eventually: Any) -> None:
    with own_server("--appendonly", "yes", "--appendfsync", "always") as server:
        endpoint = replace(server.endpoint, retries=0)
        entered = asyncio.Event()

        async def wait() -> int:
            async with holding(kind, endpoint, "a", namespace=namespace, wait=60, poll=0.2) as lock:
                entered.set()
                return lock.token

        with server.endpoint.client() as client:
            held = run(client, take("a", "holder", namespace=namespace))
            waiting = asyncio.create_task(wait())
            await eventually(lambda: run(client, inspect("a", namespace=namespace)).length)
        server.stop()
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await asyncio.to_thread(server.start)
        with server.endpoint.client() as client:
            assert run(client, who_holds("a", namespace=namespace)).token == held.token
            assert not entered.is_set()
            run(client, release("a", "holder", held.token, namespace=namespace))
        assert await asyncio.wait_for(waiting, 20) > held.token


async def test_an_earlier_object_of_an_owner_gives_nothing_back(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis
) -> None:
    options = {"owner": "work", "namespace": namespace}
    old = holding(kind, endpoint, "a", **options)
    await old.__aenter__()
    async with holding(kind, endpoint, "a", **options) as lock:
        await old.__aexit__(None, None, None)
        lock.ensure_held()
        assert run(client, who_holds("a", namespace=namespace)).token == lock.token
    assert run(client, who_holds("a", namespace=namespace)) is None
