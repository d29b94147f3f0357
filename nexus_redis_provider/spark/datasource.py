"""`format("nexus_redis")`: Gold datasets by Spark's own readers and writers, for SQL and notebooks.

`publish()` is faster, takes every type that rows can hold, and can upsert. Register with
`spark.dataSource.register(NexusRedisDataSource)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql.datasource import DataSource, DataSourceArrowWriter, WriterCommitMessage
from pyspark.sql.types import StructType

from nexus_redis_provider.core.errors import ConfigurationError, SchemaError
from nexus_redis_provider.core.gold.columns import key_template
from nexus_redis_provider.core.gold.limits import LIMITS, Limits
from nexus_redis_provider.core.gold.manifests import Layout, Manifest, Mode
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.row_commands import row_encoder
from nexus_redis_provider.core.gold.rows import is_writable
from nexus_redis_provider.core.gold.specs import Report, Spec
from nexus_redis_provider.spark.options import Options
from nexus_redis_provider.spark.reading import (
    FilteringGoldReader,
    GoldReader,
    frame_schema,
    pushes_filters,
    read_manifest,
)
from nexus_redis_provider.spark.schemas import checked_columns
from nexus_redis_provider.spark.streaming import StreamWriter
from nexus_redis_provider.spark.tasks import Batch, write_partition

if TYPE_CHECKING:
    from pyspark.sql.datasource import DataSourceReader, DataSourceStreamWriter, DataSourceWriter

_TTL = ("ttl", "ttl_jitter")
_WRITE = frozenset(
    {"key", "layout", *_TTL, "ttl_column", "keep", "min_rows", "fence", "lineage"}
    | {"staging_lease", *LIMITS}
)
# Spark hands over its own as well.
_STREAM = _WRITE | {"checkpointlocation", "queryname"}
_READ = frozenset({"version", "partitions"})
# No process watches over the staging area between the planning and the first rows.
_STAGING_LEASE = 86400.0


class NexusRedisDataSource(DataSource):
    """Reads the live version of a Gold dataset, and writes a frame as the new one.

    Options of both: `dataset`, and, if need be, `url` (by default the environment's
    `NEXUS_REDIS_URL`) and `namespace`.

    Writing needs `mode("overwrite")`. Options: `key` (columns separated by commas, or a template),
    and, if need be, `layout`, `ttl` and `ttl_jitter` (seconds), `ttl_column`, `keep`, `min_rows`,
    `fence`, `lineage` (a JSON object, all of it), `staging_lease` (seconds), `max_rows_per_second`,
    `max_writers`, `max_value_bytes`, `expected_rows`, `memory_margin`; as for `publish`.

    Reading: all tasks of a query read the version that was live when the query was planned. With
    `spark.sql.python.filterPushdown.enabled`, filters by `=` and `IN` on all key columns read the
    rows of those keys alone. Options: `version` (a kept one instead of the live one), `partitions`
    (at most so many tasks; by default one for each 100,000 rows).

    Streaming: in append mode the rows of a micro-batch are upserted, and `key` is a template of a
    row's whole Redis key; in complete mode each micro-batch becomes a new version. Either way each
    is applied once for its query and number, also when drivers are killed and batches run again,
    and what an older run still writes is refused. Rows of one key belong into one partition, where
    the last one wins. Spark knows no update mode of Python sources: use `foreachBatch` with
    `publish(df, ..., mode="upsert")`.

    There is no process that could renew the lease on the staging area before the first rows come,
    so it lasts a day: what a driver that dies has written stays for that long.

    Example:
        df.write.format("nexus_redis").option("dataset", "sales").option("key", "shop,day")
            .mode("overwrite").save()
        spark.read.format("nexus_redis").option("dataset", "sales").load()
        df.writeStream.format("nexus_redis").option("dataset", "sales")
            .option("key", "sales:{shop}").option("checkpointLocation", folder).start()
    """

    @classmethod
    def name(cls) -> str:
        """The name of the format."""
        return "nexus_redis"

    def writer(self, schema: StructType, overwrite: bool) -> DataSourceWriter:  # noqa: FBT001 - Spark's
        """Check everything and open a staging area; runs once, near the driver.

        Raises:
            ConfigurationError, SchemaError, StaleFenceError, UnreachableError, AccessDeniedError.
        """
        if not overwrite:
            raise ConfigurationError(
                'A frame becomes a new version of a Gold dataset: write with .mode("overwrite"). '
                'To replace rows in place, use publish(df, ..., mode="upsert").'
            )
        options = Options(self.options, _WRITE)
        return _Writer(Publication.begin(options.endpoint, _spec(schema, options)))

    def streamWriter(self, schema: StructType, overwrite: bool) -> DataSourceStreamWriter:  # noqa: FBT001, N802 - Spark's
        """Check everything; runs near the driver, for every micro-batch and for its commit.

        Raises:
            ConfigurationError, SchemaError, UnreachableError, AccessDeniedError.
        """
        options = Options(self.options, _STREAM)
        mode = Mode.SNAPSHOT if overwrite else Mode.UPSERT
        if mode is Mode.UPSERT and "{" not in options.required("key"):
            raise ConfigurationError(
                "In append mode the option 'key' is a template of a row's whole Redis key, such as "
                f"'sales:{{shop}}', not {options.required('key')!r}."
            )
        return StreamWriter(options.endpoint, _spec(schema, options, mode))

    def schema(self) -> StructType:
        """All columns of the live version, or of the one named by the option `version`.

        Raises:
            ConfigurationError, NotPublishedError, UnreachableError, AccessDeniedError.
        """
        return frame_schema(self._manifest(Options(self.options, _READ)))

    def reader(self, schema: StructType) -> DataSourceReader:
        """Choose the version that all tasks of a query read; runs once per query, near the driver.

        Raises:
            SchemaError: the version has not the columns that the frame was loaded with.
            ConfigurationError, NotPublishedError, UnreachableError, AccessDeniedError.
        """
        options = Options(self.options, _READ)
        partitions = options.number("partitions", int)
        if partitions is not None and partitions < 1:
            raise ConfigurationError(f"partitions is a positive number, not {partitions}.")
        kind = FilteringGoldReader if pushes_filters() else GoldReader
        return kind(options.endpoint, options.keys, self._manifest(options), schema, partitions)

    def _manifest(self, options: Options) -> Manifest:
        return read_manifest(options.endpoint, options.keys, self.options.get("version"))


def _spec(schema: StructType, options: Options, mode: Mode = Mode.SNAPSHOT) -> Spec:
    dataset, key = options.required("dataset"), options.required("key")
    names = [name.strip() for name in key.split(",")]
    template = key_template(key if "{" in key else names, dataset)
    columns = checked_columns(schema, template, dataset)
    for column in columns:
        if not is_writable(column.type):
            raise SchemaError(
                f"Gold dataset {dataset!r}: column {column.name!r} is or holds a "
                'calendar or year-month interval, which format("nexus_redis") cannot write; use '
                "publish(df, ...).",
                dataset,
                column.name,
            )
    layout = Layout(options.text("layout", Layout.JSON))
    if layout is Layout.PACKED:
        raise ConfigurationError(
            "layout='packed' needs rows dealt by their keys, which a writer cannot ask Spark "
            "for; use publish(df, ...)."
        )
    return Spec(
        dataset=dataset,
        columns=columns,
        key=template,
        mode=mode,
        layout=layout,
        **{name: options.number(name, float) for name in _TTL},
        ttl_column=options.text("ttl_column", "") or None,
        keep=options.number("keep", int, 1),
        min_rows=options.number("min_rows", int, 0),
        lineage=options.facts("lineage"),
        fence=options.number("fence", int),
        namespace=options.namespace,
        staging_lease=options.number("staging_lease", float, _STAGING_LEASE),
        limits=_limits(options),
    )


def _limits(options: Options) -> Limits:
    default = Limits()
    return Limits(
        **{
            name: options.number(name, kind, getattr(default, name))
            for name, kind in LIMITS.items()
        }
    )


@dataclass
class _Written(WriterCommitMessage):
    report: Report


class _Writer(DataSourceArrowWriter):
    """Travels to the executors and back to a process near the driver, pickled each time."""

    def __init__(self, publication: Publication) -> None:
        self._publication = publication

    def write(self, iterator: Iterator[pa.RecordBatch]) -> WriterCommitMessage:
        return _Written(write_partition(self._publication, map(self._encode, iterator)))

    def commit(self, messages: Sequence[WriterCommitMessage | None]) -> None:
        written: Any = messages
        self._publication.commit([message.report for message in written])

    def abort(self, messages: Sequence[WriterCommitMessage | None]) -> None:
        # Also called when commit raised; a version that was published is no longer staged, and
        # aborting it does nothing.
        self._publication.abort()

    def _encode(self, batch: pa.RecordBatch) -> Batch:
        spec = self._publication.spec
        return row_encoder(spec)(batch)
