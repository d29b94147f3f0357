"""Which node of a Cluster has which slot of the keys."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, ClassVar

from redis import exceptions
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from nexus_redis_provider.core.addresses import Node
from nexus_redis_provider.core.endpoint import Endpoint, translated
from nexus_redis_provider.core.errors import (
    AccessDeniedError,
    ConfigurationError,
    UnreachableError,
)
from nexus_redis_provider.core.translations import is_split

WHILE_ON_ITS_WAY = 0.02
"""Seconds between two looks whether a slot has come to where it goes."""
_LAST_SLOT = REDIS_CLUSTER_HASH_SLOTS - 1
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
        return self.owner_of(_slot(key))

    async def anode_of(self, key: str | bytes) -> Node:
        """The asyncio twin of `node_of`."""
        if not self._owners:
            await self.aask()
        return self._owner(_slot(key))

    def owner_of(self, slot: int) -> Node:
        """The node that has a slot; raises as `node_of`."""
        if not self._owners:
            self.ask()
        return self._owner(slot)

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
                # As a context of its own it would stay open if cancelled before it closes.
                async with aclosing(self._single(node).async_client()) as client:
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

    def _owner(self, slot: int) -> Node:
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
        for first, last, told, *_ in reply:
            node = node_told(told, asked)
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


def node_told(told: Sequence[Any], asked: Node) -> Node:
    """A node as another one, that was asked, tells it in a reply to CLUSTER SLOTS."""
    host, port, *_ = told
    return Node(asked.host if host in _NO_HOSTS else host.decode(), port)


def _slot(key: str | bytes) -> int:
    return key_slot(key.encode() if isinstance(key, str) else key)


def slots_of(prefix: str, names: Iterable[bytes]) -> list[int]:
    """The slots of many keys `prefix + name`; the prefix has no hash tag."""
    start = crc_hqx(prefix.encode(), 0)
    return [
        key_slot(prefix.encode() + name) if b"{" in name else crc_hqx(name, start) & _LAST_SLOT
        for name in names
    ]


def is_moved(error: Exception) -> bool:
    """Whether an error of this package says that another node has the key for good."""
    return isinstance(error.__cause__, exceptions.MovedError)


def is_on_its_way(error: Exception) -> bool:
    """Whether an error of this package says that a slot is, so that it will pass."""
    return _is_asked_for(error) or is_split(error.__cause__)


def asked_for(error: Exception) -> Node | None:
    """The node that is to be asked this once, after ASKING, as an error of this package says."""
    cause = error.__cause__
    return target_of(cause) if isinstance(cause, exceptions.AskError) else None


def target_of(error: exceptions.AskError) -> Node | None:
    """The node that is to be asked this once, where an error of redis-py names one."""
    if isinstance(error, exceptions.MovedError) or error.host.encode() in _NO_HOSTS:
        return None
    return Node(error.host, error.port)


def _is_asked_for(error: Exception) -> bool:
    return isinstance(error.__cause__, exceptions.AskError) and not is_moved(error)


def one_try(endpoint: Endpoint) -> Endpoint:
    """The endpoint without retries: who looks for a key tries again where it is then."""
    return replace(endpoint, retries=0)
