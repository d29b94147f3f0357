"""Connections that connect once: who sends a command tries again.

redis-py's own do so, too, when they shake hands over TLS, and when they try by a PING a connection
that they have just made. A silent server would cost the product of both.

One that was idle is tried before a pool lends it, and made anew if it died: that needs no retry.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import redis
import redis.asyncio
from redis import exceptions

from nexus_redis_provider.core.addresses import Node


class _Once:
    """Connects once for each attempt of who uses it."""

    def connect_check_health(
        self,
        check_health: bool = True,  # noqa: FBT001, FBT002 - as redis-py has it
        retry_socket_connect: bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        """Connect, without attempts of its own."""
        super().connect_check_health(  # type: ignore[misc]
            check_health=False, retry_socket_connect=False
        )


class Once(_Once, redis.Connection):
    """Over TCP."""


class OnceTls(Once, redis.SSLConnection):
    """Over TLS."""


class OnceSocket(_Once, redis.UnixDomainSocketConnection):
    """By a Unix socket."""


class _AsyncOnce:
    """The asyncio twin of `_Once`."""

    async def connect_check_health(
        self,
        check_health: bool = True,  # noqa: FBT001, FBT002
        retry_socket_connect: bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        """As `_Once.connect_check_health`."""
        await super().connect_check_health(  # type: ignore[misc]
            check_health=False, retry_socket_connect=False
        )


class AsyncOnce(_AsyncOnce, redis.asyncio.Connection):
    """Over TCP."""


class AsyncOnceTls(AsyncOnce, redis.asyncio.SSLConnection):
    """Over TLS."""


class AsyncOnceSocket(_AsyncOnce, redis.asyncio.UnixDomainSocketConnection):
    """By a Unix socket."""

    async def _connect(self) -> None:
        # redis-py's own shakes hands here, too: with a silent server without an end, as each
        # attempt to connect begins with further ones.
        async with asyncio.timeout(self.socket_connect_timeout):
            self._reader, self._writer = await asyncio.open_unix_connection(self.path)


_DEAD = (exceptions.ConnectionError, exceptions.TimeoutError)


def revive(connection: Any) -> None:
    """Connect anew where a PING finds a connection dead after it was idle; not while it watches."""
    if connection.health_check_interval and time.monotonic() > connection.next_health_check:
        try:
            connection.send_command("PING", check_health=False)
            _refuse_others(connection.read_response())
        except _DEAD:
            connection.disconnect()
            connection.connect()


async def arevive(connection: Any) -> None:
    """The asyncio twin of `revive`."""
    now = asyncio.get_running_loop().time()
    if connection.health_check_interval and now > connection.next_health_check:
        try:
            await connection.send_command("PING", check_health=False)
            _refuse_others(await connection.read_response())
        except _DEAD:
            await connection.disconnect()
            await connection.connect()


def _refuse_others(reply: Any) -> None:
    if reply not in (b"PONG", "PONG"):
        raise exceptions.ConnectionError("another reply than that to a PING")


def kind_of(node: Node, options: dict[str, Any]) -> type[Any]:
    """The class of connections to a node; the options get its address."""
    kinds = (OnceSocket, OnceTls, Once)
    return _chosen(kinds, node, options)


def async_kind_of(node: Node, options: dict[str, Any]) -> type[Any]:
    """The asyncio twin of `kind_of`."""
    kinds = (AsyncOnceSocket, AsyncOnceTls, AsyncOnce)
    return _chosen(kinds, node, options)


def _chosen(kinds: tuple[type[Any], ...], node: Node, options: dict[str, Any]) -> type[Any]:
    by_socket, over_tls, plain = kinds
    if node.is_socket:
        options["path"] = node.host
        return by_socket
    options["host"], options["port"] = node.host, node.port
    return over_tls if options.pop("ssl", False) else plain
