"""Clients that go to the node of a Cluster which has a key.

redis-py's `RedisCluster` is for whoever asks for many keys, by commands that redis-py knows. A lock
has all its keys in one slot and needs a connection there, to block on, and to send two commands at
once.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster
from redis import exceptions
from redis.backoff import ExponentialWithJitterBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from nexus_redis_provider.core.addresses import Node
from nexus_redis_provider.core.durations import uptime
from nexus_redis_provider.core.endpoint import Endpoint, address_of, translated, translated_errors
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    UnreachableError,
)
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


def plain_client(client: Any, key: str) -> Any:
    """The client itself, or of a `RedisCluster` that of the node which has a key."""
    if isinstance(client, redis.cluster.RedisCluster):
        return client.get_redis_connection(client.get_node_from_key(key))
    return client


def is_spread(client: Any) -> bool:
    """Whether a client is of a whole Cluster, whose nodes have some of the keys each."""
    return isinstance(client, redis.cluster.RedisCluster | redis.asyncio.cluster.RedisCluster)


@dataclass(frozen=True, slots=True)
class Primary:
    """A server that has keys.

    Attributes:
        address: for messages.
        client: of it alone.
        share: of all slots, 0 to 1.
    """

    address: str
    client: redis.Redis
    share: float


def primaries_of(client: Any) -> list[Primary]:
    """All servers that have keys, as the client knows; of a single server, that one."""
    if not is_spread(client):
        return [Primary(address_of(client), client, 1.0)]
    slots = Counter(owners[0] for owners in client.nodes_manager.slots_cache.values())
    return [
        Primary(node.name, client.get_redis_connection(node), count / REDIS_CLUSTER_HASH_SLOTS)
        for node, count in slots.items()
    ]


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


def groups_of(
    client: Nodes | redis.cluster.RedisCluster, keys: Sequence[str | bytes]
) -> dict[Any, list[int]]:
    """Where in a list of keys those of each node stand; the nodes are for `client_of`."""
    if isinstance(client, Nodes):
        return client.groups(keys)
    groups: dict[Any, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(client.get_node_from_key(key), []).append(place)
    return groups


def client_of(client: Nodes | redis.cluster.RedisCluster, node: Any) -> redis.Redis:
    """The client of one node of those that `groups_of` told."""
    return client.client(node) if isinstance(client, Nodes) else client.get_redis_connection(node)


def general_client(endpoint: Endpoint, options: dict[str, Any]) -> Any:
    """redis-py's client of a whole Cluster.

    Raises: as `Slots.node_of`.
    """
    options = _options(options)
    Slots.of(endpoint).ask()
    nodes = [redis.cluster.ClusterNode(node.host, node.port) for node in endpoint.nodes]
    with translated_errors(endpoint):
        return redis.cluster.RedisCluster(startup_nodes=nodes, **options)


def general_async_client(endpoint: Endpoint, options: dict[str, Any]) -> Any:
    """The asyncio twin of `general_client`; connects on first use, and raises then."""
    nodes = [redis.asyncio.cluster.ClusterNode(node.host, node.port) for node in endpoint.nodes]
    return _AsyncCluster(startup_nodes=nodes, **_options(options))


class _AsyncCluster(redis.asyncio.cluster.RedisCluster):
    """It says by this package's errors why it does not find its nodes, and not before it must."""

    async def __aenter__(self) -> Any:
        """Like other clients, it connects on first use."""
        await self._increment_usage()
        return self

    async def aclose(self) -> None:
        """Close all connections, also where it was about to look for the nodes anew."""
        await asyncio.shield(self._close_all())

    async def _close_all(self) -> None:
        await super().aclose()
        await self.nodes_manager.aclose()
        await self.nodes_manager.aclose("startup_nodes")

    async def initialize(self, *args: Any, **options: Any) -> Any:
        """Look for the nodes, if they are not known."""
        with translated_errors(self):
            return await super().initialize(*args, **options)


def _options(options: dict[str, Any]) -> dict[str, Any]:
    if "single_connection_client" in options:
        raise ConfigurationError(
            "A client of a whole Cluster has more than one connection; for keys in one slot, "
            "Endpoint.client_for(key) gives one that takes single_connection_client."
        )
    found = {name: value for name, value in options.items() if name != "db"}
    # A slot that nobody has at the moment makes no others unreachable.
    return {"require_full_coverage": False} | found
