"""The life of a version: begin, stage, commit or abort, and the removal of what is left.

`begin` opens a staging area, task attempts fill it through `writers.PartitionWriter`, `commit`
verifies and then moves readers to it in one step. Nothing but `commit` (and, in upsert mode, the
rows themselves) changes what readers see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Self

import redis

from nexus_redis_provider.core.durations import to_ms
from nexus_redis_provider.core.endpoint import Endpoint, translated_errors
from nexus_redis_provider.core.errors import (
    NexusRedisError,
    PublishError,
    StaleFenceError,
    SupersededError,
    TooFewRowsError,
)
from nexus_redis_provider.core.exchanges import execute_all
from nexus_redis_provider.core.gold.bases import base_of, bucket_rows, live_packed, share_count
from nexus_redis_provider.core.gold.buckets import ROWS
from nexus_redis_provider.core.gold.manifests import Layout, Manifest, Mode
from nexus_redis_provider.core.gold.reports import manifest_of, refuse_bad_reports
from nexus_redis_provider.core.gold.servers import (
    ServerState,
    refuse_losses,
    refuse_topology,
    server_states,
)
from nexus_redis_provider.core.gold.specs import Report, Spec
from nexus_redis_provider.core.gold.sweeping import (
    page_keys,
    remove_attempt,
    staged_attempts,
    staged_buckets,
    sweep,
    unlink,
)
from nexus_redis_provider.core.scripts import Call, run

if TYPE_CHECKING:
    from nexus_redis_provider.core.gold.batches import Claim

_DAY = 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A version being published. Picklable: it travels to every task."""

    endpoint: Endpoint
    spec: Spec
    version: str
    created_ms: int
    expires_ms: int | None
    servers: tuple[ServerState, ...]
    claim: Claim | None = None
    shares: int = 1
    bucket_rows: int = ROWS
    base: Manifest | None = None

    @classmethod
    def begin(cls, endpoint: Endpoint, spec: Spec, shares: int = 1) -> Self:
        """Open a staging area, and remove what earlier publishers left behind.

        Args:
            endpoint, spec: where and what.
            shares: in how many packed rows are dealt, at least, one of them for each partition:
                more if many rows are expected, and of a delta as many as its base has.

        Raises:
            ConfigurationError: a Cluster cannot do that.
            StaleFenceError: a newer fencing token has published, or `fence` is missing although
                earlier publishes had one.
            UnreachableError, AccessDeniedError: nothing was written.
        """
        refuse_topology(endpoint, spec)
        keys = spec.keys
        with endpoint.client() as client:
            sweep(client, keys)  # First, since it may have to make room.
            servers = server_states(client)
            found, *rest = run(
                client,
                Call(
                    "begin_publish",
                    (keys.head, keys.fence, keys.staging),
                    (
                        _argument(spec.fence),
                        to_ms(spec.staging_lease, "staging_lease"),
                        int(spec.mode is Mode.UPSERT),
                        *("", 0, 0),
                    ),
                    list,
                ),
            )
            if not found:
                raise StaleFenceError(spec.dataset, spec.fence, int(rest[0]))
            _tell_expected(client, spec, rest[0].decode())
            now_ms = int(rest[1])
            live = live_packed(client, spec)
            base = base_of(live, spec, now_ms)
            return cls(
                endpoint=endpoint,
                spec=spec,
                version=rest[0].decode(),
                created_ms=now_ms,
                expires_ms=spec.expires_ms(now_ms),
                servers=servers,
                base=base,
                shares=len(base.shares) if base else share_count(live, spec, shares),
                bucket_rows=bucket_rows(client) if spec.layout is Layout.PACKED else ROWS,
            )

    @property
    def expires_from_ms(self) -> int | None:
        """When the first row may vanish, ms since 1970, or None."""
        return None if self.expires_ms is None else self.expires_ms - self.spec.jitter_ms

    def renewal(self) -> Call[int]:
        """Renew the staging lease; rows staged so far, or -1 when it was taken away."""
        return self._lease(to_ms(self.spec.staging_lease, "staging_lease"))

    def commit(self, reports: Sequence[Report]) -> Manifest:
        """Verify the reports and make the version live, in one atomic step.

        Args:
            reports: exactly one of each partition.

        Raises:
            PublishError: an attempt failed, or what was staged is not what was reported. Readers
                still see the previous version; call `abort`.
        """
        refuse_bad_reports(self, reports)
        manifest = manifest_of(self, reports)
        if manifest.rows < self.spec.min_rows:
            raise TooFewRowsError(self.spec.dataset, manifest.rows, self.spec.min_rows)
        with self.endpoint.client() as client:
            refuse_losses(self.spec.dataset, self.servers, server_states(client))
            published_ms = None
            while published_ms is None:
                self._drop_unreported_attempts(client, reports)
                self._let_pages_expire(client, manifest, reports)
                published_ms = self._flip(client, manifest, reports)
            # Readers see it: what cannot be swept now is swept by the next publish.
            with suppress(NexusRedisError):
                self._forget_sums(client)
                if self.spec.mode is Mode.UPSERT:
                    unlink(client, [self.spec.keys.attempts(self.version)])
                sweep(client, self.spec.keys)
        return replace(manifest, published_ms=published_ms)

    def abandon(self) -> None:
        """End the staging area: writers stop, and the next sweep removes its rows."""
        with self.endpoint.client() as client:
            run(client, self._lease(0))

    def abort(self) -> None:
        """`abandon`, and sweep now. Never touches a published version.

        Nor does it hide why it is called: where the server refuses that, or cannot be reached, the
        lease ends by itself, and the next publish sweeps.
        """
        with suppress(NexusRedisError), self.endpoint.client() as client:
            run(client, self._lease(0))
            sweep(client, self.spec.keys)

    def _forget_sums(self, client: redis.Redis) -> None:
        # The next delta builds on this one.
        if (base := self.base) is not None:
            attempts = [f"{number}.{share.task}" for number, share in enumerate(base.shares)]
            unlink(client, [self.spec.keys.sums(base.version, attempt) for attempt in attempts])

    def _lease(self, lease_ms: int) -> Call[int]:
        keys = self.spec.keys
        return Call(
            "renew_staging",
            (keys.staging, keys.attempts(self.version)),
            (self.version, lease_ms),
            int,
        )

    def _drop_unreported_attempts(self, client: redis.Redis, reports: Sequence[Report]) -> None:
        """Remove what failed and losing attempts have written beyond the reported ones."""
        keys = self.spec.keys
        if self.spec.layout is Layout.PACKED:
            self._drop_unreported_buckets(client, reports)
            return
        pages = {report.attempt: report.pages for report in reports}
        staged = staged_attempts(client, keys, self.version)
        missing = {attempt: n for attempt, n in pages.items() if n != staged.get(attempt, 0)}
        if missing:
            raise PublishError(
                f"Gold dataset {self.spec.dataset!r}: index pages of attempts {missing} are not "
                "all on the server. Publish again.",
                self.spec.dataset,
            )
        for attempt in staged.keys() - pages.keys():
            self._drop(client, attempt, staged[attempt], pages)

    def _drop_unreported_buckets(self, client: redis.Redis, reports: Sequence[Report]) -> None:
        keys, buckets = self.spec.keys, {report.attempt: report.buckets for report in reports}
        staged = staged_buckets(client, keys, self.version)
        missing = {attempt: n for attempt, n in buckets.items() if n != staged.get(attempt, 0)}
        if missing:
            raise PublishError(
                f"Gold dataset {self.spec.dataset!r}: buckets of attempts {missing} are not all on "
                "the server. Publish again.",
                self.spec.dataset,
            )
        for attempt in staged.keys() - buckets.keys():
            remove_attempt(client, keys, self.version, attempt, staged[attempt])
            with translated_errors(client):
                client.hdel(keys.attempts(self.version), attempt)

    def _drop(
        self, client: redis.Redis, attempt: str, count: int, pages: Mapping[str, int]
    ) -> None:
        keys, version = self.spec.keys, self.version
        surplus = set(chain.from_iterable(page_keys(client, keys, version, attempt, count)))
        # Most often the partition's reported attempt has the same keys, and no other is looked at.
        partition = attempt.partition(".")[0]
        for other in sorted(pages, key=lambda name: name.partition(".")[0] != partition):
            for names in page_keys(client, keys, version, other, pages[other] if surplus else 0):
                surplus.difference_update(names)
        prefix = keys.row_prefix(version).encode()
        unlink(client, [prefix + name for name in surplus])
        unlink(client, [keys.page(version, attempt, number) for number in range(count)])
        with translated_errors(client):
            client.hdel(keys.attempts(version), attempt)

    def _let_pages_expire(
        self, client: redis.Redis, manifest: Manifest, reports: Sequence[Report]
    ) -> None:
        """With the last row, of which nobody knew when pages were written."""
        expires_ms = manifest.expires_ms
        if self.spec.ttl_column is not None and expires_ms is not None:
            pages = [(report.attempt, n) for report in reports for n in range(report.pages)]
            names = [self.spec.keys.page(self.version, *page) for page in pages]
            execute_all(client, [("PEXPIREAT", name, expires_ms) for name in names])

    def _flip(
        self, client: redis.Redis, manifest: Manifest, reports: Sequence[Report]
    ) -> int | None:
        """When it was published, or None when unreported attempts have written meanwhile."""
        keys, spec, claim = self.spec.keys, self.spec, self.claim
        outcome, *rest = run(
            client,
            Call(
                "commit_publish",
                (
                    *(keys.head, keys.fence, keys.staging, keys.versions),
                    *(keys.manifest(self.version), keys.attempts(self.version), keys.events),
                ),
                (
                    *(self.version, _argument(spec.fence), manifest.to_json()),
                    *(_argument(manifest.expires_ms), spec.keep),
                    sum(report.pages + report.buckets > 0 for report in reports),
                    int(spec.mode is Mode.UPSERT),
                    *((claim.query, claim.number, claim.text) if claim else ("", 0, "")),
                    self.base.version if self.base else "",
                    _argument(self.expires_from_ms),
                    _argument(self.base.expires_from_ms if self.base else None),
                ),
                list,
            ),
        )
        match outcome:
            case b"published":
                return int(rest[0])
            case b"unsettled":
                return None
            case b"expired":
                raise PublishError(
                    f"Gold dataset {spec.dataset!r}: the load took longer than its ttl, so that "
                    "rows vanished before they were published. Publish with a longer ttl.",
                    spec.dataset,
                )
            case b"stale":
                raise StaleFenceError(spec.dataset, spec.fence, int(rest[0]))
            case b"rebased":
                raise base_gone(spec.dataset, self.version)
            case b"superseded":
                raise SupersededError(
                    f"Gold dataset {spec.dataset!r}: version {rest[0].decode()!r}, begun after "
                    f"{self.version!r}, is already published.",
                    spec.dataset,
                )
            case _:
                raise staging_gone(spec.dataset, self.version)


def _tell_expected(client: redis.Redis, spec: Spec, version: str) -> None:
    """Leave a note for who watches the load."""
    rows = spec.limits.expected_rows
    if rows is not None and spec.mode is not Mode.DELTA:  # Only what changed is written then.
        with translated_errors(client):
            client.set(spec.keys.expected(version), rows, ex=_DAY)


def base_gone(dataset: str, version: str) -> SupersededError:
    """The error of a delta whose base was removed or has expired."""
    return SupersededError(
        f"Gold dataset {dataset!r}: the version on which delta {version!r} builds is not kept any "
        "more. Publish again.",
        dataset,
    )


def staging_gone(dataset: str, version: str) -> SupersededError:
    """The error of a writer whose staging area was ended."""
    return SupersededError(
        f"Gold dataset {dataset!r}: the staging area of version {version!r} is gone: aborted, or "
        "its publisher showed no sign of life for longer than the staging lease. Publish again.",
        dataset,
    )


def _argument(value: int | None) -> str:
    return "" if value is None else str(value)
