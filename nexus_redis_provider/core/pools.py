"""redis-py's clients, each with a pool of its own that says how it is full, or waits.

What was idle is tried before it is lent: see `connections`.
"""

from __future__ import annotations

import queue
from collections.abc import Iterable
from typing import Any

import redis
import redis.asyncio
from redis import exceptions

from nexus_redis_provider.core.connections import arevive, revive


def client_of(
    kind: type[Any],
    options: dict[str, Any],
    wait: float = 0.0,
    made_by: type[redis.Redis] = redis.Redis,
) -> redis.Redis:
    """A client whose connections are of a class.

    Args:
        kind: of connection.
        options: of the class; and `single_connection_client`, `max_connections`.
        wait: seconds to wait for a connection while all are in use; 0 is an error at once.
        made_by: the class of the client.
    """
    options = dict(options)
    single = options.pop("single_connection_client", False)
    pool: redis.ConnectionPool = (
        _WaitingPool(connection_class=kind, timeout=wait, **options)  # type: ignore[no-untyped-call]
        if wait
        else _Pool(connection_class=kind, **options)
    )
    client = made_by(connection_pool=pool, single_connection_client=single)
    client.auto_close_connection_pool = True
    return client


def async_client_of(
    kind: type[Any],
    options: dict[str, Any],
    wait: float = 0.0,
    made_by: type[redis.asyncio.Redis] = redis.asyncio.Redis,
) -> redis.asyncio.Redis:
    """The asyncio twin of `client_of`."""
    options = dict(options)
    single = options.pop("single_connection_client", False)
    pool: redis.asyncio.ConnectionPool = (
        _AsyncWaitingPool(connection_class=kind, timeout=wait, **options)
        if wait
        else _AsyncPool(connection_class=kind, **options)
    )
    client = made_by(connection_pool=pool, single_connection_client=single)
    client.auto_close_connection_pool = True
    return client


class _LendsAlive(redis.ConnectionPool):
    def get_connection(self, *args: Any, **options: Any) -> Any:
        connection = super().get_connection(*args, **options)
        try:
            revive(connection)
        except BaseException:
            self.release(connection)
            raise
        return connection


class _Pool(_LendsAlive):
    def make_connection(self) -> Any:
        try:
            return super().make_connection()
        except exceptions.MaxConnectionsError as error:
            raise _full(self.max_connections) from error


async def close_at_once(connections: Iterable[Any]) -> None:
    """Close what redis-py leaves open if it is cancelled before it has begun with a connection.

    It waits for nothing, so no cancellation comes in between.
    """
    for connection in connections:
        await connection.disconnect(nowait=True)


class _AsyncLendsAlive(redis.asyncio.ConnectionPool):
    async def ensure_connection(self, connection: Any) -> None:
        await super().ensure_connection(connection)
        await arevive(connection)


class _ClosesAnyway(_AsyncLendsAlive):
    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            await close_at_once((*self._available_connections, *self._in_use_connections))


class _AsyncPool(_ClosesAnyway):
    def get_available_connection(self) -> Any:
        try:
            return super().get_available_connection()  # type: ignore[no-untyped-call]
        except exceptions.MaxConnectionsError as error:
            raise _full(self.max_connections) from error


class _WaitingPool(_LendsAlive, redis.BlockingConnectionPool):
    def get_connection(self, *args: Any, **options: Any) -> Any:
        try:
            return super().get_connection(*args, **options)
        except exceptions.ConnectionError as error:
            if isinstance(error.__context__, queue.Empty):
                raise _full(self.max_connections, self.timeout) from error
            raise


class _AsyncWaitingPool(_ClosesAnyway, redis.asyncio.BlockingConnectionPool):
    async def get_connection(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().get_connection(*args, **options)  # type: ignore[no-untyped-call]
        except exceptions.ConnectionError as error:
            if isinstance(error.__cause__, TimeoutError):
                raise _full(self.max_connections, self.timeout) from error
            raise


def _full(connections: int, waited: float | None = None) -> exceptions.MaxConnectionsError:
    after = f" for {waited:g} s" if waited else ""
    return exceptions.MaxConnectionsError(
        f"all {connections} connections of the client are in use{after}"
    )
