"""A pool that is full says so, at once or after the time that was given, and then goes on."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from nexus_redis_provider.core.clusters import plain_client
from nexus_redis_provider.core.endpoint import Endpoint, Node
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    PoolExhaustedError,
    UnreachableError,
)
from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks import AsyncLock
from nexus_redis_provider.core.locks.protocol import who_holds
from nexus_redis_provider.core.scripts import arun, run
from tests.conftest import WaitUntil
from tests.kinds import unspread
from tests.topologies import ClusterDeployment, SentinelDeployment

FULL = "all 2 connections of the client are in use"


def test_a_full_pool_is_an_error_with_a_name(endpoint: Endpoint) -> None:
    with replace(endpoint, max_connections=2).client() as client:
        pool = plain_client(client, LockKeys("a").lock).connection_pool
        taken = [pool.get_connection() for _ in range(2)]
        # redis-py makes the pools of a Cluster, and says it in its words.
        said = "Too many connections" if endpoint.is_cluster else FULL
        with pytest.raises(PoolExhaustedError, match=said) as full:
            run(client, who_holds("a"))
        assert "Raise max_connections, or let callers wait" in str(full.value)
        assert str(endpoint) in str(full.value)
        pool.release(taken[0])
        assert run(client, who_holds("a")) is None
        pool.release(taken[1])


async def test_a_crowd_of_asyncio_is_told_and_served_later(endpoint: Endpoint) -> None:
    async with replace(endpoint, max_connections=2).async_client() as client:
        crowd = (arun(client, who_holds("a")) for _ in range(20))
        told = [one for one in await asyncio.gather(*crowd, return_exceptions=True) if one]
        assert 0 < len(told) < 20
        assert all(isinstance(one, PoolExhaustedError) for one in told)
        assert "connections" in str(told[0])
        assert await arun(client, who_holds("a")) is None


@unspread
async def test_a_full_pool_of_asyncio(endpoint: Endpoint) -> None:
    async with replace(endpoint, max_connections=2).async_client() as client:
        taken = [await client.connection_pool.get_connection() for _ in range(2)]
        with pytest.raises(PoolExhaustedError, match=FULL):
            await arun(client, who_holds("a"))
        await client.connection_pool.release(taken[0])
        assert await arun(client, who_holds("a")) is None
        await client.connection_pool.release(taken[1])


@unspread
def test_waiting_for_a_connection(endpoint: Endpoint, wait_until: WaitUntil) -> None:
    with replace(endpoint, max_connections=1, pool_timeout=30).client() as client:
        pool = client.connection_pool
        taken, answers = pool.get_connection(), []
        waiting = threading.Thread(target=lambda: answers.append(client.ping()))
        waiting.start()
        wait_until(lambda: pool.pool.not_empty._waiters)
        assert answers == []
        pool.release(taken)
        waiting.join()
        assert answers == [True]


@unspread
def test_waiting_in_vain(endpoint: Endpoint) -> None:
    with replace(endpoint, max_connections=2, pool_timeout=0.05).client() as client:
        taken = [client.connection_pool.get_connection() for _ in range(2)]
        with pytest.raises(PoolExhaustedError, match=f"{FULL} for 0.05 s"):
            run(client, who_holds("a"))
        for connection in taken:
            client.connection_pool.release(connection)


@unspread
async def test_waiting_with_asyncio(endpoint: Endpoint) -> None:
    async with replace(endpoint, max_connections=1, pool_timeout=30).async_client() as client:
        assert await asyncio.gather(*(client.ping() for _ in range(20))) == [True] * 20
        assert len(client.connection_pool._available_connections) == 1
    async with replace(endpoint, max_connections=2, pool_timeout=0.05).async_client() as client:
        taken = [await client.connection_pool.get_connection() for _ in range(2)]
        with pytest.raises(PoolExhaustedError, match=f"{FULL} for 0.05 s"):
            await arun(client, who_holds("a"))
        for connection in taken:
            await client.connection_pool.release(connection)


@unspread
async def test_locks_of_a_loop_do_with_few_connections(endpoint: Endpoint, namespace: str) -> None:
    narrow = replace(endpoint, max_connections=3, pool_timeout=30)

    async def take(name: str) -> int:
        async with AsyncLock(narrow, name, wait=30, namespace=namespace) as lock:
            return lock.token

    tokens = await asyncio.gather(*(take(str(number % 5)) for number in range(40)))
    assert len(set(tokens)) == 40


async def test_who_cannot_connect_is_not_told_of_a_pool() -> None:
    nowhere = Endpoint(nodes=(Node("127.0.0.1", 1),), retries=0, pool_timeout=5)
    with nowhere.client() as client, pytest.raises(UnreachableError) as refused:
        run(client, who_holds("a"))
    assert type(refused.value) is UnreachableError
    async with nowhere.async_client() as client:
        with pytest.raises(UnreachableError) as refused:
            await arun(client, who_holds("a"))
    assert type(refused.value) is UnreachableError


async def test_pools_of_other_deployments() -> None:
    with SentinelDeployment(replicas=0) as deployment:
        watched = replace(deployment.endpoint, max_connections=2, pool_timeout=0.05)
        with watched.client() as client:
            taken = [client.connection_pool.get_connection() for _ in range(2)]
            with pytest.raises(PoolExhaustedError, match=f"{FULL} for 0.05 s"):
                run(client, who_holds("a"))
            for connection in taken:
                client.connection_pool.release(connection)
    with ClusterDeployment(primaries=1) as deployment:
        narrow = replace(deployment.endpoint, max_connections=2)
        with narrow.client_for("a") as client:
            taken = [client.connection_pool.get_connection() for _ in range(2)]
            with pytest.raises(PoolExhaustedError, match=FULL):
                run(client, who_holds("a"))
            for connection in taken:
                client.connection_pool.release(connection)
    with pytest.raises(
        ConfigurationError, match="give no pool_timeout, and more max_connections than 2"
    ):
        replace(narrow, pool_timeout=1)
