"""Plain clients for the keys of one slot of a Cluster, of the node that has it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import redis
import redis.asyncio
from redis import exceptions

from nexus_redis_provider.core import following
from nexus_redis_provider.core.addresses import Node
from nexus_redis_provider.core.durations import uptime
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import AccessDeniedError, UnreachableError
from nexus_redis_provider.core.slots import WHILE_ON_ITS_WAY, Slots, target_of


def key_client(
    endpoint: Endpoint, key: str, options: dict[str, Any], overrides: dict[str, Any]
) -> redis.Redis:
    """A client of the node that has a key.

    Args:
        endpoint: the Cluster.
        key: any of the slot.
        options: of the client's connections.
        overrides: those that the caller has set, for a client of another node.
    """
    return following.client_of(_KeyGuide(endpoint, key, overrides), options, made_by=_KeyClient)


def async_key_client(
    endpoint: Endpoint, key: str, options: dict[str, Any], overrides: dict[str, Any]
) -> redis.asyncio.Redis:
    """The asyncio twin of `key_client`."""
    guide = _AsyncKeyGuide(endpoint, key, overrides)
    return following.async_client_of(guide, options, made_by=_AsyncKeyClient)


class _KeyGuide:
    """The guide of connections to the node that has a key."""

    def __init__(self, endpoint: Endpoint, key: str, overrides: dict[str, Any]) -> None:
        self._endpoint = endpoint
        self._key = key
        self._slots = Slots.of(endpoint)
        # One command is sent there; it needs no connection of its own for that.
        self._overrides = overrides | {"single_connection_client": False}

    def __str__(self) -> str:
        return str(self._endpoint)

    def left(self, error: Exception) -> None:
        """Nothing to note: who has the key is asked for every connection."""

    def address(self) -> tuple[str, int]:
        """Host and port of the node. Raises a ConnectionError of redis-py."""
        with _as_of_redis():
            self._slots.ask()
            return _pair(self._slots.node_of(self._key))

    @property
    def patience_s(self) -> float:
        """How long to wait while the slot is on its way."""
        return self._endpoint.read_timeout

    def client_of(self, node: Node) -> Any:
        """A client of another node, as a context."""
        return self._endpoint.at(node).client(**self._overrides)


class _AsyncKeyGuide(_KeyGuide):
    """The asyncio twin of `_KeyGuide`."""

    async def address(self) -> tuple[str, int]:  # type: ignore[override]
        """As `_KeyGuide.address`."""
        with _as_of_redis():
            await self._slots.aask()
            return _pair(await self._slots.anode_of(self._key))

    def client_of(self, node: Node) -> Any:
        """As `_KeyGuide.client_of`."""
        return self._endpoint.at(node).async_client(**self._overrides)


@contextmanager
def _as_of_redis() -> Iterator[None]:
    # Within a client only redis-py's own errors are retried.
    try:
        yield
    except UnreachableError as error:
        raise exceptions.ConnectionError(str(error.__cause__ or error)) from error
    except AccessDeniedError as error:
        raise exceptions.AuthenticationError(str(error.__cause__ or error)) from error


def _pair(node: Node) -> tuple[str, int]:
    return node.host, node.port


class _KeyClient(redis.Redis):
    """Its single commands go on while the slot is on its way to another node.

    A key that is not where the slot comes from may be where it goes; of keys on both sides, neither
    node serves all. Pipelines and transactions fail meanwhile: what asks the other node is good for
    the next command alone.
    """

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """As of redis-py."""
        until = uptime() + _guide_of(self).patience_s
        while True:
            try:
                return self._execute_once(*args, **options)
            except (exceptions.AskError, exceptions.TryAgainError):
                if uptime() > until:
                    raise
                time.sleep(WHILE_ON_ITS_WAY)

    def _execute_once(self, *args: Any, **options: Any) -> Any:
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except exceptions.AskError as error:
            if (node := target_of(error)) is None:
                raise
            other = _guide_of(self).client_of(node)
            with other, other.pipeline(transaction=False) as pipe:
                pipe.execute_command("ASKING")
                pipe.execute_command(*args, **options)
                return pipe.execute()[-1]


class _AsyncKeyClient(redis.asyncio.Redis):
    """The asyncio twin of `_KeyClient`."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """As of redis-py."""
        until = uptime() + _guide_of(self).patience_s
        while True:
            try:
                return await self._execute_once(*args, **options)
            except (exceptions.AskError, exceptions.TryAgainError):
                if uptime() > until:
                    raise
                await asyncio.sleep(WHILE_ON_ITS_WAY)

    async def _execute_once(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except exceptions.AskError as error:
            if (node := target_of(error)) is None:
                raise
            other = _guide_of(self).client_of(node)
            async with aclosing(other), other.pipeline(transaction=False) as pipe:
                pipe.execute_command("ASKING")
                pipe.execute_command(*args, **options)
                return (await pipe.execute())[-1]


def _guide_of(client: Any) -> Any:
    return client.connection_pool.connection_kwargs["guide"]
