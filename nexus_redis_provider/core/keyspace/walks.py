"""Going through all keys of a server, or of all nodes of a Cluster, a thousand at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import redis

from nexus_redis_provider.core.clusters import is_spread, primaries_of
from nexus_redis_provider.core.exchanges import execute_all
from nexus_redis_provider.core.keyspace.patterns import glob_of
from nexus_redis_provider.core.keyspace.types import type_named

BATCH = 1000


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a deletion by pattern came to.

    Attributes:
        found: keys that matched; one that SCAN named twice counts twice.
        deleted: keys that were removed; none in a dry run.
    """

    found: int
    deleted: int


def scan(
    client: redis.Redis, pattern: str | bytes = "*", *, kind: str | None = None
) -> Iterator[bytes]:
    """Every key like the pattern that is there from the first to the last step.

    As the server's SCAN: a key that comes or goes meanwhile may be missing, one may be named twice,
    and of a primary that fails over, or a slot that moves, meanwhile, some keys may be skipped.

    Args:
        client: of one server, or of a whole Cluster: then of all that are its primaries by now.
        pattern: a glob; `patterns.literal` is for text that is meant as it stands.
        kind: only keys of this type, such as `hash`, or `ReJSON-RL` of a module.

    Raises:
        UnreachableError, AccessDeniedError: a server cannot be asked.
        ConfigurationError: the pattern is empty, or no type has this name.

    Cost: one SCAN for every thousand keys of the database, whatever matches; blocks nobody.
    """
    for page in pages(client, pattern, kind=kind):
        yield from page


def pages(
    client: redis.Redis, pattern: str | bytes = "*", *, kind: str | None = None
) -> Iterator[list[bytes]]:
    """As `scan`, in pieces of a thousand keys or so."""
    words: list[str | bytes | int] = ["MATCH", glob_of(pattern), "COUNT", BATCH]
    if kind is not None:
        words += ["TYPE", type_named(kind)]
    for primary in primaries_of(client):
        cursor = b"0"
        while True:
            cursor, found = execute_all(primary.client, [("SCAN", cursor, *words)])[0]
            if found:
                yield found
            if cursor == b"0":
                break


def delete(
    client: redis.Redis,
    pattern: str | bytes,
    *,
    kind: str | None = None,
    dry_run: bool = False,
) -> Deletion:
    """Remove every key like the pattern; their memory is freed in the background.

    A key that is written anew between the look and the removal goes, too. Where it ends early, what
    was removed stays so; call it again.

    Args:
        client, pattern, kind: as for `scan`.
        dry_run: count only.

    Raises: as `scan`.

    Cost: as `scan`, and an UNLINK for each thousand keys that match; in a Cluster for each key,
    sent together.
    """
    found = deleted = 0
    for page in pages(client, pattern, kind=kind):
        found += len(page)
        if not dry_run:
            deleted += sum(execute_all(client, _unlinks(client, page)))
    return Deletion(found, deleted)


def _unlinks(client: redis.Redis, keys: Sequence[bytes]) -> list[tuple[str | bytes, ...]]:
    # In a Cluster, the keys of one command must be in one slot.
    return [("UNLINK", key) for key in keys] if is_spread(client) else [("UNLINK", *keys)]
