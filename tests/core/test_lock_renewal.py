"""A lock in plain Python renews its lease, and is told of its loss."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.clusters import plain_client
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    LockLostError,
)
from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks import Lock, asynchronous, renewal
from nexus_redis_provider.core.locks.protocol import inspect, who_holds
from nexus_redis_provider.core.scripts import run, run_all
from tests.core.lock_calls import holding, renewed_since, take
from tests.guarded import own_server


async def test_a_context_renews_its_lease(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    seen = set()
    async with holding(kind, endpoint, "a", namespace=namespace, lease=0.5) as lock:

        def renewed_five_times() -> bool:
            seen.add(client.hget(LockKeys("a", namespace).lock, lock.owner))
            return len(seen) > 5

        # Five renewals at a third of the lease take longer than the lease.
        await eventually(renewed_five_times)
        lock.ensure_held()
        assert not lock.lost.is_set()


async def test_a_context_is_told_of_its_loss(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    async with holding(kind, endpoint, "a", namespace=namespace, lease=0.5) as lock:
        client.delete(LockKeys("a", namespace).lock)
        run(client, take("a", "thief", 60, namespace=namespace))
        await eventually(lock.lost.is_set)
        with pytest.raises(LockLostError, match="thief"):
            lock.ensure_held()
    assert run(client, who_holds("a", namespace=namespace)).owner == "thief"


async def test_a_silent_server_is_a_loss(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    async with holding(kind, endpoint, "a", namespace=namespace, lease=0.5) as lock:
        node = plain_client(client, LockKeys("a", namespace).lock)
        node.client_pause(1000)
        await eventually(lock.lost.is_set)
        assert not lock.held
        node.client_unpause()


async def test_a_slow_server_costs_no_lock(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis
) -> None:
    """Taking the lock takes so long that most of the lease is over by then."""
    plain_client(client, LockKeys("a", namespace).lock).client_pause(800)
    async with holding(kind, endpoint, "a", namespace=namespace, lease=1) as lock:
        for _ in range(150):
            lock.ensure_held()
            await asyncio.sleep(0.01)


def test_renewal_goes_on_after_an_answer_that_makes_no_sense(
    endpoint: Endpoint, namespace: str, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    tries = []

    def nonsense(*arguments: Any) -> Any:
        tries.append(arguments)
        if len(tries) <= 2:
            raise redis.exceptions.InvalidResponse("nonsense")
        return run_all(*arguments)

    monkeypatch.setattr("nexus_redis_provider.core.locks.renewal.run_all", nonsense)
    with Lock(endpoint, "a", namespace=namespace, lease=1) as lock:
        wait_until(lambda: len(tries) > 4)
        lock.ensure_held()
        assert not lock.lost.is_set()


@pytest.fixture
def tries(kind: str, monkeypatch: pytest.MonkeyPatch) -> list[Endpoint]:
    """Grows by one whenever who renews leases, or gives them back, needs a client; the first fails.

    The file of the password is not there for a moment, for example.
    """
    module, name = (renewal, "thread_client") if kind == "sync" else (asynchronous, "script_client")
    make, tries = getattr(module, name), list[Endpoint]()

    def fail_at_first(endpoint: Endpoint) -> Any:
        tries.append(endpoint)
        if len(tries) == 1:
            raise ConfigurationError("no password there")
        return make(endpoint)

    monkeypatch.setattr(module, name, fail_at_first)
    return tries


async def test_a_lease_is_renewed_whatever_was_wrong_at_first(
    kind: str, endpoint: Endpoint, namespace: str, tries: list[Endpoint]
) -> None:
    async with holding(kind, endpoint, "a", lease=6, namespace=namespace) as lock:
        await asyncio.to_thread(renewed_since, lock, lock._hold.renewed_at)
        lock.ensure_held()
    assert len(tries) > 1


async def test_a_lock_is_given_back_whatever_was_wrong_at_first(
    kind: str, namespace: str, tries: list[Endpoint], eventually: Any
) -> None:
    with own_server("--appendonly", "yes", "--appendfsync", "always") as server:
        endpoint = replace(server.endpoint, retries=0)
        async with holding(kind, endpoint, "a", lease=30, namespace=namespace):
            server.stop()
        await asyncio.to_thread(server.start)
        with server.endpoint.client() as client:
            await eventually(lambda: not run(client, who_holds("a", namespace=namespace)), 40)
    assert len(tries) > 1


async def test_a_lock_whose_server_was_away_at_the_end_is_given_back_later(
    kind: str, namespace: str, eventually: Any
) -> None:
    with own_server("--appendonly", "yes", "--appendfsync", "always") as server:
        endpoint = replace(server.endpoint, retries=0)
        async with holding(kind, endpoint, "a", lease=30, namespace=namespace) as lock:
            server.stop()
        await asyncio.to_thread(server.start)
        with server.endpoint.client() as client:
            # A lease that has run out is still there to be seen.
            await eventually(lambda: not run(client, who_holds("a", namespace=namespace)), 40)
            assert run(client, inspect("a", namespace=namespace)).token == lock.token
