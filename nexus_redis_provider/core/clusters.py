"""redis-py's clients of a whole Cluster, and what can be asked of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster
from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from nexus_redis_provider.core.endpoint import Endpoint, address_of, translated_errors
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.pools import close_at_once
from nexus_redis_provider.core.slots import Slots

_ALL_SLOTS = range(REDIS_CLUSTER_HASH_SLOTS)


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
        manager = self.nodes_manager
        nodes = (*manager.nodes_cache.values(), *manager.startup_nodes.values())
        try:
            await super().aclose()
            await manager.aclose()
            await manager.aclose("startup_nodes")
        finally:
            for node in nodes:
                await close_at_once(node._connections)  # noqa: SLF001 - it tells them nowhere else

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
        share: of all slots, 0 to 1; it has as many of those that were asked for.
    """

    address: str
    client: redis.Redis
    share: float


def primaries_of(client: Any, slots: Container[int] = _ALL_SLOTS) -> list[Primary]:
    """All servers that have some of these slots, as it is now; of a single server, that one.

    Raises: as `slots_by_node`, for a Cluster. Cost: as that, and nothing else.
    """
    if not is_spread(client):
        return [Primary(address_of(client), client, 1.0)]
    return [
        Primary(node.name, client.get_redis_connection(node), count / REDIS_CLUSTER_HASH_SLOTS)
        for node, count in slots_by_node(client, slots).items()
    ]


def slots_by_node(client: Any, slots: Container[int] = _ALL_SLOTS) -> Counter[Any]:
    """How many of these slots each node of a `RedisCluster` has that has some, asked anew.

    What has a key is followed to where that is by now. No node says so to what is about all keys,
    or about itself: after slots have moved, or a replica has taken over, the client would go on to
    trust what it knows.

    Raises:
        UnreachableError: no node answers.
        AccessDeniedError: bad credentials, or the ACL forbids CLUSTER SLOTS.

    Cost: one CLUSTER SLOTS, and a millisecond of redis-py's; so once for each walk, not more often.
    """
    with translated_errors(client):
        # Its connections are as good as before.
        client.nodes_manager.initialize(disconnect_startup_nodes_pools=False)
    return _known_slots(client, slots)


async def aslots_by_node(client: Any) -> Counter[Any]:
    """The asyncio twin of `slots_by_node`."""
    with translated_errors(client):
        await client.initialize()
        told = await client.cluster_slots()
        owners = {client.get_node(*one["primary"]) for one in told.values()}
        if owners != _known_slots(client).keys():
            # All connections of all who share the client are made anew by that.
            await client.nodes_manager.initialize()
    return _known_slots(client)


def _known_slots(client: Any, slots: Container[int] = _ALL_SLOTS) -> Counter[Any]:
    known = client.nodes_manager.slots_cache.items()
    return Counter(owners[0] for slot, owners in known if slot in slots)


def groups_of(client: Any, keys: Iterable[str | bytes]) -> dict[Any, list[int]]:
    """Where in a list of keys those of each node of a `RedisCluster` stand."""
    groups: dict[Any, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(client.get_node_from_key(key), []).append(place)
    return groups
