"""Commands and their replies over one connection: less than redis-py does, in less time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import redis
import redis.asyncio
from redis.exceptions import MaxConnectionsError, RedisError, ResponseError
from redis.utils import HIREDIS_AVAILABLE

from nexus_redis_provider.core.clusters import groups_of, is_spread
from nexus_redis_provider.core.endpoint import address_of, translated, translated_errors
from nexus_redis_provider.core.errors import UnreachableError

if HIREDIS_AVAILABLE:
    import hiredis


def exchange(client: redis.Redis, *words: str | bytes | int) -> Any:
    """`execute_command` of a client with one connection, with its retries, in less time.

    What it leaves out, a tenth of what a lock costs, is redis-py's own metrics.
    """
    with own_connection(client) as connection:

        def once() -> Any:
            connection.send_command(*words)
            return connection.read_response()

        return connection.retry.call_with_retry(once, lambda _: connection.disconnect())


def execute_all(client: redis.Redis, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """The replies to commands that are sent at once, as they come from the server.

    As a pipeline of the client, but without its callbacks and metrics, in half the time. What a
    node of a Cluster refuses is sent again by redis-py, which follows it to where its key has
    moved, and makes `True` of `OK`, for example.

    Raises: as `scripts.run`; also when one of the replies is an error.
    """
    if is_spread(client):
        return _execute_spread(client, commands)
    try:
        with own_connection(client) as connection:

            def once() -> list[Any]:
                connection.send_packed_command(_packed(connection, commands))
                return [reply_of(connection) for _ in commands]

            replies = connection.retry.call_with_retry(once, lambda _: connection.disconnect())
            for reply in replies:
                if isinstance(reply, ResponseError):
                    raise reply
    except RedisError as error:
        raise translated(address_of(client), error) from error
    found: list[Any] = replies
    return found


def _packed(connection: Any, commands: Sequence[Sequence[Any]]) -> list[bytes]:
    """Commands in RESP. What redis-py does beside what hiredis does takes five times as long."""
    rows = map(tuple, commands)
    packed: list[bytes] = (
        [b"".join(map(hiredis.pack_command, rows))]
        if HIREDIS_AVAILABLE
        else connection.pack_commands(rows)
    )
    return packed


def _execute_spread(client: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """Commands with keys in a Cluster: all of its nodes are asked before the first one answers."""
    with translated_errors(client):
        # Whoever does not answer may be none of the nodes any more.
        retry, look = client.retry, client.nodes_manager.initialize
        replies: list[Any] = retry.call_with_retry(
            lambda: _asked_at_once(client, commands), lambda _: look(), _may_be_elsewhere
        )
        for place, reply in enumerate(replies):
            if isinstance(reply, ResponseError):
                # By itself, redis-py follows it to where its key has moved, or raises.
                replies[place] = client.execute_command(*commands[place])
    return replies


def _asked_at_once(client: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
    replies: list[Any] = [None] * len(commands)
    with ExitStack() as stack:
        asked = []
        for node, places in groups_of(client, list(map(_key, commands))).items():
            one = stack.enter_context(own_connection(client.get_redis_connection(node)))
            one.send_packed_command(_packed(one, [commands[at] for at in places]))
            asked.append((one, places))
        for one, places in asked:
            for place in places:
                replies[place] = reply_of(one)
    return replies


def _may_be_elsewhere(error: Exception) -> bool:
    # To look for the nodes takes a connection, too.
    return not isinstance(error, MaxConnectionsError)


def _key(command: Sequence[Any]) -> Any:
    return command[2 if command[0] == "MEMORY" else 1]


async def aexecute_all(client: redis.asyncio.Redis, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """The asyncio twin of `execute_all`."""
    with translated_errors(client):
        if is_spread(client):
            return await _aexecute_spread(client, commands)
        async with _pooled_connection(client) as connection:

            async def once() -> list[Any]:
                await connection.send_packed_command(_packed(connection, commands))
                return [await _areply_of(connection) for _ in commands]

            replies: list[Any] = await connection.retry.call_with_retry(
                once, lambda _: connection.disconnect()
            )
            for reply in replies:
                if isinstance(reply, ResponseError):
                    raise reply
        return replies


async def _aexecute_spread(client: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """The asyncio twin of `_execute_spread`."""
    await client.initialize()
    look = client.nodes_manager.initialize
    replies: list[Any] = await client.retry.call_with_retry(
        lambda: _aasked_at_once(client, commands), lambda _: look(), _may_be_elsewhere
    )
    for place, reply in enumerate(replies):
        if isinstance(reply, ResponseError):
            replies[place] = await client.execute_command(*commands[place])
    return replies


async def _aasked_at_once(client: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
    groups = groups_of(client, list(map(_key, commands)))

    async def ask(node: Any, places: Sequence[int]) -> list[Any]:
        async with _node_connection(node) as connection:
            packed = _packed(connection, [commands[at] for at in places])
            await connection.send_packed_command(packed)
            return [await _areply_of(connection) for _ in places]

    asked = (ask(node, places) for node, places in groups.items())
    # All are over, and have given back their connections, when one fails.
    answers = await asyncio.gather(*asked, return_exceptions=True)
    replies: list[Any] = [None] * len(commands)
    for places, answer in zip(groups.values(), answers, strict=True):
        if isinstance(answer, BaseException):
            raise answer
        for place, reply in zip(places, answer, strict=True):
            replies[place] = reply
    return replies


@contextmanager
def own_connection(client: redis.Redis) -> Iterator[Any]:
    """The one connection of a client, or one of its pool, for as long as replies are due.

    Who runs in between in the same thread, a signal handler for example, gets another one.
    """
    kept: Any = client.connection
    connection: Any = kept or client.connection_pool.get_connection()
    client.connection = None
    try:
        yield connection
    except BaseException as error:
        if _spoils(error):
            connection.disconnect()
        raise
    finally:
        client.connection = kept
        if kept is None:
            client.connection_pool.release(connection)


@asynccontextmanager
async def _pooled_connection(client: redis.asyncio.Redis) -> AsyncIterator[Any]:
    """A connection of a client's pool, as `own_connection`."""
    connection: Any = await client.connection_pool.get_connection()
    try:
        yield connection
    except BaseException as error:
        if _spoils(error):
            await connection.disconnect(nowait=True)
        raise
    finally:
        await client.connection_pool.release(connection)


@asynccontextmanager
async def _node_connection(node: Any) -> AsyncIterator[Any]:
    """A connection to a node, of an asyncio client of the whole Cluster, as `own_connection`."""
    connection: Any = node.acquire_connection()
    try:
        await node.disconnect_if_needed(connection)
        yield connection
    except BaseException as error:
        if _spoils(error):
            await connection.disconnect(nowait=True)
        raise
    finally:
        node.release(connection)


def _spoils(error: BaseException) -> bool:
    """Whether nothing may be sent over a connection any more.

    What was the primary is none any more: who connects again may find the new one. And where it was
    interrupted, a reply that was not read must not pass for that of the next command.
    """
    is_reply = isinstance(error, ResponseError)
    return not is_reply or isinstance(translated("", error), UnreachableError)


def reply_of(connection: Any, **options: Any) -> Any:
    """The next reply; an error of the server is one, too."""
    try:
        return connection.read_response(**options)
    except ResponseError as error:
        return error


async def _areply_of(connection: Any) -> Any:
    """The asyncio twin of `reply_of`."""
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
