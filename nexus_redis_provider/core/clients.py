"""Clients that a thread keeps, so that nobody connects anew for every lock."""

from __future__ import annotations

import os
import threading

import redis
import redis.asyncio
from redis.exceptions import RedisError

from nexus_redis_provider.core.endpoint import Endpoint, translated
from nexus_redis_provider.core.nodes import AsyncNodes, Nodes

# Where scripts are sent.
ThreadClient = redis.Redis | Nodes
ScriptClient = redis.asyncio.Redis | AsyncNodes


class _Kept(threading.local):
    """What a thread keeps; made anew in each."""

    def __init__(self) -> None:
        self.clients: dict[Endpoint, ThreadClient] = {}


_kept = _Kept()


def thread_client(endpoint: Endpoint) -> ThreadClient:
    """The client of this thread for an endpoint, with one connection; do not close it.

    It is closed when the thread ends. No other thread waits for its connection, and none has to be
    fetched from a pool for every command. Of a Cluster, there is a connection to each node that has
    keys of ours.

    Raises:
        UnreachableError, AccessDeniedError: it cannot connect.
    """
    clients = _kept.clients
    client = clients.get(endpoint)
    if client is None:
        if endpoint.is_cluster:
            client = clients[endpoint] = Nodes(endpoint)
            return client
        try:
            client = clients[endpoint] = endpoint.client(single_connection_client=True)
        except RedisError as error:
            raise translated(str(endpoint), error) from error
    return client


def script_client(endpoint: Endpoint) -> ScriptClient:
    """An asyncio client for scripts; close it with `await client.aclose()`."""
    return AsyncNodes(endpoint) if endpoint.is_cluster else endpoint.async_client()


def _begin_anew() -> None:
    # What the parent of a fork sends and receives must not get mixed up with ours.
    global _kept  # noqa: PLW0603 - one per process
    _kept = _Kept()


os.register_at_fork(after_in_child=_begin_anew)
