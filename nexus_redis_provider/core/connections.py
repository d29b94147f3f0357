"""Connections that connect once: who sends a command tries again.

redis-py's own do so, too, when they shake hands over TLS, and when they try by a PING a connection
that they have just made. A silent server would cost the product of both.
"""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio

from nexus_redis_provider.core.addresses import Node


class Once(redis.Connection):
    """Connects once for each attempt of who uses it."""

    def connect_check_health(
        self,
        check_health: bool = True,  # noqa: FBT001, FBT002 - as redis-py has it
        retry_socket_connect: bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        """Connect, without attempts of its own."""
        super().connect_check_health(check_health=False, retry_socket_connect=False)


class OnceTls(Once, redis.SSLConnection):
    """The same over TLS."""


class AsyncOnce(redis.asyncio.Connection):
    """The asyncio twin of `Once`."""

    async def connect_check_health(
        self,
        check_health: bool = True,  # noqa: FBT001, FBT002
        retry_socket_connect: bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        """As `Once.connect_check_health`."""
        await super().connect_check_health(check_health=False, retry_socket_connect=False)


class AsyncOnceTls(AsyncOnce, redis.asyncio.SSLConnection):
    """The same over TLS."""


def kind_of(node: Node, options: dict[str, Any]) -> type[Any]:
    """The class of connections to a node; the options get its address."""
    kinds = (redis.UnixDomainSocketConnection, OnceTls, Once)
    return _chosen(kinds, node, options)


def async_kind_of(node: Node, options: dict[str, Any]) -> type[Any]:
    """The asyncio twin of `kind_of`."""
    kinds = (redis.asyncio.UnixDomainSocketConnection, AsyncOnceTls, AsyncOnce)
    return _chosen(kinds, node, options)


def _chosen(kinds: tuple[type[Any], ...], node: Node, options: dict[str, Any]) -> type[Any]:
    by_socket, over_tls, plain = kinds
    if node.is_socket:
        options["path"] = node.host
        return by_socket
    options["host"], options["port"] = node.host, node.port
    return over_tls if options.pop("ssl", False) else plain
