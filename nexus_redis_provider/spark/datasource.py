"""`df.write.format("nexus_redis")`: publishing by Spark's own writer, for SQL and notebooks.

`publish()` is faster, takes every type that rows can hold, and can upsert. Register with
`spark.dataSource.register(NexusRedisDataSource)`.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql.datasource import DataSource, DataSourceArrowWriter, WriterCommitMessage
from pyspark.sql.types import StructType

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ConfigurationError, SchemaError
from nexus_redis_provider.core.gold.manifests import Layout
from nexus_redis_provider.core.gold.publications import Publication, Report, Spec
from nexus_redis_provider.core.gold.rows import encode_rows, is_flat
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE
from nexus_redis_provider.spark.schemas import checked_columns, key_template
from nexus_redis_provider.spark.tasks import Batch, write_partition

if TYPE_CHECKING:
    from pyspark.sql.datasource import DataSourceWriter

_OPTIONS = frozenset(
    {"dataset", "key", "url", "layout", "ttl", "keep", "fence", "namespace", "staging_lease"}
)
# No process watches over the staging area between the planning and the first rows.
_STAGING_LEASE = 86400.0


class NexusRedisDataSource(DataSource):
    """Writes a frame as the new live version of a Gold dataset; needs `mode("overwrite")`.

    Options: `dataset`, `key` (columns separated by commas, or a template), and, if need be, `url`
    (by default the environment's `NEXUS_REDIS_URL`), `layout`, `ttl` (seconds), `keep`, `fence`,
    `namespace`, `staging_lease` (seconds); as for `publish`.

    There is no process that could renew the lease on the staging area before the first rows come,
    so it lasts a day: what a driver that dies has written stays for that long.

    Example:
        df.write.format("nexus_redis").option("dataset", "sales").option("key", "shop,day")
            .mode("overwrite").save()
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
        endpoint = Endpoint.of(self.options.get("url"))
        pickle.dumps(endpoint)  # A literal password is refused before anything was sent.
        return _Writer(Publication.begin(endpoint, self._spec(schema)))

    def _spec(self, schema: StructType) -> Spec:
        # Spark hands over the options in lower case.
        unknown = sorted(set(self.options) - _OPTIONS)
        if unknown:
            raise ConfigurationError(f"Unknown option(s) of nexus_redis: {', '.join(unknown)}.")
        dataset, key = self._required("dataset"), self._required("key")
        names = [name.strip() for name in key.split(",")]
        template = key_template(key if "{" in key else names, dataset)
        columns = checked_columns(schema, template, dataset)
        for column in columns:
            if not is_flat(column.type):
                raise SchemaError(
                    f"Gold dataset {dataset!r}: column {column.name!r} is nested or binary, which "
                    'format("nexus_redis") cannot write; use publish(df, ...).',
                    dataset,
                    column.name,
                )
        return Spec(
            dataset=dataset,
            columns=columns,
            key=template,
            layout=Layout(self.options.get("layout", Layout.JSON)),
            ttl=self._number("ttl", float),
            keep=self._number("keep", int, 1),
            fence=self._number("fence", int),
            namespace=self.options.get("namespace", DEFAULT_NAMESPACE),
            staging_lease=self._number("staging_lease", float, _STAGING_LEASE),
        )

    def _required(self, option: str) -> str:
        value = self.options.get(option)
        if not value:
            raise ConfigurationError(
                f'Option {option!r} of nexus_redis is missing: .option("{option}", ...).'
            )
        return value

    def _number(self, option: str, kind: type[int | float], default: Any = None) -> Any:
        if option not in self.options:
            return default
        try:
            return kind(self.options[option])
        except ValueError:
            what = "whole number" if kind is int else "number"
            raise ConfigurationError(
                f"Option {option!r} of nexus_redis must be a {what}, not {self.options[option]!r}."
            ) from None


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
        return encode_rows(batch, self._publication.spec.columns, self._publication.spec.key)
