"""A version in parts that several processes read side by side, all of them the same version.

Parts are planned once and travel to whoever reads them. What was removed meanwhile is an error,
never a row less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import redis

from nexus_redis_provider.core.clusters import is_spread
from nexus_redis_provider.core.endpoint import translated_errors
from nexus_redis_provider.core.errors import ConfigurationError, GoldError, NotPublishedError
from nexus_redis_provider.core.exchanges import execute_all
from nexus_redis_provider.core.gold.bucket_versions import PackedVersion
from nexus_redis_provider.core.gold.chains import merged
from nexus_redis_provider.core.gold.layouts import version_of
from nexus_redis_provider.core.gold.losses import have_expired
from nexus_redis_provider.core.gold.manifests import Layout, Manifest, Mode
from nexus_redis_provider.core.gold.pages import decode_page
from nexus_redis_provider.core.gold.sweeping import staged_attempts
from nexus_redis_provider.core.gold.talks import talk
from nexus_redis_provider.core.gold.versions import Stored, Talk, Version
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.core.scripts import run

_ROWS = 10_000
_BUCKETS = 250
_Row = tuple[bytes, Stored]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Page:
    """The rows on one index page."""

    attempt: str
    number: int


@dataclass(frozen=True, slots=True)
class Buckets:
    """The rows in a stretch of buckets of one share, without the last."""

    share: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of one version: those in some places, or those with some keys.

    Attributes:
        places: index pages, or buckets.
        names: rendered keys; those that the version has not are no error.
    """

    places: tuple[Page | Buckets, ...] = ()
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
    if manifest.layout is Layout.PACKED:
        places: list[Page | Buckets] = [
            Buckets(number, start, min(start + _BUCKETS, share.buckets))
            for number, share in enumerate(manifest.shares)
            for start in range(0, share.buckets, _BUCKETS)
        ]
    else:
        attempts = staged_attempts(client, keys, manifest.version)
        places = [Page(name, at) for name, pages in attempts.items() for at in range(pages)]
    if not places and manifest.rows:
        raise _gone(manifest)
    return [Part(places=tuple(some)) for some in _dealt(places, count)]


def plan_keys(names: Sequence[str], count: int) -> list[Part]:
    """The rows with some rendered keys, in at most `count` parts."""
    return [Part(names=tuple(some)) for some in _dealt(names, count)]


def read_part(
    client: redis.Redis, keys: GoldKeys, manifest: Manifest, part: Part
) -> Iterator[list[_Row]]:
    """The rows of a part, key and value as they stand in Redis, in lists of up to ten thousand.

    Raises:
        GoldError: the version was removed meanwhile.
        UnreachableError, AccessDeniedError: as `run`.

    Cost: a round trip for each list, one more for each page.
    """
    version = version_of(keys, manifest, is_spread=is_spread(client))
    for place in part.places:
        if isinstance(place, Page):
            yield from _on_page(client, keys, version, place)
        elif isinstance(version, PackedVersion):
            some = range(place.start, place.stop)
            chains = _said(client, manifest, version.layers(place.share, some))
            complete = [chain for chain in chains if all(chain)]
            if len(complete) < len(chains):
                _refuse_losses(client, keys, manifest)
            yield [row for chain in complete for row in merged(chain).items()]
    for names in _dealt(part.names, -(-len(part.names) // _ROWS)):
        encoded = [name.encode() for name in names]
        values = _said(client, manifest, version.find(encoded))
        yield [
            (name, value) for name, value in zip(encoded, values, strict=True) if value is not None
        ]
    # Only now: a row that was not there may be one that was removed.
    if part.names or any(isinstance(place, Buckets) for place in part.places):
        _check_kept(client, keys, manifest)


def _on_page(
    client: redis.Redis, keys: GoldKeys, version: Version, page: Page
) -> Iterator[list[_Row]]:
    manifest = version.manifest
    with translated_errors(client):
        found: Any = client.get(keys.page(manifest.version, page.attempt, page.number))
    if found is None:
        raise _gone(manifest)
    names = decode_page(found)
    for start in range(0, len(names), _ROWS):
        some = names[start : start + _ROWS]
        values = _said(client, manifest, version.find(some))
        rows = [
            (name, value) for name, value in zip(some, values, strict=True) if value is not None
        ]
        if len(rows) < len(some):
            _refuse_losses(client, keys, manifest)
        yield rows


def _dealt(things: Sequence[_T], count: int) -> Iterator[Sequence[_T]]:
    """At most so many stretches of about the same length."""
    size = -(-len(things) // max(1, count)) or 1
    return (things[at : at + size] for at in range(0, len(things), size))


def _said(client: redis.Redis, manifest: Manifest, steps: Talk[_T]) -> _T:
    try:
        return talk(client, steps)
    except NotPublishedError:
        raise _gone(manifest) from None


def _refuse_losses(client: redis.Redis, keys: GoldKeys, manifest: Manifest) -> None:
    if not run(client, have_expired(keys, manifest)):
        raise _gone(manifest)


def _check_kept(client: redis.Redis, keys: GoldKeys, manifest: Manifest) -> None:
    """Refuse what was read of a version that may have lost rows by then."""
    if manifest.mode is not Mode.UPSERT:
        score, exists = execute_all(
            client,
            [
                ("ZSCORE", keys.versions, manifest.version),
                ("EXISTS", keys.manifest(manifest.version)),
            ],
        )
        if score is None or not exists:
            raise _gone(manifest)


def _gone(manifest: Manifest) -> GoldError:
    return GoldError(
        f"Gold dataset {manifest.dataset!r}: rows of version {manifest.version!r} were removed or "
        "expired while they were read. Read again, or publish with a larger keep or ttl.",
        manifest.dataset,
    )
