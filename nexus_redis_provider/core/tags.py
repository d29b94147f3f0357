"""Tags: what cached entries depend on. To invalidate a tag makes all of its entries stale at once.

A tag has a *generation*, a number. Who caches something asks for a stamp of its tags *before* it
computes, and puts it into the entry's key, or beside its value. Who invalidates a tag moves its
generation, so that nobody is given that stamp any more: one small write, however many entries
there are. They expire by their own TTL.

What that promises: once `invalidate` has returned, who asks for a stamp finds no entry that was
computed before. An entry that is still being computed then is stored under the old stamp, where
nobody looks; with a stamp that was taken after computing, it would pass for fresh.

A generation that Redis loses (evicted, expired, flushed) costs misses, never a stale hit: the next
one is of the server's clock, in µs, and so none that there has been. One thing can bring the old
one back: a failover to a replica that has not received the invalidation. Where that matters, wait
for replicas (`core.replication.await_replicas`), and invalidate again if they do not confirm.

Among honest clients, that is: who has the rights to stamp may set expiries, and so could end a
generation and begin an old one.

Example:
    key = f"prices:{region}:{stamp(client, ['prices', f'region:{region}'])}"
    if (found := client.get(key)) is None:
        found = compute(region)
        client.set(key, found, ex=300)

    invalidate(client, ["prices"])  # as soon as whoever computes sees the new prices
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import redis
import redis.asyncio

from nexus_redis_provider.core.durations import Duration, to_ms
from nexus_redis_provider.core.errors import ConfigurationError, ServerError
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE, generation_key
from nexus_redis_provider.core.nodes import AsyncNodes, Nodes
from nexus_redis_provider.core.scripts import Call, arun, arun_all, run, run_all

DEFAULT_TTL = timedelta(days=30)
MAX_TAGS = 1000

_Calls = Mapping[str, Call[int]]


def stamp(
    client: redis.Redis | Nodes,
    tags: Sequence[str],
    *,
    ttl: Duration = DEFAULT_TTL,
    namespace: str = DEFAULT_NAMESPACE,
) -> str:
    """A text that is the same until one of the tags is invalidated, and never again after that.

    Args:
        client: of primaries; a replica, which may be behind, refuses.
        tags: free text, in any order.
        ttl: seconds until a generation expires that nobody reads; who reads it renews what is below
            half of it. Entries that live for longer than that half may be missed, never stale.
        namespace: first part of the keys.

    Returns:
        16 of the characters A-Z a-z 0-9 - _.

    Raises:
        ConfigurationError: no tag, more than `MAX_TAGS`, or one whose name is empty or has more
            than 512 bytes.
        UnreachableError, AccessDeniedError, RefusedError: as `scripts.run`; go on without cache.

    Redis: a string by tag, see `keys.generation_key`.
    Cost: one round trip; in a Cluster, one with each node that has some of the tags.
    Clock: server, for tags that have no generation.
    """
    return stamp_of(_ask(client, _calls(read_generation, tags, ttl, namespace)))


async def astamp(
    client: redis.asyncio.Redis | AsyncNodes,
    tags: Sequence[str],
    *,
    ttl: Duration = DEFAULT_TTL,
    namespace: str = DEFAULT_NAMESPACE,
) -> str:
    """The asyncio twin of `stamp`."""
    return stamp_of(await _aask(client, _calls(read_generation, tags, ttl, namespace)))


def invalidate(
    client: redis.Redis | Nodes,
    tags: Sequence[str],
    *,
    ttl: Duration = DEFAULT_TTL,
    namespace: str = DEFAULT_NAMESPACE,
) -> dict[str, int]:
    """When it returns, nobody finds an entry that was computed before with any of the tags.

    Call it when the change is there to be seen by whoever computes entries anew. Doing it again
    does no harm.

    Args:
        client, tags, namespace: as of `stamp`.
        ttl: seconds for which the generation is kept, if it is not kept for longer already.

    Returns:
        The new generation of each tag.

    Raises: as `stamp`; some of the tags may be invalidated, so do it again.

    Redis, Cost: as `stamp`. Clock: server.
    """
    return _ask(client, _calls(advance_generation, tags, ttl, namespace))


async def ainvalidate(
    client: redis.asyncio.Redis | AsyncNodes,
    tags: Sequence[str],
    *,
    ttl: Duration = DEFAULT_TTL,
    namespace: str = DEFAULT_NAMESPACE,
) -> dict[str, int]:
    """The asyncio twin of `invalidate`."""
    return await _aask(client, _calls(advance_generation, tags, ttl, namespace))


def read_generation(
    tag: str, ttl: Duration = DEFAULT_TTL, *, namespace: str = DEFAULT_NAMESPACE
) -> Call[int]:
    """The generation of a tag, for who sends it together with other commands; see `stamp_of`."""
    return _call("read_generation", tag, ttl, namespace)


def advance_generation(
    tag: str, ttl: Duration = DEFAULT_TTL, *, namespace: str = DEFAULT_NAMESPACE
) -> Call[int]:
    """Moves a tag to its next generation, and tells it."""
    return _call("advance_generation", tag, ttl, namespace)


def stamp_of(generations: Mapping[str, int]) -> str:
    """The stamp of tags with these generations."""
    told = json.dumps(sorted(generations.items())).encode()
    # 96 bits: what must not meet is the few stamps of one entry.
    return urlsafe_b64encode(hashlib.blake2b(told, digest_size=12).digest()).decode()


def _call(script: str, tag: str, ttl: Duration, namespace: str) -> Call[int]:
    return Call(script, (generation_key(tag, namespace),), (to_ms(ttl, "ttl"),), int)


def _calls(
    build: Callable[..., Call[int]], tags: Sequence[str], ttl: Duration, namespace: str
) -> _Calls:
    if isinstance(tags, str):
        raise ConfigurationError(f"tags must be a list of names, not the text {tags!r}.")
    if not 0 < len(tags) <= MAX_TAGS:
        raise ConfigurationError(f"Give 1 to {MAX_TAGS:,} tags, not {len(tags):,}.")
    return {tag: build(tag, ttl, namespace=namespace) for tag in tags}


def _ask(client: redis.Redis | Nodes, calls: _Calls) -> dict[str, int]:
    results = run_all(client, list(calls.values()))
    # By itself, a call goes where its key has moved to meanwhile, or says what is wrong.
    return {
        tag: run(client, calls[tag]) if isinstance(result, ServerError) else result
        for tag, result in zip(calls, results, strict=True)
    }


async def _aask(client: redis.asyncio.Redis | AsyncNodes, calls: _Calls) -> dict[str, int]:
    """The asyncio twin of `_ask`."""
    results = await arun_all(client, list(calls.values()))
    return {
        tag: await arun(client, calls[tag]) if isinstance(result, ServerError) else result
        for tag, result in zip(calls, results, strict=True)
    }
