"""Clients that all users of an endpoint share, in a process or in an event loop.

The last one to leave closes them, so that a thousand waiting triggers take a few connections, and
none is left when they are done.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ClassVar, Self, TypeVar
from weakref import WeakKeyDictionary

import redis
import redis.asyncio

from nexus_redis_provider.core.endpoint import Endpoint

T = TypeVar("T")

# Of all that look at one server in an event loop.
_CONNECTIONS = 8


@dataclass
class _Lent:
    """A client of this process, and how many have it."""

    client: redis.Redis
    users: int = 0


_lent: dict[Endpoint, _Lent] = {}
# A hook that is collected while this thread is within gives back its client.
_guard = threading.RLock()


def borrow(endpoint: Endpoint) -> redis.Redis:
    """The client of this process for an endpoint, for all its threads; `give_back` it once.

    Raises: as `Endpoint.client`.
    """
    with _guard:
        if lent := _lent.get(endpoint):
            lent.users += 1
            return lent.client
    made = endpoint.client()  # Of a Cluster, that asks its nodes; others are not to wait for them.
    with _guard:
        lent = _lent.setdefault(endpoint, _Lent(made))
        lent.users += 1
    if lent.client is not made:
        made.close()
    return lent.client


def give_back(endpoint: Endpoint, client: redis.Redis) -> None:
    """End the use of a client that was borrowed; the last one closes it."""
    with _guard:
        lent = _lent.get(endpoint)
        # What the parent of a fork has lent is closed there.
        if lent is None or lent.client is not client:
            return
        lent.users -= 1
        if lent.users:
            return
        del _lent[endpoint]
    client.close()


class LoopClient:
    """The client of an event loop for an endpoint: a few connections, however many take turns.

    Example:
        async with LoopClient.of(endpoint) as shared:
            await shared.use(look)
    """

    _open: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Endpoint, LoopClient]]] = (
        WeakKeyDictionary()
    )

    @classmethod
    def of(cls, endpoint: Endpoint) -> LoopClient:
        """That of the running loop. Enter it at once; the last user closes it."""
        clients = cls._open.setdefault(asyncio.get_running_loop(), {})
        return clients.get(endpoint) or clients.setdefault(endpoint, cls(endpoint))

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._client = endpoint.async_client()
        self._turns = asyncio.Semaphore(min(_CONNECTIONS, endpoint.max_connections))
        self._users = 0

    async def __aenter__(self) -> Self:
        self._users += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._users -= 1
        if not self._users:
            # Who comes from now on opens another one.
            del self._open[asyncio.get_running_loop()][self._endpoint]
            await self._client.aclose()

    async def use(self, action: Callable[[redis.asyncio.Redis], Awaitable[T]]) -> T:
        """Do something with the client, when it is our turn; raises as the action does."""
        async with self._turns:
            return await action(self._client)


def _begin_anew() -> None:
    global _guard  # noqa: PLW0603 - one per process; the parent may have held it
    _guard = threading.RLock()
    _lent.clear()


os.register_at_fork(after_in_child=_begin_anew)
