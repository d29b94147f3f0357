"""Scripts in a Cluster whose keys are on their way from one node to another.

As long as a slot is, none of its nodes runs a script with some keys that have moved and some that
have not, or are nowhere. redis-py has patience for a third of a second, a slot may take longer. So
scripts that can do something with their first key alone do that, and others are tried again. And
what a script looks for that is not among its keys, it may take for missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis import exceptions

from nexus_redis_provider.core.calls import Argument, Call
from nexus_redis_provider.core.endpoint import FAILURES
from nexus_redis_provider.core.errors import UnreachableError
from nexus_redis_provider.core.nodes import AsyncNodes, Nodes
from nexus_redis_provider.core.slots import WHILE_ON_ITS_WAY
from nexus_redis_provider.core.translations import is_split

R = TypeVar("R")
Commands = Sequence[tuple[Argument, ...]]
# What a node must hear right before a command to serve it, as the slot is on its way there.
_ASKING: Commands = (("ASKING",),)


def at_nodes(
    nodes: Nodes, call: Call[Any], send: Callable[[redis.Redis, Call[Any], Commands], R]
) -> R:
    """What becomes of a call at the node that has its keys, or that they are on their way to.

    Args:
        send: sends it to a node, right after some commands; raises errors of this package.

    Raises: as `Nodes.at`.
    """

    def at(node: redis.Redis, before: Commands = ()) -> R:
        return _whole_or_part(lambda one: send(node, one, before), call)

    return nodes.at(call.keys[0], at, lambda node: at(node, _ASKING))


async def aat_nodes(
    nodes: AsyncNodes,
    call: Call[Any],
    send: Callable[[redis.asyncio.Redis, Call[Any], Commands], Awaitable[R]],
) -> R:
    """The asyncio twin of `at_nodes`."""

    async def at(node: redis.asyncio.Redis, before: Commands = ()) -> R:
        return await _awhole_or_part(lambda one: send(node, one, before), call)

    return await nodes.at(call.keys[0], at, lambda node: at(node, _ASKING))


def patiently(client: Any, send: Callable[[Call[Any]], Any], call: Call[Any]) -> Any:
    """The reply to a call, sent again for as long as the client waits for a reply.

    Args:
        client: of the whole Cluster.
        send: sends it once; raises redis-py's errors.
    """
    until = _until(client)
    while True:
        try:
            reply = _whole_or_part(send, call)
            if any(client.exists(key) for key in call.missed(reply)):
                raise _on_its_way()
        except FAILURES as error:
            if not _will_pass(error) or time.monotonic() > until:
                raise
            time.sleep(WHILE_ON_ITS_WAY)
        else:
            return reply


async def apatiently(
    client: Any, send: Callable[[Call[Any]], Awaitable[Any]], call: Call[Any]
) -> Any:
    """The asyncio twin of `patiently`."""
    until = _until(client)
    while True:
        try:
            reply = await _awhole_or_part(send, call)
            for key in call.missed(reply):
                if await client.exists(key):
                    raise _on_its_way()
        except FAILURES as error:
            if not _will_pass(error) or time.monotonic() > until:
                raise
            await asyncio.sleep(WHILE_ON_ITS_WAY)
        else:
            return reply


def _whole_or_part(send: Callable[[Call[Any]], R], call: Call[Any]) -> R:
    try:
        return send(call)
    except (UnreachableError, *FAILURES) as error:
        if not (_is_split(error) and call.part):
            raise
        return send(call.part)


async def _awhole_or_part(send: Callable[[Call[Any]], Awaitable[R]], call: Call[Any]) -> R:
    try:
        return await send(call)
    except (UnreachableError, *FAILURES) as error:
        if not (_is_split(error) and call.part):
            raise
        return await send(call.part)


def _is_split(error: Exception) -> bool:
    return is_split(error.__cause__ if isinstance(error, UnreachableError) else error)


def _until(client: Any) -> float:
    timeout: float = client.get_connection_kwargs()["socket_timeout"]
    return time.monotonic() + timeout


def _on_its_way() -> Exception:
    return exceptions.TryAgainError("a key that a script looked for is on its way to another node")


def _will_pass(error: Exception) -> bool:
    return isinstance(error, exceptions.ClusterError) or is_split(error)
