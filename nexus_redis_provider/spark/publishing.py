"""`publish(df, ...)`: a DataFrame becomes the live version of a Gold dataset.

Spark's JVM makes a key, a JSON value and a checksum of every row; Arrow carries them; each
partition writes one pipelined stream. Only one small report per partition comes back.
"""

from __future__ import annotations

import functools
import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F  # noqa: N812 - the name every Spark user knows

from nexus_redis_provider.core.durations import Duration
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import (
    DuplicateKeyError,
    NullKeyError,
    PublishError,
    RowTtlError,
    ValueTooLargeError,
)
from nexus_redis_provider.core.gold.bucket_writers import BucketWriter
from nexus_redis_provider.core.gold.columns import key_template
from nexus_redis_provider.core.gold.deltas import DeltaWriter
from nexus_redis_provider.core.gold.expiries import MOST_SECONDS
from nexus_redis_provider.core.gold.limits import MAX_VALUE_BYTES, MEMORY_MARGIN, Limits
from nexus_redis_provider.core.gold.manifests import Layout, Manifest, Mode
from nexus_redis_provider.core.gold.pacing import expectation
from nexus_redis_provider.core.gold.packing import packed_columns
from nexus_redis_provider.core.gold.progress import Meter, Progress, ProgressLine
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.specs import Report, Spec
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.spark.failures import SPARK_ERRORS, reason
from nexus_redis_provider.spark.hashes import prepared_hashes
from nexus_redis_provider.spark.packed import dealt, packed
from nexus_redis_provider.spark.rows import prepared
from nexus_redis_provider.spark.schemas import checked_columns
from nexus_redis_provider.spark.tasks import Batch, write_partition

log = logging.getLogger(__name__)
OnProgress = Callable[[Progress], None]
"""Called about once a second."""

# The columns are the arguments of `PartitionWriter.write`; see `_arguments`.
_PREPARED = {Layout.JSON: prepared, Layout.HASH: prepared_hashes}
# The size of a text is an int.
_MAX_BYTES = 2**31 - 1
_REPORT_SCHEMA = (
    "partition int, attempt string, rows long, bytes long, checksum long, pages int, buckets int, "
    "is_mapped boolean, expires_from_ms long, expires_ms long, error binary"
)


