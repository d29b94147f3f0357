"""What is about keys on several nodes of a Cluster: one exchange with each of the nodes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import redis
import redis.asyncio

from nexus_redis_provider.core.clusters import groups_of
from nexus_redis_provider.core.errors import ServerError, UnreachableError
from nexus_redis_provider.core.nodes import AsyncNodes, Nodes
from nexus_redis_provider.core.slots import is_moved, is_on_its_way

T = TypeVar("T")


def spread(
    client: Nodes | redis.RedisCluster,
    keys: Sequence[str],
    at_node: Callable[[redis.Redis, Sequence[int]], Sequence[T | ServerError]],
    alone: Callable[[int], T],
) -> list[T | ServerError]:
    """A result for each key, or the error of a node that cannot be reached.

    Args:
        client: of the whole Cluster.
        keys: one for each thing that is to be done.
        at_node: does some of them, given by their places, with the client of the node that has
            their keys.
        alone: does one of them, wherever its key is by now, or when it is there.
    """
    results: dict[int, T | ServerError] = {}
    groups: dict[Any, list[int]]
    groups = client.groups(keys) if isinstance(client, Nodes) else groups_of(client, keys)
    for node, places in groups.items():
        try:
            done = at_node(_client_of(client, node), places)
        except UnreachableError as error:
            if isinstance(client, Nodes):
                client.forget()
            done = [error] * len(places)
        results.update(zip(places, done, strict=True))
    for place in _elsewhere(results):
        try:
            results[place] = alone(place)
        except ServerError as error:
            results[place] = error
    return [results[place] for place in range(len(keys))]


async def aspread(
    client: AsyncNodes,
    keys: Sequence[str],
    at_node: Callable[[redis.asyncio.Redis, Sequence[int]], Awaitable[Sequence[T | ServerError]]],
    alone: Callable[[int], Awaitable[T]],
) -> list[T | ServerError]:
    """The asyncio twin of `spread`."""
    results: dict[int, T | ServerError] = {}
    for node, places in (await client.groups(keys)).items():
        done: Sequence[T | ServerError]
        try:
            done = await at_node(client.client(node), places)
        except UnreachableError as error:
            client.forget()
            done = [error] * len(places)
        results.update(zip(places, done, strict=True))
    for place in _elsewhere(results):
        try:
            results[place] = await alone(place)
        except ServerError as error:
            results[place] = error
    return [results[place] for place in range(len(keys))]


def _client_of(client: Nodes | redis.RedisCluster, node: Any) -> redis.Redis:
    return client.client(node) if isinstance(client, Nodes) else client.get_redis_connection(node)


def _elsewhere(results: Mapping[int, T | ServerError]) -> list[int]:
    # What another node has by now, or is about to have.
    return [
        place
        for place, result in results.items()
        if isinstance(result, UnreachableError) and (is_moved(result) or is_on_its_way(result))
    ]
