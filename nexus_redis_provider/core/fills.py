"""Filling a cold cache: once, however many wait for the same keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any

from nexus_redis_provider.core.durations import Duration, to_ms
from nexus_redis_provider.core.endpoint import Endpoint, translated_errors
from nexus_redis_provider.core.errors import ConfigurationError, FillError
from nexus_redis_provider.core.locks import Lock
from nexus_redis_provider.core.requirements import Requirement
from nexus_redis_provider.core.warmth import Warmth, probe

if TYPE_CHECKING:
    import redis

Value = str | bytes | int | float | Decimal | dict[str, Any] | list[Any]
Pairs = Mapping[str, Value] | Iterable[tuple[str, Value]]
Loader = Callable[[list[str]], Pairs]

BATCH = 1000


def fill_lock(requirement: Requirement) -> str:
    """Name of the lock that who fills this target holds.

    It stands beside the keys, so who fills the same target by another connection finds it too.
    """
    target = json.dumps([sorted(requirement.keys or ()), requirement.pattern])
    return f"fill:{hashlib.sha256(target.encode()).hexdigest()[:32]}"


def fill_once(
    endpoint: Endpoint, requirement: Requirement, load: Loader, *, ttl: Duration | None = None
) -> tuple[int, Warmth]:
    """Load and write what is missing, unless it is there by now; nobody else does so meanwhile.

    Args:
        endpoint: the server to fill.
        requirement: its target is `keys` or `pattern`.
        load: given the missing keys (none, of a pattern: it cannot know them), returns keys with
            values, as a mapping or pairs, best lazily. Text, bytes and numbers are written as they
            are, dicts and lists as JSON.
        ttl: seconds that the keys live; None for ever.

    Returns:
        How many keys were written, and what is found afterwards.

    Raises:
        LockHeldError: another one is filling the same target; wait and look again.
        LockLostError: the server was away for longer than the lock's lease; try again.
        FillError: a key or value cannot be written, or the server refused it.
        UnreachableError: no answer within the endpoint's timeouts and retries.

    Redis: a string per key, and a lock for the time of filling.
    """
    if requirement.dataset is not None:
        raise ConfigurationError(
            "A dataset cannot be filled here: publish it by nexus_redis_provider.spark.publish."
        )
    name = fill_lock(requirement)
    with (
        # Two who fill at once do the work twice, and no harm.
        Lock(endpoint, name, namespace=requirement.namespace, allow_eviction=True) as lock,
        endpoint.client() as client,
    ):
        warmth = probe(client, requirement)
        if warmth.is_warm:
            return 0, warmth
        written = write(client, load(list(warmth.missing)), ttl=ttl, before_batch=lock.ensure_held)
        return written, probe(client, requirement)


def write(
    client: redis.Redis,
    pairs: Pairs,
    *,
    ttl: Duration | None = None,
    before_batch: Callable[[], None] = lambda: None,
) -> int:
    """Every pair is written as a string key, or an error says which is not. Returns how many.

    Cost: one round trip per 1,000 pairs.
    """
    items = iter(pairs.items() if isinstance(pairs, Mapping) else pairs)
    expiry = () if ttl is None else ("PX", to_ms(ttl, "ttl"))
    written = 0
    while batch := list(islice(_encoded(items), BATCH)):
        before_batch()
        with translated_errors(client), client.pipeline(transaction=False) as pipe:
            for key, value in batch:
                pipe.execute_command("SET", key, value, *expiry)
            replies = pipe.execute(raise_on_error=False)
        _check(batch, replies)
        written += len(batch)
    return written


def _encoded(items: Iterator[Any]) -> Iterator[tuple[str | bytes, str | bytes | int | float]]:
    for item in items:
        try:
            key, value = item
        except (TypeError, ValueError):
            raise FillError(f"A fill gives pairs of key and value, not {item!r}.") from None
        if not isinstance(key, str | bytes) or not key:
            raise FillError(f"A fill gave the key {key!r}, which is not text.")
        yield key, _encode(key, value)


def _encode(key: str | bytes, value: Any) -> str | bytes | int | float:
    if isinstance(value, dict | list):
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            raise FillError(f"The value of {key!r} is no JSON: {error}.") from error
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, str | bytes | int | float) and not isinstance(value, bool):
        return value
    raise FillError(
        f"The value of {key!r} is of type {type(value).__name__}: give text, bytes, a number, "
        "or a dict or list for JSON."
    )


def _check(batch: list[tuple[Any, Any]], replies: list[Any]) -> None:
    refused = [
        (key, reply)
        for (key, _), reply in zip(batch, replies, strict=True)
        if reply not in (True, b"OK")
    ]
    if refused:
        key, reply = refused[0]
        raise FillError(
            f"The server refused {len(refused)} of {len(batch)} writes, first of {key!r}: {reply}."
        )
