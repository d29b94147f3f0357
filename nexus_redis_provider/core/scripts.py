"""Lua scripts as typed calls: built once, run by a sync or an async client in one round trip."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Generic, TypeVar

import redis
import redis.asyncio
from redis.exceptions import NoScriptError

from nexus_redis_provider.core.endpoint import translated_errors
from nexus_redis_provider.core.errors import ConfigurationError

T = TypeVar("T")
Argument = str | bytes | int


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua source and its SHA-1, the name under which a server caches it."""

    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script `lua/<name>.lua` of this package (also when it was shipped as a zip)."""
    source = resources.files(__package__).joinpath("lua", f"{name}.lua").read_text("utf-8")
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A script with its keys and arguments, and how to read its reply.

    Every script is idempotent for its owner, so that a call whose reply was lost is simply sent
    again by the client's retry.
    """

    script: str
    keys: tuple[str, ...]
    args: tuple[Argument, ...]
    decode: Callable[[Any], T]


def run(client: redis.Redis, call: Call[T]) -> T:
    """Run a call: one round trip, two the first time a server sees the script.

    Raises:
        UnreachableError: no answer within the client's timeouts and retries.
        AccessDeniedError: bad credentials, or the ACL forbids it.
        ConfigurationError: the client decodes replies to text; rows and owners are bytes.
    """
    loaded = script(call.script)
    numkeys, params = len(call.keys), (*call.keys, *call.args)
    _refuse_text_replies(client)
    with translated_errors(client):
        try:
            reply = client.evalsha(loaded.sha, numkeys, *params)
        except NoScriptError:
            reply = client.eval(loaded.source, numkeys, *params)
    return call.decode(reply)


async def arun(client: redis.asyncio.Redis, call: Call[T]) -> T:
    """The asyncio twin of `run`."""
    loaded = script(call.script)
    numkeys, params = len(call.keys), (*call.keys, *call.args)
    _refuse_text_replies(client)
    with translated_errors(client):
        try:
            reply = await client.evalsha(loaded.sha, numkeys, *params)
        except NoScriptError:
            reply = await client.eval(loaded.source, numkeys, *params)
    return call.decode(reply)


def _refuse_text_replies(client: redis.Redis | redis.asyncio.Redis) -> None:
    if client.connection_pool.connection_kwargs.get("decode_responses"):
        raise ConfigurationError(
            "This client was made with decode_responses=True; make one without it, as "
            "Endpoint.client() does."
        )