def publish(
    df: DataFrame,
    dataset: str,
    *,
    key: str | Sequence[str],
    endpoint: Endpoint | str | None = None,
    mode: Mode | str = Mode.SNAPSHOT,
    layout: Layout | str = Layout.JSON,
    ttl: Duration | None = None,
    ttl_jitter: Duration | None = None,
    ttl_column: str | None = None,
    keep: int = 1,
    min_rows: int = 0,
    fence: int | None = None,
    lineage: Mapping[str, str] | None = None,
    namespace: str = DEFAULT_NAMESPACE,
    max_rows_per_second: int | None = None,
    max_writers: int | None = None,
    max_value_bytes: int | None = MAX_VALUE_BYTES,
    expected_rows: int | None = None,
    memory_margin: float | None = MEMORY_MARGIN,
    on_progress: OnProgress | None = None,
) -> Manifest:
    """Readers see all rows of the frame, or what they saw before; never anything between.

    In `upsert` mode that holds for each row.

    Args:
        df: the rows, with exactly one of each key.
        dataset: name of the dataset.
        key: key columns, or a template such as `analytics:{metric_name}:{date}`; in `upsert` mode
            a template is the row's whole Redis key.
        endpoint: an `Endpoint`, a Redis URL, or None for the environment's `NEXUS_REDIS_URL`. It
            travels to the executors, hence no literal password: see `Secret`.
        mode: `snapshot` (a new version), `delta` (likewise, by what has changed), `upsert` (rows
            replaced in place).
        layout: `json`, a JSON string per row; `hash`, a hash per row; `packed`, some rows a hash.
        ttl: seconds until the rows vanish; None keeps them.
        ttl_jitter: seconds by which rows vanish earlier, at most, each at a moment of its own, so
            that they are not all missed at once.
        ttl_column: that says when its row vanishes: a timestamp, or so many seconds from now; rows
            that have null there take the `ttl`, if there is one. Not for `packed`.
        keep: previous versions that stay readable.
        min_rows: fewer rows than these are refused, so that an empty source empties no cache.
        fence: fencing token of the lock that guards this publish (the XCom of `DagLockOperator`).
        lineage: facts for the manifest; the Spark application is added.
        max_rows_per_second, max_writers, max_value_bytes, expected_rows, memory_margin: how fast
            to write, and what to refuse; see `Limits`.
        on_progress: called about once a second; by default progress is logged, or shown as a bar
            where the error stream is a terminal.

    Returns:
        The manifest of the published version.

    Raises:
        ConfigurationError, SchemaError: refused before anything was sent.
        NullKeyError, DuplicateKeyError, TooFewRowsError, ValueTooLargeError, NoRoomError,
            WriteError: refused; readers see what they saw before.
        StaleFenceError: another run has taken the lock over and published.
        UnreachableError, AccessDeniedError: the server cannot be used.

    Cost: one pass over the frame; in `upsert` mode it is persisted and its keys are counted first.
    Clock: server.
    """
    template = key_template(key, dataset)
    spec = Spec(
        dataset=dataset,
        columns=checked_columns(df.schema, template, dataset),
        key=template,
        mode=Mode(mode),
        layout=Layout(layout),
        ttl=ttl,
        ttl_jitter=ttl_jitter,
        ttl_column=ttl_column,
        keep=keep,
        min_rows=min_rows,
        fence=fence,
        lineage={**(lineage or {}), **_application(df)},
        namespace=namespace,
        limits=Limits(
            max_rows_per_second=max_rows_per_second,
            max_writers=max_writers,
            max_value_bytes=max_value_bytes,
            expected_rows=expected_rows,
            memory_margin=memory_margin,
        ),
    )
    where = Endpoint.of(endpoint)
    pickle.dumps(where)  # A literal password is refused here, not in the middle of the job.
    prepare = _PREPARED.get(spec.layout)
    rows = prepare(df, template, ttl_column) if prepare else None
    if rows is not None and spec.mode is Mode.UPSERT:
        rows = rows.persist()
    try:
        publication = Publication.begin(where, spec, _shares(df))
        with _aborted_on_error(publication):
            if rows is None:
                rows = dealt(df, spec.columns, template, publication.shares)
            if spec.mode is Mode.UPSERT:
                _refuse_bad_rows(rows, spec)
            with _progress(publication, on_progress):
                reports = _write(rows, publication)
            return publication.commit(reports)
    finally:
        if rows is not None and spec.mode is Mode.UPSERT:
            rows.unpersist()


def _write(rows: DataFrame, publication: Publication) -> list[Report]:
    packs = publication.spec.layout is Layout.PACKED
    write = functools.partial(_write_share if packs else _write_partition, publication)
    reports = _collected(rows.mapInArrow(write, _REPORT_SCHEMA), publication.spec.dataset)
    if packs and not reports:
        # Where Spark finds out that there is no row, it runs no task.
        return [Report(partition=n, attempt=f"{n}.none") for n in range(publication.shares)]
    return [_report(row) for row in reports]


def _collected(few: DataFrame, dataset: str) -> list[Row]:
    try:
        return few.collect()
    except SPARK_ERRORS as error:
        raise PublishError(
            f"Gold dataset {dataset!r}: the Spark job failed: {reason(error)}", dataset
        ) from error


