"""Which node of a Cluster has a key, and clients that go there.

redis-py's `RedisCluster` is for whoever asks for many keys, by commands that redis-py knows. A lock
has all its keys in one slot and needs a connection there, to block on, and to send two commands at
once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster
from redis import exceptions
from redis.backoff import ExponentialWithJitterBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from nexus_redis_provider.core.addresses import Node
from nexus_redis_provider.core.endpoint import Endpoint, translated, translated_errors
from nexus_redis_provider.core.errors import (
    AccessDeniedError,
    ConfigurationError,
    UnreachableError,
)

T = TypeVar("T")

# More than a command meets while a slot moves from one node to the next.
_REDIRECTIONS = 5
# What stands for the host of a node that knows no name of its own: that which was asked.
_NO_HOSTS = (None, b"", b"?")


class Slots:
    """Which node of a Cluster has which slot, as this process has last heard; for all threads."""

    _known: ClassVar[dict[Endpoint, Slots]] = {}

    @classmethod
    def of(cls, endpoint: Endpoint) -> Slots:
        """What is known of a Cluster; nothing is asked yet."""
        return cls._known.get(endpoint) or cls._known.setdefault(endpoint, cls(endpoint))

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._owners: list[Node | None] = []
        self._nodes: tuple[Node, ...] = ()
        self._answered: tuple[Node, ...] = ()

    def node_of(self, key: str | bytes) -> Node:
        """The node that has a key.

        Raises:
            UnreachableError: no node answers, or none has the key's slot.
            AccessDeniedError: bad credentials, or the ACL forbids CLUSTER SLOTS.
            ConfigurationError: the server is no Cluster.

        Cost: none, but for a round trip to any node when nothing is known.
        """
        if not self._owners:
            self.ask()
        return self._owner(key)

    async def anode_of(self, key: str | bytes) -> Node:
        """The asyncio twin of `node_of`."""
        if not self._owners:
            await self.aask()
        return self._owner(key)

    def by_node(self, keys: Iterable[str]) -> dict[Node, list[str]]:
        """Keys in groups, each of those that one node has; raises as `node_of`."""
        groups: dict[Node, list[str]] = {}
        for key in keys:
            groups.setdefault(self.node_of(key), []).append(key)
        return groups

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes that have slots; raises as `node_of`."""
        if not self._owners:
            self.ask()
        return self._nodes

    def ask(self) -> None:
        """Ask any node for what is so now; raises as `node_of`."""
        doubts: dict[Node, Exception] = {}
        for node in self._candidates():
            try:
                with self._single(node).client() as client:
                    reply = client.execute_command("CLUSTER", "SLOTS")
            except exceptions.RedisError as error:
                doubts[node] = error
            else:
                self._note(reply, node)
                return
        raise self._complaint(doubts)

    async def aask(self) -> None:
        """The asyncio twin of `ask`."""
        doubts: dict[Node, Exception] = {}
        for node in self._candidates():
            try:
                async with self._single(node).async_client() as client:
                    reply = await client.execute_command("CLUSTER", "SLOTS")
            except exceptions.RedisError as error:
                doubts[node] = error
            else:
                self._note(reply, node)
                return
        raise self._complaint(doubts)

    def learn(self, error: UnreachableError) -> bool:
        """Take notice of why a node did not serve a key; whether it said who does."""
        cause: Any = error.__cause__
        if is_moved(error) and cause.host.encode() not in _NO_HOSTS and self._owners:
            self._owners[cause.slot_id] = Node(cause.host, cause.port)
        else:
            self.forget()
        return is_moved(error)

    def forget(self) -> None:
        """Ask anew before the next use."""
        self._owners = []

    def _owner(self, key: str | bytes) -> Node:
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        # Another thread may have forgotten everything meanwhile.
        owners = self._owners
        owner = owners[slot] if owners else None
        if owner is None:
            self.forget()
            raise UnreachableError(str(self._endpoint), f"no node has slot {slot} at the moment")
        return owner

    def _candidates(self) -> list[Node]:
        # Who does not answer costs a timeout, so who did is asked first.
        return list(dict.fromkeys((*self._answered, *self._nodes, *self._endpoint.nodes)))

    def _single(self, node: Node) -> Endpoint:
        return one_try(self._endpoint.at(node))

    def _note(self, reply: list[Any], asked: Node) -> None:
        owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, (host, port, *_), *_ in reply:
            node = Node(asked.host if host in _NO_HOSTS else host.decode(), port)
            owners[first : last + 1] = [node] * (last + 1 - first)
        self._nodes = tuple(dict.fromkeys(filter(None, owners)))
        self._answered = (asked,)
        self._owners = owners

    def _complaint(self, doubts: dict[Node, Exception]) -> Exception:
        for node, error in doubts.items():
            if "cluster support disabled" in str(error):
                return ConfigurationError(
                    f"Redis at {node} is no Cluster; a URL of one server begins with redis://."
                )
            if isinstance(told := translated(str(node), error), AccessDeniedError):
                return told
        said = "; ".join(f"{node}: {error}" for node, error in doubts.items())
        return UnreachableError(str(self._endpoint), f"none of its nodes answers ({said})")


