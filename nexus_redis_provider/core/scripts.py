"""Calls, run by a sync or an async client: in one round trip, at the node that has their keys."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis.exceptions import NoScriptError, RedisError

from nexus_redis_provider.core.calls import Argument, Call, Script, script
from nexus_redis_provider.core.clusters import is_spread
from nexus_redis_provider.core.errors import ConfigurationError, ServerError, UnreachableError
from nexus_redis_provider.core.exchanges import (
    aexecute_all,
    exchange,
    execute_all,
    own_connection,
    reply_of,
)
from nexus_redis_provider.core.nodes import AsyncNodes, Nodes
from nexus_redis_provider.core.patience import Commands, aat_nodes, apatiently, at_nodes, patiently
from nexus_redis_provider.core.slots import is_on_its_way
from nexus_redis_provider.core.spreading import aspread, spread
from nexus_redis_provider.core.translations import (
    FAILURES,
    address_of,
    translated,
    translated_errors,
)

__all__ = [
    "Argument",
    "Call",
    "Script",
    "arun",
    "arun_all",
    "arun_replicated",
    "run",
    "run_all",
    "run_replicated",
    "run_when_pushed",
    "script",
]

T = TypeVar("T")
# Seconds until who waits looks again where nobody can call it.
_LOOK_PAUSE = 0.5


def run(client: redis.Redis | Nodes, call: Call[T]) -> T:
    """Run a call: one round trip, two the first time a server sees the script.

    Args:
        client: of `Endpoint.client` or `thread_client`.

    Raises:
        UnreachableError: no answer within the client's timeouts and retries.
        AccessDeniedError: bad credentials, or the ACL forbids it.
        ConfigurationError: the client decodes replies to text; rows and owners are bytes.
    """
    if isinstance(client, Nodes):
        found: T = at_nodes(client, call, _run_at)
        return found
    loaded = script(call.script)
    _refuse_text_replies(client)
    # A RedisCluster, which is no Redis, has no such attribute.
    has_one = getattr(client, "connection", None) is not None
    send: Any = exchange if has_one else type(client).execute_command

    def once(call: Call[T]) -> Any:
        try:
            return send(client, "EVALSHA", loaded.sha, *_words(call))
        except NoScriptError:
            return send(client, "EVAL", loaded.source, *_words(call))

    try:
        reply = patiently(client, once, call) if is_spread(client) else once(call)
    except FAILURES as error:
        raise translated(address_of(client), error) from error
    return call.decode(reply)


def _words(call: Call[Any]) -> tuple[Argument, ...]:
    return len(call.keys), *call.keys, *call.args


def _run_at(node: redis.Redis, call: Call[T], before: Commands) -> T:
    if not before:
        return run(node, call)
    return call.decode(execute_all(node, [*before, _by_source(call)])[-1])


async def _arun_at(node: redis.asyncio.Redis, call: Call[T], before: Commands) -> T:
    if not before:
        return await arun(node, call)
    return call.decode((await aexecute_all(node, [*before, _by_source(call)]))[-1])


def _by_source(call: Call[Any]) -> tuple[Argument, ...]:
    """For where nobody could load a missing script between other commands and this one."""
    return "EVAL", script(call.script).source, *_words(call)


def run_when_pushed(client: redis.Redis | Nodes, key: str, timeout: float, call: Call[T]) -> T:
    """Run a call at the very moment when something is pushed to a list, or `timeout` s from now.

    Both commands are sent at once, so the server does not wait for us in between: it is one round
    trip from the push to the reply. Sent once: the client's retries are not for this. It may have
    run although an error is raised.

    Args:
        client: blocks meanwhile.
        key: of the list, in the slot of the call's keys.
        timeout: more than 0; the server counts in milliseconds.

    Raises: as `run`.
    """
    if isinstance(client, Nodes):
        try:
            return client.at(key, lambda node: run_when_pushed(node, key, timeout, call), once=True)
        except UnreachableError as error:
            if not is_on_its_way(error):
                raise
        # Nobody can block on the list, or push to it.
        time.sleep(min(timeout, _LOOK_PAUSE))
        return run(client, call)
    _refuse_text_replies(client)
    loaded = script(call.script)
    try:
        with own_connection(client) as connection:
            connection.send_packed_command(
                connection.pack_commands(
                    [("BLPOP", key, f"{timeout:.3f}"), ("EVALSHA", loaded.sha, *_words(call))]
                )
            )
            blocked = reply_of(connection, timeout=timeout + (connection.socket_timeout or 0.0))
            reply = reply_of(connection)
            # A primary that becomes a replica lets go who block on it. What it says to the script
            # counts.
            if isinstance(blocked, RedisError) and not str(blocked).startswith("UNBLOCKED"):
                raise blocked
            if isinstance(reply, RedisError) and not isinstance(reply, NoScriptError):
                raise reply
    except RedisError as error:
        raise translated(address_of(client), error) from error
    return run(client, call) if isinstance(reply, NoScriptError) else call.decode(reply)


async def arun(client: redis.asyncio.Redis | AsyncNodes, call: Call[T]) -> T:
    """The asyncio twin of `run`."""
    if isinstance(client, AsyncNodes):
        return await aat_nodes(client, call, _arun_at)
    loaded = script(call.script)
    _refuse_text_replies(client)

    async def once(call: Call[T]) -> Any:
        try:
            return await client.execute_command("EVALSHA", loaded.sha, *_words(call))
        except NoScriptError:
            return await client.execute_command("EVAL", loaded.source, *_words(call))

    try:
        reply = await (apatiently(client, once, call) if is_spread(client) else once(call))
    except FAILURES as error:
        raise translated(address_of(client), error) from error
    return call.decode(reply)


def run_all(client: redis.Redis | Nodes, calls: Sequence[Call[T]]) -> list[T | ServerError]:
    """Run calls in one round trip; what the server refuses is in the list as an error.

    In a Cluster it is one round trip for each node, and what a node that cannot be reached was to
    answer is in the list as an error, too.

    Raises:
        UnreachableError: as `run`; none of the calls may have happened, or all.
    """
    if isinstance(client, Nodes | redis.RedisCluster):
        keys = [call.keys[0] for call in calls]
        return spread(
            client,
            keys,
            lambda node, places: run_all(node, [calls[place] for place in places]),
            lambda place: run(client, calls[place]),
        )
    replies = _sent(client, calls)
    if any(isinstance(reply, NoScriptError) for reply in replies):
        with translated_errors(client):
            for name in {call.script for call in calls}:
                client.script_load(script(name).source)
        replies = _sent(client, calls)
    return _results(client, calls, replies)


async def arun_all(
    client: redis.asyncio.Redis | AsyncNodes, calls: Sequence[Call[T]]
) -> list[T | ServerError]:
    """The asyncio twin of `run_all`."""
    if isinstance(client, AsyncNodes):
        keys = [call.keys[0] for call in calls]
        return await aspread(
            client,
            keys,
            lambda node, places: arun_all(node, [calls[place] for place in places]),
            lambda place: arun(client, calls[place]),
        )
    replies = await _asent(client, calls)
    if any(isinstance(reply, NoScriptError) for reply in replies):
        with translated_errors(client):
            for name in {call.script for call in calls}:
                await client.script_load(script(name).source)
        replies = await _asent(client, calls)
    return _results(client, calls, replies)


def _results(
    client: redis.Redis | redis.asyncio.Redis, calls: Sequence[Call[T]], replies: list[Any]
) -> list[T | ServerError]:
    return [
        _refusal(client, reply) if isinstance(reply, Exception) else call.decode(reply)
        for call, reply in zip(calls, replies, strict=True)
    ]


def _refusal(client: redis.Redis | redis.asyncio.Redis, reply: Exception) -> ServerError:
    error = translated(address_of(client), reply) if isinstance(reply, RedisError) else reply
    error.__cause__ = reply
    return error if isinstance(error, ServerError) else ServerError(str(error))


def _sent(client: redis.Redis, calls: Sequence[Call[T]]) -> list[Any]:
    with translated_errors(client), client.pipeline(transaction=False) as pipe:
        for call in calls:
            pipe.execute_command("EVALSHA", script(call.script).sha, *_words(call))
        return pipe.execute(raise_on_error=False)


async def _asent(client: redis.asyncio.Redis, calls: Sequence[Call[T]]) -> list[Any]:
    with translated_errors(client):
        async with client.pipeline(transaction=False) as pipe:
            for call in calls:
                # Not `evalsha`, which redis-py refuses in a pipeline of a Cluster; this goes to the
                # node that has the keys.
                pipe.execute_command("EVALSHA", script(call.script).sha, *_words(call))
            return list(await pipe.execute(raise_on_error=False))


def run_replicated(
    client: redis.Redis | Nodes, call: Call[T], timeout_ms: int, replicas: int
) -> tuple[T, int]:
    """Run a call; returns its result, and how many replicas confirmed it within the time.

    The confirmation covers all that the server did before, on whatever connection. `replicas` are
    enough.

    Args:
        client: as `thread_client` gives it; that of a whole Cluster would not know whom to ask.

    Raises: as `run`.
    """

    def send(node: redis.Redis, call: Call[T], before: Commands) -> tuple[T, int]:
        with translated_errors(node), node.pipeline(transaction=False) as pipe:
            _queue(pipe, [*before, _by_source(call), ("WAIT", replicas, timeout_ms)])
            *_, reply, confirmed = pipe.execute()
        return call.decode(reply), int(confirmed)

    if isinstance(client, Nodes):
        return at_nodes(client, call, send)
    return send(client, call, ())


async def arun_replicated(
    client: redis.asyncio.Redis | AsyncNodes, call: Call[T], timeout_ms: int, replicas: int
) -> tuple[T, int]:
    """The asyncio twin of `run_replicated`."""

    async def send(node: redis.asyncio.Redis, call: Call[T], before: Commands) -> tuple[T, int]:
        with translated_errors(node):
            async with node.pipeline(transaction=False) as pipe:
                _queue(pipe, [*before, _by_source(call), ("WAIT", replicas, timeout_ms)])
                *_, reply, confirmed = await pipe.execute()
        return call.decode(reply), int(confirmed)

    if isinstance(client, AsyncNodes):
        return await aat_nodes(client, call, send)
    return await send(client, call, ())


def _queue(pipe: Any, commands: Commands) -> None:
    for command in commands:
        pipe.execute_command(*command)


def _refuse_text_replies(client: redis.Redis | redis.asyncio.Redis) -> None:
    if client.get_connection_kwargs().get("decode_responses"):
        raise ConfigurationError(
            "This client was made with decode_responses=True; make one without it, as "
            "Endpoint.client() does."
        )
