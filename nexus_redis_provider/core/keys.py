"""Every key pattern of this package, in one place.

All keys of one lock, and all bookkeeping keys of one dataset, share a hash tag `{...}` and thus a
Cluster slot, so that one script can act on them. Rows carry no tag and spread over the slots.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote

from nexus_redis_provider.core.errors import ConfigurationError

DEFAULT_NAMESPACE = "nexus"
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,200}")


def checked_name(name: str, what: str) -> str:
    """The name itself, where it is fit to be part of a key.

    Raises:
        ConfigurationError: empty, too long, or with characters outside `A-Z a-z 0-9 _ . : / -`.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{what} must be 1 to 200 of the characters A-Z a-z 0-9 _ . : / -, not {name!r}."
        )
    return name


def _encoded(name: str, whose: str) -> str:
    """Free text without what could break a hash tag, or a terminal."""
    try:
        return quote(name, safe="/:@+=,. ")
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{whose} name must be text that UTF-8 has: {error}.") from error


@lru_cache(maxsize=4096)
def _lock_root(name: str, namespace: str) -> str:
    checked_name(namespace, "A namespace")
    encoded = _encoded(name, "A lock's")
    return f"{namespace}:lock:{{{encoded}}}"


@dataclass(frozen=True, slots=True)
class LockKeys:
    """Keys of one lock. Names are free text: what could break the hash tag is percent-encoded."""

    name: str
    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        _lock_root(self.name, self.namespace)

    @property
    def lock(self) -> str:
        """Hash: the newest fencing token under `''`, and by owner who holds the lock. TTL: 30 days,
        or the lease plus a net against leaks, if that is longer.
        """
        return _lock_root(self.name, self.namespace)

    @property
    def line(self) -> str:
        """Sorted set of owners in line; score: ticket. TTL: a day after the last sign of life."""
        return f"{self.lock}:line"

    @property
    def waiters(self) -> str:
        """Hash by owner: who waits or has waited, with the ticket. TTL: as `line`."""
        return f"{self.lock}:waiters"

    @property
    def heard(self) -> str:
        """Sorted set of owners; score: until when each counts as living, ms. TTL: as `line`."""
        return f"{self.lock}:heard"

    def wake(self, waiter: str) -> str:
        """List on which one waiter blocks. TTL: as long as that waiter counts as living."""
        return f"{self.lock}:wake:{waiter}"

    @property
    def audit(self) -> str:
        """Stream: forced releases, the newest thousand. TTL: 90 days after the last one."""
        return f"{self.lock}:audit"

    @property
    def state(self) -> tuple[str, ...]:
        """The keys that every script of a lock is given, in this order."""
        root = self.lock
        return root, f"{root}:line", f"{root}:waiters", f"{root}:heard"

    @staticmethod
    def pattern(namespace: str = DEFAULT_NAMESPACE) -> str:
        """Glob of all keys of all locks."""
        return f"{checked_name(namespace, 'A namespace')}:lock:{{*}}*"

    @staticmethod
    def name_of(key: str) -> str:
        """The name of the lock that a key belongs to."""
        return unquote(key[key.index("{") + 1 : key.index("}")])

    @staticmethod
    def channel(waiter: str) -> str:
        """Pub/sub channel that wakes a room of waiters, whatever the namespace."""
        return f"{DEFAULT_NAMESPACE}:lock-wake:{waiter}"


MAX_TAG = 512
"""Bytes of the longest name that a tag may have."""


def generation_key(tag: str, namespace: str = DEFAULT_NAMESPACE) -> str:
    """String: the generation of a tag, a number. TTL: as who reads or invalidates it says.

    Names are free text, encoded as those of locks. Each tag is in a slot of its own.

    Raises:
        ConfigurationError: the name is empty, too long, or no text that UTF-8 has.
    """
    checked_name(namespace, "A namespace")
    if not isinstance(tag, str):
        raise ConfigurationError(f"A tag must be text, not {tag!r}.")
    encoded = _encoded(tag, "A tag's")
    if not 0 < (size := len(tag.encode())) <= MAX_TAG:
        raise ConfigurationError(
            f"A tag's name must have 1 to {MAX_TAG} bytes in UTF-8, not {size:,}: {tag[:40]!r}."
        )
    return f"{namespace}:tag:{encoded}"


