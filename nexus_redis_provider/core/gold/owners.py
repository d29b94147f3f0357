"""Which node of a Cluster has which slot, as redis-py's client of the whole knows; many at once."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import redis
from redis import exceptions
from redis.cluster import ClusterNode
from redis.crc import REDIS_CLUSTER_HASH_SLOTS

Numbers = np.ndarray[Any, np.dtype[np.int64]]


class Owners:
    """The primaries that have slots; errors are those of redis-py."""

    def __init__(self, client: redis.Redis) -> None:
        """Know what the client knows; all that uses the client learns from the same.

        Args:
            client: of the whole Cluster.
        """
        self._manager: Any = client.nodes_manager  # type: ignore[attr-defined]
        self._known: tuple[list[ClusterNode], Numbers] | None = None

    def groups(self, slots: Numbers) -> list[tuple[ClusterNode, Numbers]]:
        """Each node that has some of the slots, with the places of those."""
        nodes, owners = self._known = self._known or self._table()
        owned = owners[slots]
        return [(nodes[one], np.flatnonzero(owned == one)) for one in np.unique(owned).tolist()]

    def learn(self, slot: int, host: str, port: int) -> None:
        """Take notice of who has a slot now."""
        # redis-py moves only a slot that some node had when it last asked.
        self._manager.slots_cache.setdefault(slot, [])
        self._manager.move_slot(exceptions.MovedError(f"{slot} {host}:{port}"))
        self._known = None

    def ask(self) -> None:
        """Ask the nodes who has what; no news where none answers."""
        with suppress(exceptions.RedisClusterException):
            self._manager.initialize()
        self._known = None

    def node(self, host: str, port: int) -> ClusterNode:
        """The node at an address, also one that has no slots yet."""
        found: ClusterNode | None = self._manager.get_node(host, port)
        return found or ClusterNode(host, port)

    def _table(self) -> tuple[list[ClusterNode], Numbers]:
        """All nodes, and for each slot the place of its node among them.

        One that nobody is known to have is for the first node to say whose it is.
        """
        nodes: dict[str, ClusterNode] = {}
        places: dict[str, int] = {}
        owners = np.zeros(REDIS_CLUSTER_HASH_SLOTS, np.int64)
        for slot, (primary, *_) in self._manager.slots_cache.items():
            nodes.setdefault(primary.name, primary)
            owners[slot] = places.setdefault(primary.name, len(places))
        return list(nodes.values()), owners
