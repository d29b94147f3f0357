"""What to publish and how, and what an attempt at a part of it reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from nexus_redis_provider.core.bounds import is_whole
from nexus_redis_provider.core.durations import Duration, to_ms
from nexus_redis_provider.core.errors import ConfigurationError, PublishError
from nexus_redis_provider.core.gold.columns import check_ttl_column
from nexus_redis_provider.core.gold.limits import Limits
from nexus_redis_provider.core.gold.manifests import Layout, Mode
from nexus_redis_provider.core.gold.schemas import Column
from nexus_redis_provider.core.gold.templates import KeyTemplate
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE, GoldKeys

STAGING_LEASE = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What to publish and how; checked when it is made. Picklable, with no password in it.

    Args:
        dataset: name; `A-Z a-z 0-9 _ . : / -`.
        columns: of every row.
        key: over the key columns; in upsert mode its text is the row's whole Redis key.
        mode, layout: see `manifests`.
        ttl: seconds until rows vanish, counted from `begin`; None keeps them.
        ttl_jitter: seconds by which rows vanish earlier, at most, each at a moment of its own (see
            `expiries`); None lets all vanish at once.
        ttl_column: that says when its row vanishes: a timestamp, or so many seconds from `begin`;
            rows that have null there take the ttl, if there is one.
        keep: previous versions that stay readable.
        min_rows: a version with fewer is refused.
        fence: fencing token of the lock that guards this publish, or None.
        lineage: free text facts for the manifest.
        staging_lease: seconds after its last sign of life at which a staging area is given up.
        limits: how fast to write, and what to refuse.
    """

    dataset: str
    columns: tuple[Column, ...]
    key: KeyTemplate
    mode: Mode = Mode.SNAPSHOT
    layout: Layout = Layout.JSON
    ttl: Duration | None = None
    ttl_jitter: Duration | None = None
    ttl_column: str | None = None
    keep: int = 1
    min_rows: int = 0
    fence: int | None = None
    lineage: Mapping[str, str] = field(default_factory=dict)
    namespace: str = DEFAULT_NAMESPACE
    staging_lease: Duration = STAGING_LEASE
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        GoldKeys(self.dataset, self.namespace)
        if not is_whole(self.keep, 0):
            raise ConfigurationError(f"keep is a number of previous versions, not {self.keep!r}.")
        if not is_whole(self.min_rows, 0):
            raise ConfigurationError(f"min_rows is a number of rows, not {self.min_rows!r}.")
        if self.min_rows and self.mode is Mode.UPSERT:
            raise ConfigurationError("min_rows does not go with upsert, whose rows show at once.")
        if self.mode is Mode.DELTA and self.layout is not Layout.PACKED:
            raise ConfigurationError(
                f"mode='delta' is for layout='packed', not {self.layout.value!r}: only there two "
                "versions can share buckets."
            )
        if self.layout is Layout.PACKED and self.mode is Mode.UPSERT:
            raise ConfigurationError(
                "layout='packed' does not go with mode='upsert', which is for rows that any client "
                "reads; use layout='json', or mode='snapshot'."
            )
        if self.fence is not None and not is_whole(self.fence, 1):
            raise ConfigurationError(
                f"A fencing token is a positive whole number, not {self.fence!r}."
            )
        self._check_lineage()
        self._check_ttl()
        to_ms(self.staging_lease, "staging_lease")

    def _check_lineage(self) -> None:
        try:
            json.dumps(dict(self.lineage))
        except (TypeError, ValueError):
            raise ConfigurationError(
                f"lineage is a dict of facts that JSON has, best of text, not {self.lineage!r}."
            ) from None

    def _check_ttl(self) -> None:
        ttl_ms = 0 if self.ttl is None else to_ms(self.ttl, "ttl")
        if self.ttl_jitter is not None and to_ms(self.ttl_jitter, "ttl_jitter") >= ttl_ms:
            raise ConfigurationError(
                f"ttl_jitter is how much earlier than their ttl rows may vanish, hence shorter "
                f"than it: not {self.ttl_jitter!r} of ttl={self.ttl!r}."
            )
        if self.ttl_column is None:
            return
        if self.layout is Layout.PACKED:
            raise ConfigurationError(
                "layout='packed' does not go with ttl_column, since rows share a bucket, which "
                "expires as a whole; use layout='json' or 'hash', or ttl with ttl_jitter."
            )
        check_ttl_column(self.columns, self.ttl_column, self.dataset)

    @property
    def jitter_ms(self) -> int:
        """By how much rows vanish earlier than their ttl, at most."""
        return 0 if self.ttl_jitter is None else to_ms(self.ttl_jitter, "ttl_jitter")

    def expires_ms(self, created_ms: int) -> int | None:
        """When a version that was begun then vanishes; None where it stays, or each row says it."""
        if self.ttl is None or self.ttl_column is not None:
            return None
        return created_ms + to_ms(self.ttl, "ttl")

    @property
    def keys(self) -> GoldKeys:
        """The dataset's keys."""
        return GoldKeys(self.dataset, self.namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one task attempt wrote.

    Attributes:
        partition: index of the partition.
        attempt: unique name of the attempt.
        rows, bytes: acknowledged rows, and bytes of their keys and values.
        checksum: sum of their CRC-32.
        expires_from_ms, expires_ms: of rows whose `ttl_column` says when they expire: when the
            first of them does, or None, and when the last one does, or None if some do not.
        pages: index pages written.
        buckets: into which rows were packed.
        is_mapped: whether some of them are of earlier versions, or empty.
        error: why the attempt gave up, or None.
    """

    partition: int
    attempt: str
    rows: int = 0
    bytes: int = 0
    checksum: int = 0
    expires_from_ms: int | None = None
    expires_ms: int | None = None
    pages: int = 0
    buckets: int = 0
    is_mapped: bool = False
    error: PublishError | None = None
