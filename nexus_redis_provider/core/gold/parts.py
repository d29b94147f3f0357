"""A version in parts that several processes read side by side, all of them the same version.

Parts are planned once and travel to whoever reads them. What was removed meanwhile is an error,
never a row less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import redis

from nexus_redis_provider.core.endpoint import translated_errors
from nexus_redis_provider.core.errors import ConfigurationError, GoldError, NotPublishedError
from nexus_redis_provider.core.gold.manifests import Manifest, Mode
from nexus_redis_provider.core.gold.pages import decode_page
from nexus_redis_provider.core.gold.sweeping import staged_attempts
from nexus_redis_provider.core.keys import GoldKeys

_CHUNK = 1000
_CHUNKS = 10


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of one version: those on some of its index pages, or those with some keys.

    Attributes:
        pages: attempts and numbers of the pages.
        names: rendered keys; those that the version has not are no error.
    """

    pages: tuple[tuple[str, int], ...] = ()
    names: tuple[str, ...] = ()


def kept_manifest(client: redis.Redis, keys: GoldKeys, version: str) -> Manifest:
    """The manifest of a kept version, live or not.

    Raises:
        NotPublishedError: it was never published, has expired, or was removed.
    """
    with translated_errors(client):
        body, published_ms = client.hmget(keys.manifest(version), ["body", "published_ms"])
    if body is None or published_ms is None:
        raise NotPublishedError(keys.dataset, version)
    return Manifest.from_json(body, published_ms=int(published_ms))


def plan_parts(client: redis.Redis, keys: GoldKeys, manifest: Manifest, count: int) -> list[Part]:
    """All rows of a version in at most `count` parts of about the same size.

    Raises:
        ConfigurationError: it is upserted in place, hence has no index of its keys.
    """
    if manifest.mode is Mode.UPSERT:
        raise ConfigurationError(
            f"Gold dataset {manifest.dataset!r} is upserted in place and keeps no index of its "
            "keys: only rows of given keys can be read. Filter on the key with = or IN."
        )
    attempts = staged_attempts(client, keys, manifest.version)
    pages = [(name, number) for name, pages in attempts.items() for number in range(pages)]
    if not pages and manifest.rows:
        raise _gone(manifest)
    size = max(1, ceil(len(pages) / count))
    return [Part(pages=tuple(pages[at : at + size])) for at in range(0, len(pages), size)]


def plan_keys(names: Sequence[str], count: int) -> list[Part]:
    """The rows with some rendered keys, in at most `count` parts."""
    size = max(1, ceil(len(names) / count))
    return [Part(names=tuple(names[at : at + size])) for at in range(0, len(names), size)]


def read_part(
    client: redis.Redis, keys: GoldKeys, manifest: Manifest, part: Part
) -> Iterator[list[bytes]]:
    """The rows of a part, as they stand in Redis, in lists of up to ten thousand.

    Raises:
        GoldError: the version was removed meanwhile.
        UnreachableError, AccessDeniedError: as `run`.

    Cost: a round trip for each list, one more for each page.
    """
    for attempt, number in part.pages:
        with translated_errors(client):
            page: Any = client.get(keys.page(manifest.version, attempt, number))
        if page is None:
            raise _gone(manifest)
        for values in _chunks(client, keys, manifest, decode_page(page)):
            if None in values:
                raise _gone(manifest)
            yield values
    for values in _chunks(client, keys, manifest, [name.encode() for name in part.names]):
        if None in values and not _is_kept(client, keys, manifest):
            raise _gone(manifest)
        yield [value for value in values if value is not None]


def _chunks(
    client: redis.Redis, keys: GoldKeys, manifest: Manifest, names: Sequence[bytes]
) -> Iterator[list[Any]]:
    prefix = b"" if manifest.mode is Mode.UPSERT else keys.row_prefix(manifest.version).encode()
    for start in range(0, len(names), _CHUNK * _CHUNKS):
        # Several commands in one round trip, since a long one makes other clients wait.
        pipeline = client.pipeline(transaction=False)
        for at in range(start, min(start + _CHUNK * _CHUNKS, len(names)), _CHUNK):
            pipeline.mget([prefix + name for name in names[at : at + _CHUNK]])
        with translated_errors(client):
            yield [value for values in pipeline.execute() for value in values]


def _is_kept(client: redis.Redis, keys: GoldKeys, manifest: Manifest) -> bool:
    """Whether the version was still all there after its rows were looked for."""
    if manifest.mode is Mode.UPSERT:
        return True
    with translated_errors(client):
        pipeline = client.pipeline(transaction=False)
        pipeline.zscore(keys.versions, manifest.version)
        pipeline.exists(keys.manifest(manifest.version))
        score, exists = pipeline.execute()
    return score is not None and bool(exists)


def _gone(manifest: Manifest) -> GoldError:
    return GoldError(
        f"Gold dataset {manifest.dataset!r}: rows of version {manifest.version!r} were removed or "
        "expired while they were read. Read again, or publish with a larger keep or ttl.",
        manifest.dataset,
    )
