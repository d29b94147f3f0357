"""Locks and lock calls by both kinds of client, and in short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.locks import AsyncLock, Lock
from nexus_redis_provider.core.locks.protocol import Claim, acquire, inspect, who_holds
from nexus_redis_provider.core.locks.states import Acquisition
from nexus_redis_provider.core.scripts import Call, arun, run
from tests.topologies import until

DAY = 24 * 3600
Perform = Callable[[Call[Any]], Awaitable[Any]]


@asynccontextmanager
async def performing(kind: str, endpoint: Endpoint) -> AsyncIterator[Perform]:
    if kind == "async":
        async with endpoint.async_client() as client:
            yield partial(arun, client)
    else:
        with endpoint.client() as client:

            async def perform(call: Call[Any]) -> Any:
                return run(client, call)

            yield perform


async def look(kind: str, endpoint: Endpoint) -> None:
    """Run a script with a client of its own."""
    async with performing(kind, endpoint) as perform:
        await perform(who_holds("a"))


def take(
    name: str,
    owner: str,
    lease: float = 60,
    *,
    stay: float | None = None,
    bell: str = "-",
    ticket: int = 0,
    **claim: Any,
) -> Call[Acquisition]:
    return acquire(Claim(name, owner, **claim), lease, stay=stay, bell=bell, ticket=ticket)


def lock_of(kind: str, endpoint: Endpoint, name: str, **options: Any) -> Any:
    return (Lock if kind == "sync" else AsyncLock)(endpoint, name, **options)


async def enter(lock: Any) -> None:
    await (asyncio.to_thread(lock.__enter__) if isinstance(lock, Lock) else lock.__aenter__())


async def leave(lock: Any) -> None:
    closing = (None, None, None)
    if isinstance(lock, Lock):
        await asyncio.to_thread(lock.__exit__, *closing)
    else:
        await lock.__aexit__(*closing)


@asynccontextmanager
async def holding(kind: str, endpoint: Endpoint, name: str, **options: Any) -> AsyncIterator[Any]:
    """The lock, held within the block."""
    lock = lock_of(kind, endpoint, name, **options)
    await enter(lock)
    try:
        yield lock
    finally:
        await leave(lock)


def renewed_since(lock: Any, moment: float) -> None:
    """Returns when its lease was renewed after that, or is lost."""
    until(lambda: lock._hold.renewed_at > moment or lock._hold.is_lost, "a renewal, or the loss")


async def in_line(client: redis.Redis, name: str, namespace: str) -> None:
    call = inspect(name, namespace=namespace)
    await asyncio.to_thread(until, lambda: run(client, call).length, "a waiter")


async def line_up(perform: Perform, namespace: str, *owners: str, stay: float = 60) -> list[Any]:
    return [await perform(take("a", owner, stay=stay, namespace=namespace)) for owner in owners]


def line_of(client: redis.Redis, namespace: str) -> list[str]:
    return [waiter.owner for waiter in run(client, inspect("a", namespace=namespace)).waiters]