class Nodes:
    """One thread's clients of a Cluster's nodes, each with one connection, for scripts."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._slots = Slots.of(endpoint)
        self._clients: dict[Node, redis.Redis] = {}

    def __str__(self) -> str:
        return str(self._endpoint)

    def at(self, key: str, action: Callable[[redis.Redis], T], *, retries: int | None = None) -> T:
        """Do something with a client of the node that has a key, again where it has moved.

        Args:
            key: any of those that it is about; all are in one slot.
            action: raises errors of this package only.
            retries: after a node that does not answer; by default the endpoint's.

        Raises: as the action, and as `Slots.node_of`.
        """
        trial = _Trial(self._slots, self._endpoint.retries if retries is None else retries)
        while True:
            try:
                return action(self.client(self._slots.node_of(key)))
            except UnreachableError as error:
                time.sleep(trial.pause_after(error))

    def groups(self, keys: Iterable[str]) -> dict[Node, list[int]]:
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

    async def at(self, key: str, action: Callable[[redis.asyncio.Redis], Awaitable[T]]) -> T:
        """As `Nodes.at`."""
        trial = _Trial(self._slots, self._endpoint.retries)
        while True:
            try:
                return await action(self.client(await self._slots.anode_of(key)))
            except UnreachableError as error:
                await asyncio.sleep(trial.pause_after(error))

    async def groups(self, keys: Iterable[str]) -> dict[Node, list[int]]:
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
        """Close all connections."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()


class KeyGuide:
    """The guide of connections to the node that has a key."""

    def __init__(self, endpoint: Endpoint, key: str) -> None:
        self._endpoint = endpoint
        self._key = key
        self._slots = Slots.of(endpoint)

    def __str__(self) -> str:
        return str(self._endpoint)

    def left(self, error: Exception) -> None:
        """Nothing to note: who has the key is asked for every connection."""

    def address(self) -> tuple[str, int]:
        """Host and port of the node. Raises a ConnectionError of redis-py."""
        with _as_of_redis():
            self._slots.ask()
            return _pair(self._slots.node_of(self._key))


class AsyncKeyGuide(KeyGuide):
    """The asyncio twin of `KeyGuide`."""

    async def address(self) -> tuple[str, int]:  # type: ignore[override]
        """As `KeyGuide.address`."""
        with _as_of_redis():
            await self._slots.aask()
            return _pair(await self._slots.anode_of(self._key))


@contextmanager
def _as_of_redis() -> Iterator[None]:
    # Within a client only redis-py's own errors are retried.
    try:
        yield
    except UnreachableError as error:
        raise exceptions.ConnectionError(str(error.__cause__ or error)) from error
    except AccessDeniedError as error:
        raise exceptions.AuthenticationError(str(error.__cause__ or error)) from error


def _pair(node: Node) -> tuple[str, int]:
    return node.host, node.port


def plain_client(client: Any, key: str) -> Any:
    """The client itself, or of a `RedisCluster` that of the node which has a key."""
    if isinstance(client, redis.cluster.RedisCluster):
        return client.get_redis_connection(client.get_node_from_key(key))
    return client


class _Trial:
    """How often something is tried that did not find its key, and when."""

    def __init__(self, slots: Slots, retries: int) -> None:
        self._slots = slots
        self._retries = retries
        self._failures = self._redirections = 0

    def pause_after(self, error: UnreachableError) -> float:
        """Seconds until the next attempt; raises the error when there is none."""
        if self._slots.learn(error) and self._redirections < _REDIRECTIONS:
            self._redirections += 1
            return 0.0
        self._failures += 1
        if self._failures > self._retries:
            raise error
        return ExponentialWithJitterBackoff(base=0.05, cap=0.5).compute(self._failures)


def groups_of(
    client: Nodes | redis.cluster.RedisCluster, keys: Sequence[str]
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


def is_moved(error: Exception) -> bool:
    """Whether an error of this package says that another node has the key for good."""
    return isinstance(error.__cause__, exceptions.MovedError)


def one_try(endpoint: Endpoint) -> Endpoint:
    """The endpoint without retries: who looks for a key tries again where it is then."""
    return replace(endpoint, retries=0)


def general_client(endpoint: Endpoint, options: dict[str, Any]) -> Any:
    """redis-py's client of a whole Cluster.

    Raises: as `Slots.node_of`.
    """
    options = _without_db(options)
    Slots.of(endpoint).ask()
    nodes = [redis.cluster.ClusterNode(node.host, node.port) for node in endpoint.nodes]
    with translated_errors(endpoint):
        return redis.cluster.RedisCluster(startup_nodes=nodes, **options)


def general_async_client(endpoint: Endpoint, options: dict[str, Any]) -> Any:
    """The asyncio twin of `general_client`; connects on first use, and raises then."""
    nodes = [redis.asyncio.cluster.ClusterNode(node.host, node.port) for node in endpoint.nodes]
    return _AsyncCluster(startup_nodes=nodes, **_without_db(options))


class _AsyncCluster(redis.asyncio.cluster.RedisCluster):
    """It says by this package's errors why it does not find its nodes, and not before it must."""

    async def __aenter__(self) -> Any:
        """Like other clients, it connects on first use."""
        await self._increment_usage()
        return self

    async def initialize(self, *args: Any, **options: Any) -> Any:
        """Look for the nodes, if they are not known."""
        with translated_errors(self):
            return await super().initialize(*args, **options)


def _without_db(options: dict[str, Any]) -> dict[str, Any]:
    if "single_connection_client" in options:
        raise ConfigurationError(
            "A client of a whole Cluster has more than one connection; for keys in one slot, "
            "Endpoint.client_for(key) gives one that takes single_connection_client."
        )
    return {name: value for name, value in options.items() if name != "db"}
