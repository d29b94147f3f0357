"""`publish_table(...)`: an Arrow table becomes the live version of a Gold dataset, without Spark.

For results that fit into the memory of one process: one stream writes them. All is checked before
anything is sent, so a table that is refused leaves no trace on the server.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from nexus_redis_provider.core.durations import Duration
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    DuplicateKeyError,
    NullKeyError,
    TooFewRowsError,
)
from nexus_redis_provider.core.gold.arrow_columns import (
    Named,
    arrow_type,
    cast_column,
    manifest_type,
    type_names,
)
from nexus_redis_provider.core.gold.bucket_writers import BucketWriter
from nexus_redis_provider.core.gold.columns import (
    check_key_types,
    check_names,
    check_text,
    key_template,
    refused_column,
)
from nexus_redis_provider.core.gold.deltas import DeltaWriter
from nexus_redis_provider.core.gold.expiries import refuse_bad_ttls
from nexus_redis_provider.core.gold.limits import Limits
from nexus_redis_provider.core.gold.manifests import Layout, Manifest, Mode
from nexus_redis_provider.core.gold.packing import is_packed_natively, pack, packed_columns
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.row_commands import row_encoder
from nexus_redis_provider.core.gold.rows import encode_rows, json_texts
from nexus_redis_provider.core.gold.schemas import Column, ColumnType
from nexus_redis_provider.core.gold.specs import Report, Spec
from nexus_redis_provider.core.gold.writers import PartitionWriter
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE

Table: TypeAlias = pa.Table | pa.RecordBatchReader | Iterable[pa.RecordBatch]
_Encoded = tuple[Any, ...]
"""What the writer of a layout writes."""
_BATCH = 10_000


def publish_table(
    table: Table,
    dataset: str,
    *,
    key: str | Sequence[str],
    endpoint: Endpoint | str | None = None,
    mode: Mode | str = Mode.SNAPSHOT,
    layout: Layout | str = Layout.JSON,
    types: Mapping[str, str] | None = None,
    ttl: Duration | None = None,
    ttl_jitter: Duration | None = None,
    ttl_column: str | None = None,
    keep: int = 1,
    min_rows: int = 0,
    fence: int | None = None,
    lineage: Mapping[str, str] | None = None,
    namespace: str = DEFAULT_NAMESPACE,
    limits: Limits | None = None,
) -> Manifest:
    """Readers see all rows of the table, or what they saw before; never anything between.

    In `upsert` mode that holds for each row.

    Args:
        table: a table, a reader, batches of one schema, or whatever offers itself to Arrow
            (`__arrow_c_stream__`), as frames of pandas and polars do; exactly one row of each key.
        dataset: name of the dataset.
        key: key columns, or a template such as `analytics:{metric_name}:{date}`; in `upsert` mode
            a template is the row's whole Redis key.
        endpoint: an `Endpoint`, a Redis URL, or None for the environment's `NEXUS_REDIS_URL`.
        mode: `snapshot` (a new version), `delta` (likewise, by what has changed), `upsert` (rows
            replaced in place).
        layout: `json`, a JSON string per row; `hash`, a hash per row; `packed`, some rows a hash.
        types: of some columns, as a manifest names them (`{"price": "decimal(10,2)"}`), to cast
            them to; by default those of `arrow_columns`.
        ttl: seconds until the rows vanish; None keeps them.
        ttl_jitter: seconds by which rows vanish earlier, at most, each at a moment of its own, so
            that they are not all missed at once.
        ttl_column: that says when its row vanishes: a timestamp, or so many seconds from now; rows
            that have null there take the `ttl`, if there is one. Not for `packed`.
        keep: previous versions that stay readable.
        min_rows: fewer rows than these are refused, so that an empty source empties no cache.
        fence: fencing token of the lock that guards this publish.
        lineage: facts for the manifest.
        namespace: first part of the keys.
        limits: how fast to write, and what to refuse; None for the default ones.

    Returns:
        The manifest of the published version.

    Raises:
        ConfigurationError, SchemaError, NullKeyError, DuplicateKeyError, ValueTooLargeError,
            TooFewRowsError: refused before anything was sent.
        NoRoomError, WriteError: the server has no room for the rows, or refused some; readers see
            what they saw before.
        StaleFenceError: another holder of the lock has published.
        UnreachableError, AccessDeniedError: the server cannot be used.

    Cost: all rows as JSON in memory; one connection.
    Clock: server.
    """
    found = _table_of(table, dataset)
    template = key_template(key, dataset)
    check_names(found.column_names, template, dataset)
    columns, plain = _typed(found, types or {}, dataset)
    check_key_types(columns, template, dataset)
    spec = Spec(
        dataset=dataset,
        columns=columns,
        key=template,
        mode=Mode(mode),
        layout=Layout(layout),
        ttl=ttl,
        ttl_jitter=ttl_jitter,
        ttl_column=ttl_column,
        keep=keep,
        min_rows=min_rows,
        fence=fence,
        lineage=lineage or {},
        namespace=namespace,
        limits=limits or Limits(),
    )
    if plain.num_rows < min_rows:
        raise TooFewRowsError(dataset, plain.num_rows, min_rows)
    encode = partial(_packed, spec) if spec.layout is Layout.PACKED else row_encoder(spec)
    batches = [encode(batch) for batch in plain.to_batches(_BATCH)]
    _refuse_bad_keys([keys for keys, *_ in batches], spec)
    for keys, values, *others in batches:
        spec.limits.check_values(dataset, keys, values)
        if spec.ttl_column is not None:
            refuse_bad_ttls(spec, keys, others[-1])
    return _published(Endpoint.of(endpoint), spec, batches)


def _published(endpoint: Endpoint, spec: Spec, batches: Iterable[_Encoded]) -> Manifest:
    """The one place that knows how a publication is written."""
    publication = Publication.begin(endpoint, spec)
    try:
        write = _write_shares if spec.layout is Layout.PACKED else _write_rows
        return publication.commit(write(publication, batches))
    except BaseException:
        publication.abort()
        raise


def _write_rows(publication: Publication, batches: Iterable[_Encoded]) -> list[Report]:
    with PartitionWriter(publication, 0, "table") as writer:
        for batch in batches:
            writer.write(*batch)
        return [writer.finish()]


def _write_shares(publication: Publication, batches: Iterable[_Encoded]) -> list[Report]:
    shares, all_batches = publication.shares, list(batches)
    writer_of = DeltaWriter if publication.spec.mode is Mode.DELTA else BucketWriter
    reports = []
    for share in range(shares):
        with writer_of(publication, share, "table") as writer:
            for keys, values, hashes in all_batches:
                ours = hashes % shares == share
                mask = pa.array(ours)
                writer.write(keys.filter(mask), values.filter(mask), hashes[ours])
            reports.append(writer.finish())
    return reports


def _packed(spec: Spec, batch: pa.RecordBatch) -> _Encoded:
    import numpy as np

    columns, key = spec.columns, spec.key
    check_text(batch, columns, spec.dataset)
    parts = [column for column in columns if column.name in key.columns]
    keys, _, _ = encode_rows(batch.select([part.name for part in parts]), parts, key)
    others = packed_columns(columns, key)
    arrays = [_packable(batch.column(other.name), other.type) for other in others]
    crcs = map(zlib.crc32, pc.cast(pc.fill_null(keys, ""), pa.binary()).to_pylist())
    return keys, pack(others, arrays, len(batch)), np.fromiter(crcs, np.int64, len(batch))


def _packable(array: pa.Array, type_: ColumnType) -> pa.Array:
    if is_packed_natively(type_):
        return array
    return pc.if_else(array.is_valid(), json_texts(array, type_), pa.scalar(None, pa.string()))


def _table_of(table: Any, dataset: str) -> pa.Table:
    if isinstance(table, pa.Table):
        return table
    if hasattr(table, "__arrow_c_stream__"):
        return pa.table(table)
    batches = list(table) if isinstance(table, Iterable) else []
    if not batches or not all(isinstance(batch, pa.RecordBatch) for batch in batches):
        raise ConfigurationError(
            f"Gold dataset {dataset!r}: publish an Arrow table, or at least one record batch, not "
            f"{type(table).__name__}. An empty table says by its schema which columns there are."
        )
    try:
        return pa.Table.from_batches(batches)
    except pa.ArrowInvalid as error:
        raise ConfigurationError(f"Gold dataset {dataset!r}: {error}.") from None


def _typed(
    table: pa.Table, types: Mapping[str, str], dataset: str
) -> tuple[tuple[Column, ...], pa.Table]:
    """The columns of the manifest, and the table cast to what they say."""
    for name in types:
        if name not in table.column_names:
            what = f"has a type in `types`, but is not there; those are {table.column_names}"
            raise refused_column(dataset, name, what)
    columns, arrays = [], []
    for name, array in zip(table.column_names, table.columns, strict=True):
        type_, target = _chosen(array.type, types.get(name), dataset, name)
        columns.append(Column(name, type_))
        chunks = [cast_column(chunk, target, dataset, name) for chunk in array.chunks]
        arrays.append(pa.chunked_array(chunks, type=target))
    return tuple(columns), pa.Table.from_arrays(arrays, names=table.column_names)


def _chosen(given: pa.DataType, asked: str | None, dataset: str, name: str) -> Named:
    chosen = manifest_type(given) if asked is None else arrow_type(asked)
    if chosen is not None:
        return chosen
    if asked is not None:
        what = f"cannot be {asked!r}; the types are {type_names()}"
        raise refused_column(dataset, name, what)
    what = (
        f"has the Arrow type {given}, which rows cannot hold; make text of it, in SQL for example"
    )
    raise refused_column(dataset, name, what)


def _refuse_bad_keys(keys: Sequence[pa.StringArray], spec: Spec) -> None:
    names = pa.chunked_array(keys, pa.string())
    if names.null_count:
        raise NullKeyError(spec.dataset, spec.key.columns, names.null_count)
    counts = pc.value_counts(names)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        rows = pc.sum(repeated.field("counts")).as_py() - len(repeated)
        raise DuplicateKeyError(spec.dataset, repeated[0]["values"].as_py(), rows)
