"""Lua scripts as typed calls: built once, run by a sync or an async client in one round trip."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Generic, TypeVar

import redis
import redis.asyncio
from redis.exceptions import NoScriptError, RedisError

from nexus_redis_provider.core.clusters import (
    AsyncNodes,
    Nodes,
    is_spread,
    plain_client,
)
from nexus_redis_provider.core.errors import ConfigurationError, ServerError
from nexus_redis_provider.core.exchanges import exchange, own_connection, reply_of
from nexus_redis_provider.core.patience import Missed, apatiently, patiently
from nexus_redis_provider.core.spreading import aspread, spread
from nexus_redis_provider.core.translations import (
    FAILURES,
    address_of,
    translated,
    translated_errors,
)

T = TypeVar("T")
Argument = str | bytes | int


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua source and its SHA-1, the name under which a server caches it."""

    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script `lua/<name>.lua` of this package (also when it was shipped as a zip).

    A line `-- Uses: X` in it is followed by the file `lua/include/X.lua`.
    """
    source = _USES.sub(lambda uses: f"{uses[0]}\n{_lua('include', uses[1])}", _lua(name))
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


_USES = re.compile(r"^-- Uses: (\w+)$", re.MULTILINE)


def _lua(*name: str) -> str:
    path = resources.files(__package__).joinpath("lua", *name[:-1], f"{name[-1]}.lua")
    return path.read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A script with its keys and arguments, and how to read its reply.

    Every script is idempotent for its owner, so that a call whose reply was lost is simply sent
    again by the client's retry.

    Attributes:
        missed: of keys that the script makes itself, those which were not there, as a reply says.
    """

    script: str
    keys: tuple[str, ...]
    args: tuple[Argument, ...]
    decode: Callable[[Any], T]
    missed: Missed[Any] = lambda _: ()


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
        return client.at(call.keys[0], lambda node: run(node, call))
    loaded = script(call.script)
    numkeys, params = len(call.keys), (*call.keys, *call.args)
    _refuse_text_replies(client)
    # A RedisCluster, which is no Redis, has no such attribute.
    has_one = getattr(client, "connection", None) is not None
    send: Any = exchange if has_one else type(client).execute_command

    def once() -> Any:
        try:
            return send(client, "EVALSHA", loaded.sha, numkeys, *params)
        except NoScriptError:
            return send(client, "EVAL", loaded.source, numkeys, *params)

    try:
        reply = patiently(client, once, call.missed) if is_spread(client) else once()
    except FAILURES as error:
        raise translated(address_of(client), error) from error
    return call.decode(reply)


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
        return client.at(key, lambda node: run_when_pushed(node, key, timeout, call), retries=0)
    _refuse_text_replies(client)
    loaded = script(call.script)
    try:
        with own_connection(client) as connection:
            connection.send_packed_command(
                connection.pack_commands(
                    [
                        ("BLPOP", key, f"{timeout:.3f}"),
                        ("EVALSHA", loaded.sha, len(call.keys), *call.keys, *call.args),
                    ]
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
        return await client.at(call.keys[0], lambda node: arun(node, call))
    loaded = script(call.script)
    numkeys, params = len(call.keys), (*call.keys, *call.args)
    _refuse_text_replies(client)

    async def once() -> Any:
        try:
            return await client.evalsha(loaded.sha, numkeys, *params)
        except NoScriptError:
            return await client.eval(loaded.source, numkeys, *params)

    try:
        spread_out = is_spread(client)
        reply = await (apatiently(client, once, call.missed) if spread_out else once())
    except FAILURES as error:
        raise translated(address_of(client), error) from error
    return call.decode(reply)


def cancellations() -> int:
    """How often the running task was asked to end, for `heed_cancellation`."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def heed_cancellation(before: int = 0) -> None:
    """Raise the cancellation that an `await` of redis-py may have swallowed.

    Before Python 3.12 `asyncio.wait_for`, by which redis-py sends, swallows a cancellation that
    comes just when the sending is done. Most callers cancel but once.

    Args:
        before: how many there had been at the beginning; a task may clean up after one.
    """
    if cancellations() > before:
        raise asyncio.CancelledError


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
            pipe.evalsha(script(call.script).sha, len(call.keys), *call.keys, *call.args)
        return pipe.execute(raise_on_error=False)


async def _asent(client: redis.asyncio.Redis, calls: Sequence[Call[T]]) -> list[Any]:
    with translated_errors(client):
        async with client.pipeline(transaction=False) as pipe:
            for call in calls:
                sha, numkeys = script(call.script).sha, len(call.keys)
                # Not `evalsha`, which redis-py refuses in a pipeline of a Cluster; this goes to the
                # node that has the keys.
                pipe.execute_command("EVALSHA", sha, numkeys, *call.keys, *call.args)
            return list(await pipe.execute(raise_on_error=False))


def run_replicated(
    client: redis.Redis | Nodes, call: Call[T], timeout_ms: int, replicas: int
) -> tuple[T, int]:
    """Run a call; returns its result, and how many replicas confirmed it within the time.

    The confirmation covers all that the server did before, on whatever connection. `replicas` are
    enough.
    """
    if isinstance(client, Nodes):
        return client.at(
            call.keys[0], lambda node: run_replicated(node, call, timeout_ms, replicas)
        )
    node: redis.Redis = plain_client(client, call.keys[0])
    with translated_errors(node), node.pipeline(transaction=False) as pipe:
        _queue_replicated(pipe, call, timeout_ms, replicas)
        reply, confirmed = pipe.execute()
    return call.decode(reply), int(confirmed)


async def arun_replicated(
    client: redis.asyncio.Redis | AsyncNodes, call: Call[T], timeout_ms: int, replicas: int
) -> tuple[T, int]:
    """The asyncio twin of `run_replicated`."""
    if isinstance(client, AsyncNodes):
        return await client.at(
            call.keys[0], lambda node: arun_replicated(node, call, timeout_ms, replicas)
        )
    with translated_errors(client):
        async with client.pipeline(transaction=False) as pipe:
            _queue_replicated(pipe, call, timeout_ms, replicas)
            reply, confirmed = await pipe.execute()
    return call.decode(reply), int(confirmed)


def _queue_replicated(pipe: Any, call: Call[T], timeout_ms: int, replicas: int) -> None:
    # By source: within a pipeline nobody could load a missing script before WAIT is sent.
    pipe.eval(script(call.script).source, len(call.keys), *call.keys, *call.args)
    pipe.wait(replicas, timeout_ms)


def _refuse_text_replies(client: redis.Redis | redis.asyncio.Redis) -> None:
    if client.get_connection_kwargs().get("decode_responses"):
        raise ConfigurationError(
            "This client was made with decode_responses=True; make one without it, as "
            "Endpoint.client() does."
        )