def _write_partition(
    publication: Publication, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Runs in a Spark task: writes one partition, yields its report as a batch of one row."""
    yield _report_batch(write_partition(publication, map(_arguments, batches)))


def _arguments(batch: pa.RecordBatch) -> Batch:
    found = dict(zip(batch.schema.names, batch.columns, strict=True))
    checksum = pc.sum(found["checksum"]).as_py() or 0
    return found["key"], found["value"], checksum, found.get("fields"), found.get("ttl")


def _write_share(
    publication: Publication, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """As `_write_partition`, for packed rows."""
    columns = packed_columns(publication.spec.columns, publication.spec.key)
    writer = DeltaWriter if publication.spec.mode is Mode.DELTA else BucketWriter
    yield _report_batch(write_partition(publication, packed(batches, columns), writer))


def _report_batch(report: Report) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {
            "partition": pa.array([report.partition], pa.int32()),
            "attempt": pa.array([report.attempt], pa.string()),
            "rows": pa.array([report.rows], pa.int64()),
            "bytes": pa.array([report.bytes], pa.int64()),
            "checksum": pa.array([report.checksum], pa.int64()),
            "pages": pa.array([report.pages], pa.int32()),
            "buckets": pa.array([report.buckets], pa.int32()),
            "is_mapped": pa.array([report.is_mapped], pa.bool_()),
            "expires_from_ms": pa.array([report.expires_from_ms], pa.int64()),
            "expires_ms": pa.array([report.expires_ms], pa.int64()),
            "error": pa.array([report.error and pickle.dumps(report.error)], pa.binary()),
        }
    )


def _report(row: Row) -> Report:
    fields: dict[str, Any] = row.asDict()
    error = fields.pop("error")
    return Report(**fields, error=pickle.loads(error) if error else None)  # noqa: S301 - our own task's


def _refuse_bad_rows(rows: DataFrame, spec: Spec) -> None:
    # Rows of an upsert are visible at once, so that what a snapshot finds while it writes must be
    # known before.
    count, size = F.count("*").alias("count"), F.max(F.octet_length("value")).alias("size")
    most = spec.limits.max_value_bytes or _MAX_BYTES
    bad_ttl = F.max(_bad_ttl(rows)).alias("bad_ttl")
    counted = rows.groupBy("key").agg(count, size, bad_ttl)
    is_bad = F.expr("key is null or count > 1 or bad_ttl is not null") | (F.col("size") > most)
    worst = counted.where(is_bad).limit(1)
    for bad in _collected(worst, spec.dataset):
        if bad["key"] is None:
            raise NullKeyError(spec.dataset, spec.key.columns, bad["count"])
        if bad["count"] > 1:
            raise DuplicateKeyError(spec.dataset, bad["key"], bad["count"])
        if bad["bad_ttl"] is not None:
            raise RowTtlError(spec.dataset, str(spec.ttl_column), bad["key"], bad["bad_ttl"])
        raise ValueTooLargeError(spec.dataset, bad["key"], bad["size"], most)


def _bad_ttl(rows: DataFrame) -> Column:
    """A lifetime in seconds that is none, else null."""
    type_ = dict(rows.dtypes).get("ttl", "timestamp")
    if type_ == "timestamp":
        return F.lit(None).cast("long")
    ttl = F.col("ttl").cast("long")
    return F.when(~ttl.between(1, MOST_SECONDS), ttl)


@contextmanager
def _aborted_on_error(publication: Publication) -> Iterator[None]:
    try:
        yield
    except BaseException:
        publication.abort()
        raise


@contextmanager
def _progress(publication: Publication, on_progress: OnProgress | None) -> Iterator[None]:
    """Renews the lease on the staging area while the job runs, and tells how far it is."""
    done, began_at = threading.Event(), time.monotonic()
    line = ProgressLine(f"{publication.spec.dataset} version {publication.version}", log.info)
    report = on_progress or line

    def watch() -> None:
        with publication.endpoint.client() as client:
            meter: Meter | None = None
            while not done.wait(1):
                try:
                    rows = run(client, publication.renewal())
                    meter = meter or Meter(expectation(client, publication.spec))
                    report(meter.note(max(rows, 0), time.monotonic() - began_at))
                except Exception as error:  # noqa: BLE001 - the lease must go on, whatever fails
                    log.warning("Progress of %s: %r", publication.spec.dataset, error)

    watcher = threading.Thread(target=watch, name="nexus-redis progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        line.close()


def _shares(df: DataFrame) -> int:
    # Some for each core, so that a share fits into the memory of a task, and the last ones to end
    # leave no core idle for long.
    context = getattr(df.sparkSession, "_sc", None)
    return 4 * context.defaultParallelism if context else 16


def _application(df: DataFrame) -> dict[str, str]:
    # Not there on Spark Connect.
    context = getattr(df.sparkSession, "_sc", None)
    return {"spark_application_id": context.applicationId} if context else {}
