"""The versions of a dataset that are kept, and the way back to one of them.

A rollback moves the live pointer, as a publish does, and nothing else that readers see. What it
leaves is marked as rolled back from: the next publishes remove it first, whatever its age, so that
the version that served before them stays for as long as their `keep` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis

from nexus_redis_provider.core.errors import NotPublishedError, RollbackError, StaleFenceError
from nexus_redis_provider.core.gold.manifests import Manifest, Mode
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE, GoldKeys
from nexus_redis_provider.core.keyspace.walks import scan
from nexus_redis_provider.core.scripts import Call, run


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version that was published and is kept.

    Attributes:
        version: its name.
        published_ms: server clock, milliseconds since 1970.
        manifest: its facts; None once it has expired.
        is_live: whether readers see it.
        is_rolled_back: whether it was live, until a rollback moved readers to an older one.
    """

    version: str
    published_ms: int
    manifest: Manifest | None
    is_live: bool
    is_rolled_back: bool

    @property
    def is_readable(self) -> bool:
        """Whether it has not expired."""
        return self.manifest is not None

    @property
    def published_at(self) -> datetime:
        """When it was published."""
        return datetime.fromtimestamp(self.published_ms / 1000, tz=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class StagingArea:
    """A version that is being written, or waits for its removal.

    Attributes:
        version: its name.
        rows: announced so far, those of failed and of losing attempts included.
        created_ms: when it was begun; server clock, milliseconds since 1970.
        lease_left: seconds until it is given up, unless its publisher shows a sign of life; not
            positive when the next sweep removes it.
    """

    version: str
    rows: int
    created_ms: int
    lease_left: float

    @property
    def created_at(self) -> datetime:
        """When it was begun."""
        return datetime.fromtimestamp(self.created_ms / 1000, tz=UTC)

    @property
    def is_abandoned(self) -> bool:
        """Whether the next sweep removes it."""
        return self.lease_left <= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All that a server keeps of a dataset, at one moment.

    Attributes:
        keys: of the dataset.
        exists: whether a publish was ever begun.
        live: the version that readers are sent to, or None; it may have expired.
        fence: newest fencing token that published, or None.
        versions: that are kept, newest first.
        staged: that are being written or wait for removal, oldest first.
        now_ms: server clock, milliseconds since 1970.
    """

    keys: GoldKeys
    exists: bool
    live: str | None
    fence: int | None
    versions: tuple[Version, ...]
    staged: tuple[StagingArea, ...]
    now_ms: int

    @property
    def dataset(self) -> str:
        """Its name."""
        return self.keys.dataset

    @property
    def live_version(self) -> Version | None:
        """What readers see, or None."""
        return next((version for version in self.versions if version.is_live), None)


def history(dataset: str, *, namespace: str = DEFAULT_NAMESPACE) -> Call[History]:
    """All that the server keeps of a dataset; one round trip."""
    keys = GoldKeys(dataset, namespace)
    return Call(
        "dataset_history",
        (keys.head, keys.fence, keys.versions, keys.staging),
        (keys.manifest(""), keys.attempts("")),
        lambda reply: _history(keys, reply),
        lambda reply: [
            keys.manifest(name.decode()) for name, _, body in _triples(reply[4]) if not body
        ],
    )


def versions(
    client: redis.Redis, dataset: str, *, namespace: str = DEFAULT_NAMESPACE
) -> list[Version]:
    """The kept versions of a dataset at one moment, newest first; none if it is unknown.

    Args:
        client: of the server, without `decode_responses`.
        dataset: its name.
        namespace: first part of the keys.

    Raises:
        UnreachableError, AccessDeniedError: as `run`.
    """
    return list(run(client, history(dataset, namespace=namespace)).versions)


def datasets(client: redis.Redis, namespace: str = DEFAULT_NAMESPACE) -> Iterator[str]:
    """Every dataset for which a publish was ever begun, once, in no order.

    Args:
        client: of the server, without `decode_responses`.
        namespace: first part of the keys.

    Raises:
        UnreachableError: no answer within the client's timeouts and retries.
        AccessDeniedError: bad credentials, or the ACL forbids SCAN.

    Cost: one SCAN for every thousand keys of the database, of whatever kind; blocks nobody.
    """
    # Braces stand in the key once, around the dataset's name.
    before, after = GoldKeys("-", namespace).head.split("{-}")
    seen = set[str]()
    for key in scan(client, f"{before}{{*}}{after}", kind="hash"):
        name = _name_of(key[len(before) + 1 : -len(after) - 1], namespace)
        if name is not None and name not in seen:
            seen.add(name)
            yield name


def rollback(
    client: redis.Redis,
    dataset: str,
    version: str | None = None,
    *,
    fence: int | None = None,
    namespace: str = DEFAULT_NAMESPACE,
) -> Manifest:
    """Move readers to a version that is kept, in one atomic step; returns its manifest.

    A publish that is under way is not stopped: when it commits, readers move to what it brings.

    Args:
        client: of the server, without `decode_responses`.
        dataset: its name.
        version: a kept one, older or newer than the live one; by default the one that readers saw
            before it: the newest that was published before it and not rolled back from.
        fence: fencing token of the lock that guards the dataset. None is the decision of a person,
            and allowed also where publishers have tokens.
        namespace: first part of the keys.

    Raises:
        NotPublishedError: nothing is live.
        RollbackError: the version is unknown, removed, expired, live already or upserted in place,
            or another one became live meanwhile. Nothing was changed.
        StaleFenceError: a newer fencing token has published. Nothing was changed.

    Cost: two round trips.
    """
    return rollback_from(
        client, run(client, history(dataset, namespace=namespace)), version, fence=fence
    )


def rollback_from(
    client: redis.Redis, seen: History, version: str | None = None, *, fence: int | None = None
) -> Manifest:
    """`rollback` of what the caller has seen: refused when another version is live by now.

    The version is named before anything is sent, so a call that is sent again for want of a reply
    never goes further back.
    """
    if seen.live is None:
        raise NotPublishedError(seen.dataset)
    manifest = _target(seen, _before_live(seen) if version is None else version)
    call = move_live(seen.keys, manifest.version, seen=seen.live, fence=fence)
    outcome, *rest = run(client, call)
    match outcome:
        case b"live":
            return manifest
        case b"stale":
            raise StaleFenceError(seen.dataset, fence, int(rest[0]))
        case b"moved":
            now = rest[0].decode()
            what = f"version {now!r} is live by now, no longer {seen.live!r}. Look again"
        case _:
            what = f"version {manifest.version!r} was removed meanwhile, or expired. Look again"
    raise RollbackError(seen.dataset, what, manifest.version)


def move_live(keys: GoldKeys, version: str, *, seen: str, fence: int | None) -> Call[list[bytes]]:
    """Make a kept version live, if what the caller has seen as live still is."""
    return Call(
        "rollback_version",
        (keys.head, keys.fence, keys.versions, keys.manifest(version), keys.events),
        (version, seen, "" if fence is None else fence),
        list,
    )


def _before_live(seen: History) -> str:
    live = seen.live_version
    if live and live.manifest and live.manifest.mode is Mode.UPSERT:
        raise _upserted(seen, live.version)
    at = seen.versions.index(live) + 1 if live else 0
    older = [one for one in seen.versions[at:] if not one.is_rolled_back]
    if not older:
        what = f"no version that was published before the live one, {seen.live!r}, is kept"
        raise _refusal(seen, None, what)
    return older[0].version


def _target(seen: History, version: str) -> Manifest:
    if version == seen.live:
        raise _refusal(seen, version, f"version {version!r} is live already")
    found = next((one for one in seen.versions if one.version == version), None)
    if found is None:
        raise _refusal(seen, version, f"version {version!r} is not kept")
    if found.manifest is None:
        what = f"version {version!r}, published at {found.published_at:%Y-%m-%d %H:%M:%S} UTC"
        raise _refusal(seen, version, f"{what}, has expired")
    if found.manifest.mode is Mode.UPSERT:
        raise _upserted(seen, version)
    return found.manifest


def _refusal(seen: History, version: str | None, what: str) -> RollbackError:
    names = [one.version for one in seen.versions if one.is_readable and not one.is_live]
    choice = f"Others that can be read: {', '.join(names)}" if names else "No other can be read"
    return RollbackError(seen.dataset, f"{what}. {choice}", version)


def _upserted(seen: History, version: str) -> RollbackError:
    what = f"version {version!r} was upserted in place, so the rows that it replaced are gone"
    return RollbackError(seen.dataset, f"{what}. Publish the older rows again", version)


def _history(keys: GoldKeys, reply: Any) -> History:
    now_ms, exists, live, fence, kept, staged = reply
    found = [_version(*each, live=live) for each in _triples(kept)]
    found.sort(key=lambda one: (one.published_ms, one.version), reverse=True)
    areas = [_staging_area(*each, now_ms=int(now_ms)) for each in _triples(staged)]
    areas.sort(key=lambda one: one.created_ms)
    return History(
        keys=keys,
        exists=bool(exists),
        live=live.decode() or None,
        fence=int(fence) if fence else None,
        versions=tuple(found),
        staged=tuple(areas),
        now_ms=int(now_ms),
    )


def _triples(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes, bytes]]:
    return zip(flat[::3], flat[1::3], flat[2::3], strict=True)


def _version(name: bytes, score: bytes, body: bytes, *, live: bytes) -> Version:
    published_ms = abs(int(score))
    return Version(
        version=name.decode(),
        published_ms=published_ms,
        manifest=Manifest.from_json(body, published_ms=published_ms) if body else None,
        is_live=name == live,
        is_rolled_back=score.startswith(b"-"),
    )


def _staging_area(name: bytes, lease_ms: bytes, rows: bytes, *, now_ms: int) -> StagingArea:
    return StagingArea(
        version=name.decode(),
        rows=int(rows),
        created_ms=int(name, 36),
        lease_left=(int(lease_ms) - now_ms) / 1000,
    )


def _name_of(inside: bytes, namespace: str) -> str | None:
    """The dataset of what stands between a head's braces; None where no dataset is called so."""
    try:
        return GoldKeys(inside.decode(), namespace).dataset
    except ValueError:
        return None
