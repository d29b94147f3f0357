"""Connections that ask where to go whenever they connect, and clients that have such connections.

redis-py's own for Sentinel ask only at times: a command whose connection broke is sent again to the
server that is gone.
"""

from __future__ import annotations

from typing import Any, Protocol

import redis
import redis.asyncio
from redis import exceptions

from nexus_redis_provider.core import pools
from nexus_redis_provider.core.connections import AsyncOnce, Once
from nexus_redis_provider.core.translations import NO_REPLICAS

# A server that answers so is no longer the one to ask.
_ELSEWHERE = (exceptions.ReadOnlyError, exceptions.MovedError)


class Guide(Protocol):
    """Says where to go."""

    def address(self) -> tuple[str, int]:
        """Host and port. Raises a ConnectionError of redis-py where nobody knows."""

    def left(self, error: Exception) -> None:
        """Take notice that the server at the last address sent us away."""


class AsyncGuide(Protocol):
    """The asyncio twin of `Guide`."""

    async def address(self) -> tuple[str, int]:
        """As `Guide.address`."""

    def left(self, error: Exception) -> None:
        """As `Guide.left`."""


def client_of(
    guide: Guide,
    options: dict[str, Any],
    wait: float = 0.0,
    made_by: type[redis.Redis] = redis.Redis,
) -> redis.Redis:
    """A client that goes where the guide says, whenever it connects.

    Args:
        guide: also shown as the client's address, by its `str`.
        options: of a connection, without host and port; `ssl` for TLS.
        wait, made_by: as of `pools.client_of`.
    """
    kind = FollowingTls if options.pop("ssl", False) else Following
    return pools.client_of(kind, {**options, "guide": guide}, wait, made_by)


def async_client_of(
    guide: AsyncGuide,
    options: dict[str, Any],
    wait: float = 0.0,
    made_by: type[redis.asyncio.Redis] = redis.asyncio.Redis,
) -> redis.asyncio.Redis:
    """The asyncio twin of `client_of`."""
    kind = AsyncFollowingTls if options.pop("ssl", False) else AsyncFollowing
    return pools.async_client_of(kind, {**options, "guide": guide}, wait, made_by)


class Following(Once):
    """A connection that asks its guide."""

    def __init__(self, *, guide: Guide, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._guide = guide

    def connect_check_health(
        self,
        check_health: bool = True,  # noqa: FBT001, FBT002 - as redis-py has it
        retry_socket_connect: bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        """Connect to where the guide says now: who tries again is to ask again."""
        if not self.is_connected:
            self.host, self.port = self._guide.address()
        super().connect_check_health(check_health, retry_socket_connect)

    def read_response(self, *args: Any, **options: Any) -> Any:
        """A reply; one that sends us away is a lost connection, after which we ask again."""
        try:
            return super().read_response(*args, **options)
        except exceptions.ResponseError as error:
            if not _sends_away(error):
                raise
            self._guide.left(error)
            self.disconnect()  # type: ignore[no-untyped-call]
            raise exceptions.ConnectionError(str(error)) from error


def _sends_away(error: exceptions.ResponseError) -> bool:
    # The latter says a primary whose replicas follow another one now, long before Sentinels do.
    return isinstance(error, _ELSEWHERE) or str(error).startswith(NO_REPLICAS)


class FollowingTls(Following, redis.SSLConnection):
    """The same over TLS."""


class AsyncFollowing(AsyncOnce):
    """The asyncio twin of `Following`."""

    def __init__(self, *, guide: AsyncGuide, **options: Any) -> None:
        super().__init__(**options)
        self._guide = guide

    async def connect_check_health(
        self,
        check_health: bool = True,  # noqa: FBT001, FBT002
        retry_socket_connect: bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        """As `Following.connect_check_health`."""
        if not self.is_connected:
            self.host, self.port = await self._guide.address()
        await super().connect_check_health(check_health, retry_socket_connect)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """As `Following.read_response`."""
        try:
            return await super().read_response(*args, **options)
        except exceptions.ResponseError as error:
            if not _sends_away(error):
                raise
            self._guide.left(error)
            await self.disconnect()
            raise exceptions.ConnectionError(str(error)) from error


class AsyncFollowingTls(AsyncFollowing, redis.asyncio.SSLConnection):
    """The same over TLS."""
