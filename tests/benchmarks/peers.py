"""The locks that are compared, each as an object to enter and leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import redis
import redis.asyncio
import redis_lock
from pottery import Redlock

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.locks import AsyncLock, Lock

LEASE = 30
PATIENCE = 600

_TAKE = "return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])"
_GIVE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to lock.

    Attributes:
        lock: a fresh object for a free lock of an endpoint, by name.
        waiting: the same for one that others may have; it waits for as long as it takes.
        is_async: to be entered by `async with`.
        effort: share of the usual number of rounds; less than 1 for what takes long.
    """

    name: str
    lock: Callable[[Endpoint, str], Any]
    waiting: Callable[[Endpoint, str], Any]
    is_async: bool = False
    effort: float = 1.0


@cache
def shared_client(endpoint: Endpoint, **options: Any) -> redis.Redis:
    """A client as their documentation makes one: for all threads, with connections for all."""
    node = endpoint.nodes[0]
    return redis.Redis(host=node.host, port=node.port, max_connections=10_000, **options)


@cache
def shared_async_client(endpoint: Endpoint) -> redis.asyncio.Redis:
    node = endpoint.nodes[0]
    return redis.asyncio.Redis(host=node.host, port=node.port, max_connections=10_000)


def _ours(endpoint: Endpoint, name: str) -> Lock:
    return Lock(endpoint, name, lease=LEASE)


def _ours_waiting(endpoint: Endpoint, name: str) -> Lock:
    return Lock(endpoint, name, lease=LEASE, wait=PATIENCE)


def _ours_async(endpoint: Endpoint, name: str) -> AsyncLock:
    return AsyncLock(endpoint, name, lease=LEASE)


def _ours_async_waiting(endpoint: Endpoint, name: str) -> AsyncLock:
    return AsyncLock(endpoint, name, lease=LEASE, wait=PATIENCE)


def _redis_py(endpoint: Endpoint, name: str) -> Any:
    return shared_client(endpoint).lock(name, timeout=LEASE)


def _redis_py_alone(endpoint: Endpoint, name: str) -> Any:
    return shared_client(endpoint, single_connection_client=True).lock(name, timeout=LEASE)


def _redis_py_async(endpoint: Endpoint, name: str) -> Any:
    return shared_async_client(endpoint).lock(name, timeout=LEASE)


def _python_redis_lock(endpoint: Endpoint, name: str) -> redis_lock.Lock:
    # The 5 s that redis-py waits for a reply would break off its BLPOP, and cost it its place.
    return redis_lock.Lock(shared_client(endpoint, socket_timeout=None), name, expire=LEASE)


def _pottery(endpoint: Endpoint, name: str) -> Redlock:
    return Redlock(key=name, masters={shared_client(endpoint)}, auto_release_time=LEASE)


class _Bare:
    """The least that a lock can be: two scripts by their SHA-1 on one connection."""

    def __init__(self, endpoint: Endpoint, name: str) -> None:
        self._client = shared_client(endpoint, single_connection_client=True)
        self._take, self._give = _loaded(endpoint)
        self._name = name

    def __enter__(self) -> None:
        self._client.evalsha(self._take, 1, self._name, "me", LEASE * 1000)

    def __exit__(self, *_: object) -> None:
        self._client.evalsha(self._give, 1, self._name, "me")


@cache
def _loaded(endpoint: Endpoint) -> tuple[str, str]:
    client = shared_client(endpoint)
    return client.script_load(_TAKE), client.script_load(_GIVE)


LOCK = Way("Lock", _ours, _ours_waiting)
ASYNC_LOCK = Way("AsyncLock", _ours_async, _ours_async_waiting, is_async=True, effort=0.5)
REDIS_PY = Way("redis-py", _redis_py, _redis_py)
REDIS_PY_ALONE = Way("redis-py, a connection of its own", _redis_py_alone, _redis_py_alone)
REDIS_PY_ASYNC = Way(
    "redis-py, asyncio", _redis_py_async, _redis_py_async, is_async=True, effort=0.5
)
PYTHON_REDIS_LOCK = Way("python-redis-lock", _python_redis_lock, _python_redis_lock)
POTTERY = Way("pottery Redlock, one master", _pottery, _pottery, effort=0.1)
BARE = Way("two bare scripts", _Bare, _Bare)

UNCONTENDED = (LOCK, REDIS_PY, REDIS_PY_ALONE, PYTHON_REDIS_LOCK, POTTERY, BARE)
UNCONTENDED_ASYNC = (ASYNC_LOCK, REDIS_PY_ASYNC)
WAITING = {way.name: way for way in (LOCK, ASYNC_LOCK, REDIS_PY, PYTHON_REDIS_LOCK, POTTERY)}
