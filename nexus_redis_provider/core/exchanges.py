"""Commands and their replies over one connection: less than redis-py does, in less time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from nexus_redis_provider.core.endpoint import address_of, translated, translated_errors
from nexus_redis_provider.core.errors import UnreachableError


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

    As a pipeline of the client, but without its callbacks and metrics, in half the time.

    Raises: as `scripts.run`; also when one of the replies is an error.
    """
    if getattr(client, "connection_pool", None) is None:
        return _pipelined(client, commands)  # of a Cluster
    packed = list(map(tuple, commands))
    try:
        with own_connection(client) as connection:

            def once() -> list[Any]:
                connection.send_packed_command(connection.pack_commands(packed))
                return [reply_of(connection) for _ in packed]

            replies = connection.retry.call_with_retry(once, lambda _: connection.disconnect())
            for reply in replies:
                if isinstance(reply, ResponseError):
                    raise reply
    except RedisError as error:
        raise translated(address_of(client), error) from error
    found: list[Any] = replies
    return found


def _pipelined(client: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
    with translated_errors(client), client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = pipeline.execute()
    return replies


async def aexecute_all(client: redis.asyncio.Redis, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """The asyncio twin of `execute_all`, by a pipeline of the client."""
    with translated_errors(client):
        pipeline = client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = await pipeline.execute()
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
    except ResponseError as error:
        if isinstance(translated("", error), UnreachableError):
            # What was the primary is none any more; who connects again may find the new one.
            connection.disconnect()
        raise
    except BaseException:
        # Interrupted: a reply that was not read must not pass for that of the next command.
        connection.disconnect()
        raise
    finally:
        client.connection = kept
        if kept is None:
            client.connection_pool.release(connection)


def reply_of(connection: Any, **options: Any) -> Any:
    """The next reply; an error of the server is one, too."""
    try:
        return connection.read_response(**options)
    except ResponseError as error:
        return error
