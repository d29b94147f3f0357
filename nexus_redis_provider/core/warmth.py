"""Whether a cache is warm: what is there of what is required, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from nexus_redis_provider.core.clusters import aslots_by_node, is_spread, slots_by_node
from nexus_redis_provider.core.durations import Duration, in_words, to_ms
from nexus_redis_provider.core.endpoint import translated_errors
from nexus_redis_provider.core.gold.readers import live_manifest
from nexus_redis_provider.core.requirements import Requirement, sample
from nexus_redis_provider.core.scripts import arun, run

if TYPE_CHECKING:
    import redis.asyncio

    from nexus_redis_provider.core.gold.manifests import Manifest

_BATCH = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmth:
    """What a look at the server found.

    Attributes:
        reasons: why the cache is not warm, as sentences; empty when it is.
        missing: the asked keys that are absent or live too short, all of them, in their order.
        rows: rows of the live version, or keys found to live long enough; of a pattern no more
            than were needed.
        version: of the dataset.
        published_at: of the dataset.
        age: seconds since then, by the server's clock.
        ttl: seconds that the shortest-lived of what was found still lives, None for ever or
            unknown.
    """

    reasons: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    rows: int = 0
    version: str | None = None
    published_at: datetime | None = None
    age: float | None = None
    ttl: float | None = None

    @property
    def is_warm(self) -> bool:
        """Whether everything required is there."""
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        """What was found, of JSON types alone; without the missing keys, which may be many."""
        published_at = self.published_at.isoformat() if self.published_at else None
        found = {
            "rows": self.rows,
            "version": self.version,
            "published_at": published_at,
            "age": self.age,
            "ttl": self.ttl,
        }
        return {name: value for name, value in found.items() if value is not None}

    def __str__(self) -> str:
        return "warm" if self.is_warm else "; ".join(self.reasons)


def probe(client: redis.Redis, requirement: Requirement) -> Warmth:
    """Look once, changing nothing.

    Raises:
        UnreachableError: no answer within the client's timeouts and retries.
        AccessDeniedError: bad credentials, or the ACL forbids it.

    Cost: two round trips for a dataset, one per 1,000 keys; for a pattern one per 1,000 keys of
    the whole database, in a Cluster of all primaries, until enough are found. Clock: server.
    """
    if requirement.dataset is not None:
        manifest = run(client, live_manifest(requirement.dataset, namespace=requirement.namespace))
        return _judge_dataset(requirement, manifest, _send(client, [("TIME",)])[0])
    goes_to_all = requirement.keys is None and is_spread(client)
    looking = _look_at_keys(requirement, list(slots_by_node(client)) if goes_to_all else [None])
    question = next(looking)
    while True:
        try:
            question = looking.send(_send(client, *question))
        except StopIteration as done:
            return _result(done)


async def aprobe(client: redis.asyncio.Redis, requirement: Requirement) -> Warmth:
    """The asyncio twin of `probe`."""
    if requirement.dataset is not None:
        call = live_manifest(requirement.dataset, namespace=requirement.namespace)
        manifest = await arun(client, call)
        return _judge_dataset(requirement, manifest, (await _asend(client, [("TIME",)]))[0])
    goes_to_all = requirement.keys is None and is_spread(client)
    nodes = list(await aslots_by_node(client)) if goes_to_all else [None]
    looking = _look_at_keys(requirement, nodes)
    question = next(looking)
    while True:
        try:
            question = looking.send(await _asend(client, *question))
        except StopIteration as done:
            return _result(done)


_Commands = list[tuple[str | bytes | int, ...]]
# Commands, and the node of a Cluster that is to answer, or None: it follows from their keys.
_Question = tuple[_Commands, Any]
_Looking = Generator[_Question, list[Any], Warmth]


def _result(done: StopIteration) -> Warmth:
    warmth: Warmth = done.value
    return warmth


def _send(client: redis.Redis, commands: _Commands, node: Any = None) -> list[Any]:
    with translated_errors(client), client.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command(*command, **_at(node))
        return pipe.execute()


async def _asend(client: redis.asyncio.Redis, commands: _Commands, node: Any = None) -> list[Any]:
    with translated_errors(client):
        async with client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command, **_at(node))
            return await pipe.execute()


def _at(node: Any) -> dict[str, Any]:
    return {} if node is None else {"target_nodes": node}


def _look_at_keys(requirement: Requirement, primaries: Sequence[Any]) -> _Looking:
    """Yields questions, is sent the replies, and returns the judgement: sync and async alike."""
    if requirement.keys is not None:
        return _look_at_given(requirement, requirement.keys)
    return _look_for_matches(requirement, requirement.pattern or "", primaries)


def _look_at_given(requirement: Requirement, keys: Sequence[str]) -> _Looking:
    lives: list[int] = []
    for start in range(0, len(keys), _BATCH):
        lives += yield [("PTTL", key) for key in keys[start : start + _BATCH]], None
    ttl_by_key = dict(zip(keys, lives, strict=True))
    absent = [key for key, ttl in ttl_by_key.items() if ttl == -2]
    short = {key: ttl for key, ttl in ttl_by_key.items() if _is_short(ttl, requirement)}
    good = len(ttl_by_key) - len(absent) - len(short)
    reasons = []
    if not _is_enough(good, len(ttl_by_key), requirement):
        if absent:
            reasons.append(f"{len(absent)} of {len(ttl_by_key)} keys missing: {sample(absent)}")
        reasons += _short_reasons(short, len(ttl_by_key), requirement)
    missing = tuple(key for key in ttl_by_key if key in short or ttl_by_key[key] == -2)
    return Warmth(reasons=tuple(reasons), missing=missing, rows=good, ttl=_least(lives))


def _look_for_matches(requirement: Requirement, pattern: str, primaries: Sequence[Any]) -> _Looking:
    wanted = requirement.min_rows or 1
    good: set[bytes] = set()
    short: dict[str, int] = {}
    lives: list[int] = []
    waiting, cursor = list(primaries), 0
    while waiting and len(good) < wanted:
        scan = ("SCAN", cursor, "MATCH", pattern, "COUNT", _BATCH)
        cursor, found = (yield [scan], waiting[0])[0]
        if not cursor:
            del waiting[0]
        # SCAN may name a key twice.
        fresh = [key for key in found if key not in good]
        ttls = (yield [("PTTL", key) for key in fresh], None) if fresh else []
        for key, ttl in zip(fresh, ttls, strict=True):
            if _is_short(ttl, requirement):
                short[key.decode(errors="replace")] = ttl
            elif ttl != -2:
                good.add(key)
                lives.append(ttl)
    reasons = []
    if len(good) < wanted:
        reasons.append(f"{len(good)} keys like {pattern!r}, fewer than {wanted}")
        reasons += _short_reasons(short, len(good) + len(short), requirement)
    return Warmth(reasons=tuple(reasons), rows=len(good), ttl=_least([*lives, *short.values()]))


def _judge_dataset(
    requirement: Requirement, manifest: Manifest | None, time: tuple[int, int]
) -> Warmth:
    now = datetime.fromtimestamp(time[0], UTC) + timedelta(microseconds=time[1])
    if manifest is None:
        return Warmth(reasons=(f"dataset {requirement.dataset!r} has no live version",))
    age = (now - manifest.published_at).total_seconds()
    # Of rows that live as long as each says, some may be over by design.
    ends = manifest.expires_at if manifest.ttl_column else manifest.expires_from
    ttl = None if ends is None else max(0.0, (ends - now).total_seconds())
    reasons = []
    if requirement.min_rows is not None and manifest.rows < requirement.min_rows:
        reasons.append(f"{manifest.rows} rows, fewer than {requirement.min_rows}")
    max_age = _seconds(requirement.max_age, math.inf)
    if age > max_age:
        reasons.append(f"published {in_words(age)} ago, more than {in_words(max_age)}")
    newer_than = requirement.newer_than
    if newer_than is not None and manifest.published_at <= newer_than:
        reasons.append(f"published at {manifest.published_at}, not after {newer_than}")
    reasons += _version_reasons(requirement, manifest.version)
    min_ttl = _seconds(requirement.min_ttl, 0)
    if ttl is not None and ttl < min_ttl:
        reasons.append(f"lives for {in_words(ttl)}, less than {in_words(min_ttl)}")
    return Warmth(
        reasons=tuple(reasons),
        rows=manifest.rows,
        version=manifest.version,
        published_at=manifest.published_at,
        age=age,
        ttl=ttl,
    )


def _version_reasons(requirement: Requirement, live: str) -> list[str]:
    reasons = []
    least, last = requirement.min_version, requirement.after_version
    if least is not None and _age_order(live) < _age_order(least):
        reasons.append(f"version {live} is live, older than {least}")
    if last is not None and _age_order(live) <= _age_order(last):
        reasons.append(f"version {live} is live, not one after {last}")
    return reasons


def _age_order(version: str) -> tuple[int, str]:
    # A number in base 36.
    return len(version), version


def _is_enough(good: int, asked: int, requirement: Requirement) -> bool:
    if requirement.min_rows is not None:
        return good >= requirement.min_rows
    # As a share: 0.07 * 100 is more than 7 in floating point, 7 / 100 is not less than 0.07.
    return good / asked >= (requirement.min_coverage or 1)


def _is_short(ttl_ms: int, requirement: Requirement) -> bool:
    return 0 <= ttl_ms < _seconds(requirement.min_ttl, 0) * 1000


def _short_reasons(short: Mapping[str, int], asked: int, requirement: Requirement) -> list[str]:
    if not short:
        return []
    least, wanted = in_words(min(short.values()) / 1000), _seconds(requirement.min_ttl, 0)
    what = f"{len(short)} of {asked} keys live for {least} or more, less than {in_words(wanted)}"
    return [f"{what}: {sample(list(short))}"]


def _seconds(duration: Duration | None, default: float) -> float:
    return default if duration is None else to_ms(duration, "duration") / 1000


def _least(ttls_ms: Sequence[int]) -> float | None:
    return min((ttl / 1000 for ttl in ttls_ms if ttl >= 0), default=None)
