"""No lock on a server that may evict it: there, two would hold it at once.

Every key of a lock expires, so each policy but `noeviction` may choose it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import redis

from nexus_redis_provider.core.addresses import Node
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import EvictionError
from nexus_redis_provider.core.locks.protocol import Claim
from nexus_redis_provider.core.nodes import Nodes
from nexus_redis_provider.core.scripts import Call, run
from nexus_redis_provider.core.slots import Slots

_Eviction = tuple[int, str]

# Servers that evict nothing, as this process has found; of a Cluster, each node by itself.
_keepers: set[tuple[Endpoint, Node | None]] = set()


def refuse_eviction(endpoint: Endpoint, client: redis.Redis | Nodes, claim: Claim) -> None:
    """Return only if the server that has a lock does not evict keys.

    Args:
        endpoint: the server.
        client: of it, for scripts.
        claim: who is about to take which lock.

    Raises:
        EvictionError: it may evict the lock.
        AccessDeniedError: the user may not ask.

    Cost: one round trip, the first time in a process; none once the server was found good.
    """
    node = Slots.of(endpoint).node_of(claim.keys.lock) if endpoint.is_cluster else None
    if (endpoint, node) not in _keepers:
        _judge(endpoint, node, claim, run(client, show_eviction(claim)))


async def arefuse_eviction(
    endpoint: Endpoint, send: Callable[[Call[_Eviction]], Awaitable[_Eviction]], claim: Claim
) -> None:
    """The asyncio twin of `refuse_eviction`; `send` runs a call on the server."""
    node = await Slots.of(endpoint).anode_of(claim.keys.lock) if endpoint.is_cluster else None
    if (endpoint, node) not in _keepers:
        _judge(endpoint, node, claim, await send(show_eviction(claim)))


def show_eviction(claim: Claim) -> Call[_Eviction]:
    """Bytes that the server of a lock may take (0: any number), and its policy beyond."""

    def decode(reply: Any) -> _Eviction:
        maxmemory, policy = reply
        return maxmemory, policy.decode()

    return Call("show_eviction", (claim.keys.lock,), (), decode)


def _judge(endpoint: Endpoint, node: Node | None, claim: Claim, eviction: _Eviction) -> None:
    maxmemory, policy = eviction
    if maxmemory and policy != "noeviction":
        raise EvictionError(claim.name, str(node or endpoint), maxmemory, policy)
    _keepers.add((endpoint, node))
