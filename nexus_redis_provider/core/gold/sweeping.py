"""Removal of versions that nobody reads: retired, aborted, or left behind by a dead publisher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import redis

from nexus_redis_provider.core.clusters import is_spread
from nexus_redis_provider.core.endpoint import translated_errors
from nexus_redis_provider.core.errors import WriteError
from nexus_redis_provider.core.gold.chains import BucketMap
from nexus_redis_provider.core.gold.pages import decode_page, page_array
from nexus_redis_provider.core.gold.unlinking import unlink_everywhere
from nexus_redis_provider.core.gold.wire import ReplyStream, key_commands
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.core.scripts import Call, run

_UNLINK_BATCH = 1000


def sweep(client: redis.Redis, keys: GoldKeys) -> list[str]:
    """Remove every version whose staging lease is over; returns them.

    Safe at any time, and by several at once. Cost: one command to look; for each version one read
    of every index page and one UNLINK for each thousand rows.
    """
    abandoned = run(
        client,
        Call(
            "abandoned_versions",
            (keys.staging,),
            (),
            lambda reply: [version.decode() for version in reply],
        ),
    )
    for version in abandoned:
        _remove(client, keys, version)
    return abandoned


def staged_attempts(client: redis.Redis, keys: GoldKeys, version: str) -> dict[str, int]:
    """Number of index pages of each task attempt of a version."""
    staged = _staged(client, keys, version).items()
    return {name: int(count) for name, count in staged if not count.startswith("b")}


def staged_buckets(client: redis.Redis, keys: GoldKeys, version: str) -> dict[str, int]:
    """Number of buckets of each task attempt of a version of packed rows."""
    staged = _staged(client, keys, version).items()
    return {name: int(count[1:]) for name, count in staged if count.startswith("b")}


def bucket_names(keys: GoldKeys, version: str, attempt: str, count: int) -> list[str]:
    """The keys of all buckets that a task attempt has, or may have."""
    share, _, task = attempt.partition(".")
    return [keys.bucket(f"{version}.{task}", int(share), number) for number in range(count)]


def remove_attempt(
    client: redis.Redis, keys: GoldKeys, version: str, attempt: str, count: int
) -> None:
    """Remove all that a task attempt at a share of packed rows has written, or may have."""
    unlink(client, bucket_names(keys, version, attempt, count))
    unlink(client, [keys.bucket_map(version, attempt), keys.sums(version, attempt)])


def _staged(client: redis.Redis, keys: GoldKeys, version: str) -> dict[str, str]:
    with translated_errors(client):
        found: Any = client.hgetall(keys.attempts(version))
    return {name.decode(): count.decode() for name, count in found.items() if name != b"rows"}


def page_keys(
    client: redis.Redis, keys: GoldKeys, version: str, attempt: str, count: int
) -> Iterator[list[bytes]]:
    """The row keys, without prefix, on each index page of an attempt."""
    return (decode_page(page) for page in _pages(client, keys, version, attempt, count))


def unlink(client: redis.Redis, names: Sequence[str | bytes]) -> None:
    """Remove keys in batches, their memory freed in the background."""
    if is_spread(client):
        texts = [name.decode() if isinstance(name, bytes) else name for name in names]
        unlink_everywhere(client, "", pa.array(texts, pa.string()))
        return
    with translated_errors(client):
        for start in range(0, len(names), _UNLINK_BATCH):
            client.unlink(*names[start : start + _UNLINK_BATCH])


def _pages(
    client: redis.Redis, keys: GoldKeys, version: str, attempt: str, count: int
) -> Iterator[bytes]:
    for number in range(count):
        with translated_errors(client):
            page: Any = client.get(keys.page(version, attempt, number))
        if page is not None:
            yield page


def _remove(client: redis.Redis, keys: GoldKeys, version: str) -> None:
    prefix = keys.row_prefix(version)
    for attempt, count in staged_attempts(client, keys, version).items():
        for page in _pages(client, keys, version, attempt, count):
            _unlink_rows(client, keys, prefix, page)
        unlink(client, [keys.page(version, attempt, number) for number in range(count)])
    _remove_buckets(client, keys, version)
    unlink(client, [keys.attempts(version), keys.manifest(version)])
    with translated_errors(client):
        client.zrem(keys.staging, version)


def _remove_buckets(client: redis.Redis, keys: GoldKeys, version: str) -> None:
    """Remove the buckets of a version, but those that kept versions have from it."""
    staged = staged_buckets(client, keys, version)
    if not staged:
        return
    names = _needed(client, keys, version, staged)
    with translated_errors(client):
        kept: Any = client.zrange(keys.versions, 0, -1)
    for other in kept:
        name = other.decode()
        names -= _needed(client, keys, name, staged_buckets(client, keys, name))
    unlink(client, sorted(names))
    unlink(client, [keys.bucket_map(version, attempt) for attempt in staged])
    unlink(client, [keys.sums(version, attempt) for attempt in staged])


def _needed(
    client: redis.Redis, keys: GoldKeys, version: str, attempts: Mapping[str, int]
) -> set[str]:
    """The buckets of a version: those that a delta's map names, else all that it may have."""
    names: set[str] = set()
    for attempt, count in attempts.items():
        with translated_errors(client):
            data: Any = client.get(keys.bucket_map(version, attempt))
        if data is None:
            names.update(bucket_names(keys, version, attempt, count))
        else:
            share = int(attempt.partition(".")[0])
            sources = BucketMap.decode(data).sources()
            names.update(keys.bucket(source, share, number) for number, source in sources)
    return names


def _unlink_rows(client: redis.Redis, keys: GoldKeys, prefix: str, page: bytes) -> None:
    # A million rows are removed after every publish: as one stream of bytes for each page, this
    # takes a third of the time of the client's UNLINK.
    names = page_array(page)
    if is_spread(client):
        unlink_everywhere(client, prefix, names)
        return
    commands = key_commands("UNLINK", prefix, names, _UNLINK_BATCH)
    with translated_errors(client):
        connection = client.connection_pool.get_connection()
        try:
            connection.send_packed_command([commands], check_health=False)
            replies = ReplyStream(connection)
            lines = [replies.line() for _ in range(0, len(names), _UNLINK_BATCH)]
        except BaseException:
            connection.disconnect()
            raise
        finally:
            client.connection_pool.release(connection)
    errors = [line for line in lines if line.startswith(b"-")]
    if errors:
        raise WriteError(keys.dataset, errors[0][1:].decode(), len(errors))
