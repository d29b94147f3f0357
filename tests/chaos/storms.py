"""Thousands of callers at once: who is served, what the others are told, and what is left."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psutil
import redis.asyncio

from nexus_redis_provider.core.endpoint import Endpoint, translated_errors
from nexus_redis_provider.embedded import EmbeddedServer
from tests.guarded import own_server

CROWD = 2_000
_POOL = 50
_MAX_CLIENTS = 100
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What became of a storm.

    Attributes:
        storm: in a few words.
        callers, served: how many.
        errors: that the others got, by what is said beside the address.
        seconds: until the last one was served, or told.
        served_then: of as many callers after it, some at a time.
        connections, files: that are open when all is over and were not before: at the server, here.
    """

    storm: str
    callers: int
    served: int
    errors: Counter[str]
    seconds: float
    served_then: int
    connections: int
    files: int

    @property
    def is_over(self) -> bool:
        """Whether all works again, and nothing is left."""
        return self.served_then == self.callers and not self.connections and self.files <= 0


async def come_at_once(callers: int = CROWD, **timeouts: float) -> Aftermath:
    """Each with a client of its own, all of which stay until the last has come."""
    with own_server() as server:
        endpoint = replace(server.endpoint, **timeouts)
        return await _weather(
            f"{callers:,} clients", server, callers, lambda: _own_clients(endpoint, callers)
        )


async def exhaust_server(callers: int = CROWD, **timeouts: float) -> Aftermath:
    """The same at a server that takes a hundred clients."""
    with own_server("--maxclients", str(_MAX_CLIENTS)) as server:
        # Whoever is sent away is to say so; how often it tries before is not what this is about.
        endpoint = replace(server.endpoint, retries=0, **timeouts)
        name = f"{callers:,} clients, `maxclients` {_MAX_CLIENTS}"
        return await _weather(name, server, callers, lambda: _own_clients(endpoint, callers))


async def exhaust_pool(callers: int = CROWD, *, wait: float = 0.0) -> Aftermath:
    """All with one client of fifty connections.

    Args:
        wait: seconds that they have for one of them.
    """
    with own_server() as server:
        endpoint = replace(server.endpoint, max_connections=_POOL, pool_timeout=wait)
        name = f"{callers:,} callers, a pool of {_POOL}, `pool_timeout` {wait:g}"
        return await _weather(name, server, callers, lambda: _one_client(endpoint, callers))


STORMS: tuple[Callable[[], Coroutine[Any, Any, Aftermath]], ...] = (
    come_at_once,
    exhaust_pool,
    partial(exhaust_pool, wait=_PATIENCE_S),
    exhaust_server,
)


async def _weather(
    name: str,
    server: EmbeddedServer,
    callers: int,
    storm: Callable[[], Awaitable[list[str | None]]],
) -> Aftermath:
    # What others left to be collected is not counted as if this one had closed it.
    gc.collect()
    files = psutil.Process().num_fds()
    began = time.monotonic()
    told = await storm()
    seconds = time.monotonic() - began
    errors = Counter(error for error in told if error is not None)
    served_then = await _served_calmly(server.endpoint, callers)
    return Aftermath(
        storm=name,
        callers=callers,
        served=told.count(None),
        errors=errors,
        seconds=seconds,
        served_then=served_then,
        connections=await _connections(server.endpoint),
        files=psutil.Process().num_fds() - files,
    )


async def _own_clients(endpoint: Endpoint, callers: int) -> list[str | None]:
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(endpoint.async_client(max_connections=1))
            for _ in range(callers)
        ]
        return await asyncio.gather(*map(_call, clients))


async def _one_client(endpoint: Endpoint, callers: int) -> list[str | None]:
    async with endpoint.async_client() as client:
        return await asyncio.gather(*(_call(client) for _ in range(callers)))


async def _call(client: redis.asyncio.Redis) -> str | None:
    """Ask the server something; returns what went wrong."""
    try:
        with translated_errors(client):
            await client.incr("calls")
    except Exception as error:  # noqa: BLE001 - it is what the storm is judged by
        return f"{type(error).__name__}: {error}"
    return None


async def _served_calmly(endpoint: Endpoint, callers: int) -> int:
    patient = replace(endpoint, max_connections=_POOL, pool_timeout=_PATIENCE_S)
    return (await _one_client(patient, callers)).count(None)


async def _connections(endpoint: Endpoint) -> int:
    """How many clients the server has but for who asks, when those that left are gone."""
    async with endpoint.async_client(max_connections=1) as client:
        count = 0
        for _ in range(100):
            if not (count := len(await client.client_list()) - 1):
                break
            await asyncio.sleep(0.05)
        return count
