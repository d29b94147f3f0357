"""Clients that go to the node of a Cluster which has a key, for scripts.

redis-py's `RedisCluster` is for whoever asks for many keys, by commands that redis-py knows. A lock
has all its keys in one slot and needs a connection there, to block on, and to send two commands at
once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from typing import TypeVar

import redis
import redis.asyncio
from redis import exceptions
from redis.backoff import ExponentialWithJitterBackoff

from nexus_redis_provider.core.addresses import Node
from nexus_redis_provider.core.durations import uptime
from nexus_redis_provider.core.endpoint import Endpoint, translated
from nexus_redis_provider.core.errors import UnreachableError
from nexus_redis_provider.core.slots import (
    WHILE_ON_ITS_WAY,
    Slots,
    asked_for,
    is_on_its_way,
    one_try,
)

T = TypeVar("T")

# More than a command meets while a slot moves from one node to the next.
_REDIRECTIONS = 5


class Nodes:
    """One thread's clients of a Cluster's nodes, each with one connection, for scripts."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._slots = Slots.of(endpoint)
        self._clients: dict[Node, redis.Redis] = {}

    def __str__(self) -> str:
        return str(self._endpoint)

    def at(
        self,
        key: str,
        action: Callable[[redis.Redis], T],
        asking: Callable[[redis.Redis], T] | None = None,
        *,
        once: bool = False,
    ) -> T:
        """Do something with a client of the node that has a key, again where it has moved.

        While its slot is on its way, for as long as the endpoint waits for a reply.

        Args:
            key: any of those that it is about; all are in one slot.
            action: raises errors of this package only.
            asking: the same, sending ASKING first, at a node that is to be asked as the slot is on
                its way there; by default nothing is done there.
            once: not again after a node that does not answer, or while the slot is on its way.

        Raises: as the action, and as `Slots.node_of`.
        """
        trial = _Trial(self._slots, self._endpoint, once=once)
        while True:
            try:
                try:
                    return action(self.client(self._slots.node_of(key)))
                except UnreachableError as error:
                    if not asking or not (other := asked_for(error)):
                        raise
                    return asking(self.client(other))
            except UnreachableError as error:
                time.sleep(trial.pause_after(error))

    def groups(self, keys: Iterable[str | bytes]) -> dict[Node, list[int]]:
        """Where in a list of keys those of each node stand."""
        groups: dict[Node, list[int]] = {}
        for place, key in enumerate(keys):
            groups.setdefault(self._slots.node_of(key), []).append(place)
        return groups

    def forget(self) -> None:
        """Ask anew who has what, before the next use."""
        self._slots.forget()

    def client(self, node: Node) -> redis.Redis:
        """The client of a node. Raises UnreachableError, AccessDeniedError: it cannot connect."""
        client = self._clients.get(node)
        if client is None:
            one = one_try(self._endpoint.at(node))
            try:
                client = self._clients[node] = one.client(single_connection_client=True)
            except exceptions.RedisError as error:
                raise translated(str(node), error) from error
        return client


class AsyncNodes:
    """The asyncio twin of `Nodes`, for all tasks of an event loop; the clients have pools."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._slots = Slots.of(endpoint)
        self._clients: dict[Node, redis.asyncio.Redis] = {}

    def __str__(self) -> str:
        return str(self._endpoint)

    async def at(
        self,
        key: str,
        action: Callable[[redis.asyncio.Redis], Awaitable[T]],
        asking: Callable[[redis.asyncio.Redis], Awaitable[T]] | None = None,
    ) -> T:
        """As `Nodes.at`."""
        trial = _Trial(self._slots, self._endpoint)
        while True:
            try:
                try:
                    return await action(self.client(await self._slots.anode_of(key)))
                except UnreachableError as error:
                    if not asking or not (other := asked_for(error)):
                        raise
                    return await asking(self.client(other))
            except UnreachableError as error:
                await asyncio.sleep(trial.pause_after(error))

    async def groups(self, keys: Iterable[str | bytes]) -> dict[Node, list[int]]:
        """As `Nodes.groups`."""
        groups: dict[Node, list[int]] = {}
        for place, key in enumerate(keys):
            groups.setdefault(await self._slots.anode_of(key), []).append(place)
        return groups

    def client(self, node: Node) -> redis.asyncio.Redis:
        """The client of a node."""
        client = self._clients.get(node)
        if client is None:
            client = self._clients[node] = one_try(self._endpoint.at(node)).async_client()
        return client

    async def listener(self, channel: str) -> redis.asyncio.Redis:
        """A client to subscribe with: what any node publishes, all nodes pass on."""
        return self.client(await self._slots.anode_of(channel))

    def forget(self) -> None:
        """Ask anew who has what, before the next use."""
        self._slots.forget()

    async def aclose(self) -> None:
        """Close all connections, also beside one that is broken."""
        clients, self._clients = self._clients, {}
        async with AsyncExitStack() as stack:
            for client in clients.values():
                stack.push_async_callback(client.aclose)


class _Trial:
    """How often something is tried that did not find its key, and when."""

    def __init__(self, slots: Slots, endpoint: Endpoint, *, once: bool = False) -> None:
        self._slots = slots
        self._retries = 0 if once else endpoint.retries
        self._until = uptime() + (0.0 if once else endpoint.read_timeout)
        self._failures = self._redirections = 0

    def pause_after(self, error: UnreachableError) -> float:
        """Seconds until the next attempt; raises the error when there is none."""
        if is_on_its_way(error):
            if uptime() > self._until:
                raise error
            return WHILE_ON_ITS_WAY
        if self._slots.learn(error) and self._redirections < _REDIRECTIONS:
            self._redirections += 1
            return 0.0
        self._failures += 1
        if self._failures > self._retries:
            raise error
        return ExponentialWithJitterBackoff(base=0.05, cap=0.5).compute(self._failures)
