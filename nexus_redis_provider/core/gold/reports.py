"""What the attempts at all partitions of a version reported: checked, and summed up."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from nexus_redis_provider.core.errors import PublishError, ServerError, SupersededError, WriteError
from nexus_redis_provider.core.gold.buckets import Share
from nexus_redis_provider.core.gold.manifests import Layout, Manifest, Mode
from nexus_redis_provider.core.gold.servers import refuse_losses, server_states
from nexus_redis_provider.core.gold.specs import Report

if TYPE_CHECKING:
    from nexus_redis_provider.core.gold.publications import Publication


def refuse_bad_reports(publication: Publication, reports: Sequence[Report]) -> None:
    """See that each partition was reported once, and without an error.

    Raises:
        PublishError: the first error that was reported, or what it comes of, or what is wrong.
    """
    errors = [report.error for report in reports if report.error is not None]
    # The first failing attempt ends the staging area, which makes others fail as superseded.
    errors.sort(key=lambda error: isinstance(error, SupersededError))
    dataset = publication.spec.dataset
    if errors:
        if isinstance(errors[0], (SupersededError, WriteError)):
            # Where the server has lost scripts or staged rows, that is why.
            with suppress(ServerError), publication.endpoint.client() as client:
                refuse_losses(dataset, publication.servers, server_states(client))
        raise errors[0]
    partitions = {report.partition for report in reports}
    if len(partitions) < len(reports):
        raise PublishError(
            f"Gold dataset {dataset!r}: a partition was reported twice, by "
            f"{sorted(report.attempt for report in reports)}.",
            dataset,
        )
    shares = publication.shares
    if publication.spec.layout is Layout.PACKED and partitions != set(range(shares)):
        raise PublishError(
            f"Gold dataset {dataset!r}: shares {sorted(partitions)} were reported, not all "
            f"{shares}.",
            dataset,
        )


def manifest_of(publication: Publication, reports: Sequence[Report]) -> Manifest:
    """The facts of the version."""
    spec = publication.spec
    expires_from_ms, expires_ms = _lifetime(publication, reports)
    return Manifest(
        dataset=spec.dataset,
        version=publication.version,
        mode=spec.mode,
        layout=spec.layout,
        columns=spec.columns,
        key=spec.key.text,
        rows=sum(report.rows for report in reports),
        bytes=sum(report.bytes for report in reports),
        checksum=sum(report.checksum for report in reports),
        partitions=len(reports),
        created_ms=publication.created_ms,
        expires_from_ms=expires_from_ms,
        expires_ms=expires_ms,
        ttl_column=spec.ttl_column,
        fence=spec.fence,
        lineage=spec.lineage,
        shares=_shares(reports) if spec.layout is Layout.PACKED else (),
    )


def _lifetime(publication: Publication, reports: Sequence[Report]) -> tuple[int | None, int | None]:
    """When the first and the last row expire; None where none does, or some do not."""
    if publication.spec.ttl_column is None:
        return publication.expires_from_ms, publication.expires_ms
    found = [report for report in reports if report.rows]
    firsts = [one.expires_from_ms for one in found if one.expires_from_ms is not None]
    lasts = [one.expires_ms for one in found if one.expires_ms is not None]
    # Rows that were upserted before may stay.
    some_stay = publication.spec.mode is Mode.UPSERT or len(lasts) < len(found)
    return min(firsts, default=None), None if some_stay else max(lasts, default=None)


def _shares(reports: Sequence[Report]) -> tuple[Share, ...]:
    in_order = sorted(reports, key=lambda report: report.partition)
    return tuple(
        Share(report.attempt.partition(".")[2], report.buckets, report.is_mapped)
        for report in in_order
    )