@dataclass(frozen=True, slots=True)
class GoldKeys:
    """Keys of one Gold dataset."""

    dataset: str
    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        checked_name(self.dataset, "A dataset's name")
        checked_name(self.namespace, "A namespace")

    @property
    def root(self) -> str:
        """Common beginning of the bookkeeping keys."""
        return f"{self.namespace}:gold:{{{self.dataset}}}"

    @property
    def head(self) -> str:
        """Hash `live`, `newest`, `minted_ms`: the version that readers see, the one published last,
        and the time of the one begun last; and of each streaming query `batch:Q`, the micro-batch
        that was applied last, and `claim:Q`, the run of one that is under way.
        """
        return f"{self.root}:head"

    @property
    def fence(self) -> str:
        """String: the newest fencing token that published. Permanent."""
        return f"{self.root}:fence"

    @property
    def versions(self) -> str:
        """Sorted set of published versions that are kept; score: publish time, ms."""
        return f"{self.root}:versions"

    @property
    def staging(self) -> str:
        """Sorted set of versions being written; score: end of their lease, ms."""
        return f"{self.root}:staging"

    @property
    def events(self) -> str:
        """Stream: publishes and rollbacks, the newest thousand or so. Permanent, whatever `ttl` and
        `keep` say: that a version was published stays true when its rows are gone.
        """
        return f"{self.root}:events"

    @property
    def watchers(self) -> str:
        """Hash by watcher: the event up to which it has been heard. Permanent."""
        return f"{self.root}:watchers"

    def manifest(self, version: str) -> str:
        """Hash: `body`, the manifest of a version as JSON, and `published_ms`."""
        return f"{self.root}:manifest:{version}"

    def attempts(self, version: str) -> str:
        """Hash: per task attempt that wrote rows of the version, its number of index pages."""
        return f"{self.root}:attempts:{version}"

    def bucket(self, source: str, share: int, number: int) -> str:
        """Hash by row key of packed rows (see gold/buckets.py).

        It has a tag of its own, so buckets spread over a Cluster, and copies of a bucket stay where
        it is. `source` is `version.task`, of the task attempt that wrote it.
        """
        before, after = self.around_bucket(source, share)
        return f"{before}{number}{after}"

    def around_bucket(self, source: str, share: int) -> tuple[str, str]:
        """What stands before and after a bucket's number in its key."""
        return f"{self.namespace}:gold:{self.dataset}:{{{share}.", f"}}:{source}"

    def bucket_map(self, version: str, attempt: str) -> str:
        """String: which source has each bucket, where not all are of the attempt, or have rows."""
        return f"{self.root}:map:{version}:{attempt}"

    def sums(self, version: str, attempt: str) -> str:
        """String: 12 bytes for each row of an attempt, by which the next delta finds changes."""
        return f"{self.root}:sums:{version}:{attempt}"

    def page(self, version: str, attempt: str, number: int) -> str:
        """String: the keys of one batch of rows (see gold/pages.py)."""
        return f"{self.root}:page:{version}:{attempt}:{number}"

    def expected(self, version: str) -> str:
        """String: rows that the publisher of a version expects. TTL: a day."""
        return f"{self.root}:expected:{version}"

    def pace(self, version: str) -> str:
        """String: when more rows may be written, us. TTL: until then. Where rows/s are limited."""
        return f"{self.root}:pace:{version}"

    def writers(self, version: str) -> str:
        """Sorted set of attempts whose turn it is to write; score: end of the turn's lease, ms.
        TTL: a turn. Where writers are limited.
        """
        return f"{self.root}:writers:{version}"

    def row_prefix(self, version: str) -> str:
        """What stands before a row's key in a version."""
        return f"{self.namespace}:gold:{self.dataset}:{version}:"
