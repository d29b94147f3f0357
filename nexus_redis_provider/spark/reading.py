"""`spark.read.format("nexus_redis")`: the live version of a Gold dataset as a frame.

The version is chosen when Spark plans the query, so that all of its tasks read the same one. Rows
become Arrow batches by whole lists of them; with filters on all key columns only their rows are
read.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime
from math import ceil, prod
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
from pyspark.sql.datasource import DataSourceReader, EqualNullSafe, EqualTo, In, InputPartition, Not
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import NotPublishedError, SchemaError
from nexus_redis_provider.core.gold.arrays import array_of
from nexus_redis_provider.core.gold.hashes import field_decoder
from nexus_redis_provider.core.gold.key_arrays import key_reader
from nexus_redis_provider.core.gold.layouts import version_of
from nexus_redis_provider.core.gold.manifests import Layout, Manifest
from nexus_redis_provider.core.gold.packing import packed_columns
from nexus_redis_provider.core.gold.parts import (
    Part,
    kept_manifest,
    plan_keys,
    plan_parts,
    read_part,
)
from nexus_redis_provider.core.gold.readers import live_manifest
from nexus_redis_provider.core.gold.rows import is_writable
from nexus_redis_provider.core.gold.schemas import ColumnType
from nexus_redis_provider.core.gold.templates import KeyTemplate
from nexus_redis_provider.core.gold.unpacking import array_unpacker
from nexus_redis_provider.core.gold.versions import Stored, Version
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.core.scripts import run

if TYPE_CHECKING:
    from pyspark.sql.datasource import Filter

_Row = tuple[bytes, Stored]
_BatchDecoder = Callable[[Sequence[_Row]], Iterator[pa.RecordBatch]]
_ROWS_PER_PARTITION = 100_000
_MAX_KEYS = 10_000
_FEW_ROWS = 50
_KEY_VALUES: dict[str, type] = {
    **dict.fromkeys(("byte", "short", "integer", "long"), int),
    "string": str,
    "boolean": bool,
    "date": date,
}


def read_manifest(endpoint: Endpoint, keys: GoldKeys, version: str | None = None) -> Manifest:
    """The facts of the live version, or of one that is kept.

    Raises:
        NotPublishedError: there is none.
    """
    with endpoint.client() as client:
        if version is not None:
            return kept_manifest(client, keys, version)
        live = run(client, live_manifest(keys.dataset, namespace=keys.namespace))
    if live is None:
        raise NotPublishedError(keys.dataset)
    return live


def frame_schema(manifest: Manifest) -> StructType:
    """The schema of a frame with all columns of a version.

    Raises:
        SchemaError: names the column of a type that Spark takes from no Python source.
    """
    for column in manifest.columns:
        if not is_writable(column.type):
            raise SchemaError(
                f"Gold dataset {manifest.dataset!r}: column {column.name!r} is or holds a calendar "
                "or year-month interval, which Spark takes from no Python source. Name the other "
                "columns by .schema(...).",
                manifest.dataset,
                column.name,
            )
    fields = [
        {"name": column.name, "type": column.type, "nullable": True, "metadata": {}}
        for column in manifest.columns
    ]
    return StructType.fromJson({"type": "struct", "fields": fields})


@dataclass
class _Partition(InputPartition):
    part: Part


class GoldReader(DataSourceReader):
    """Reads one version; travels to the executors."""

    def __init__(
        self,
        endpoint: Endpoint,
        keys: GoldKeys,
        manifest: Manifest,
        schema: StructType,
        partitions: int | None,
    ) -> None:
        """Plan to read the columns of a schema.

        Raises:
            SchemaError: names the column that the version has not, or not of this type.
        """
        self._endpoint, self._keys, self._manifest = endpoint, keys, manifest
        self._schema = schema
        self._count = partitions or max(1, ceil(manifest.rows / _ROWS_PER_PARTITION))
        self._names: list[str] | None = None
        types = {column.name: column.type for column in manifest.columns}
        for field in schema.fields:
            asked, has = field.dataType.jsonValue(), types.get(field.name)
            if asked != has:
                what = "has no such column" if has is None else f"has it as {has}, not as {asked}"
                raise SchemaError(
                    f"Gold dataset {keys.dataset!r}: column {field.name!r}: version "
                    f"{manifest.version!r} {what}. Load the frame again, without a schema.",
                    keys.dataset,
                    field.name,
                )

    def partitions(self) -> Sequence[InputPartition]:
        if self._names is not None:
            parts = plan_keys(self._names, self._count)
        else:
            with self._endpoint.client() as client:
                parts = plan_parts(client, self._keys, self._manifest, self._count)
        # Where there is none, Spark makes one of its own.
        return [_Partition(part) for part in parts or [Part()]]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        assert isinstance(partition, _Partition)  # noqa: S101 - for mypy; Spark hands back ours
        manifest = _narrowed(self._manifest, self._schema)
        decode = _batch_decoder(version_of(self._keys, manifest), self._schema)
        with self._endpoint.client() as client:
            for rows in read_part(client, self._keys, manifest, partition.part):
                if rows:
                    yield from decode(rows)


class FilteringGoldReader(GoldReader):
    """Reads rows by key, where filters name them."""

    def pushFilters(self, filters: list[Filter]) -> Iterable[Filter]:  # noqa: N802 - Spark's
        template = KeyTemplate.parse(self._manifest.key)
        types = {column.name: column.type for column in self._manifest.columns}
        chosen: dict[str, set[Any]] = {}
        used: list[Filter] = []
        for one in filters:
            found = _values(one, types)
            if found is not None and found[0] in template.columns:
                column, values = found
                chosen[column] = chosen[column] & values if column in chosen else values
                used.append(one)
        if len(chosen) < len(template.columns) or prod(map(len, chosen.values())) > _MAX_KEYS:
            return filters
        keys = itertools.product(*(chosen[column] for column in template.columns))
        self._names = sorted(template.render(key) for key in keys)
        return [one for one in filters if not any(one is each for each in used)]


def pushes_filters() -> bool:
    """Whether Spark asks for a reader that takes filters.

    Spark refuses such a reader while `spark.sql.python.filterPushdown.enabled` is false, and tells
    a data source nothing of it; but it pushes filters from a worker of its own kind.
    """
    return "pyspark.sql.worker.data_source_pushdown_filters" in sys.modules


def _values(one: Filter, types: Mapping[str, ColumnType]) -> tuple[str, set[Any]] | None:
    """The column and the values that a filter allows, if it can be answered by keys."""
    match one:
        case EqualTo(attribute=(column,), value=value):
            values = {value}
        case EqualNullSafe(attribute=(column,), value=value) if value is not None:
            values = {value}
        case Not(child=EqualTo(attribute=(column,), value=bool(value))):
            values = {not value}  # Null is no answer to either, and no key is null.
        case In(attribute=(column,), value=found):
            values = set(found)
        case _:
            return None
    values.discard(None)  # No key is null, and nothing equals null.
    type_ = types.get(column)
    kind = _KEY_VALUES.get(type_) if isinstance(type_, str) else None
    if kind is None or not all(_is_a(value, kind) for value in values):
        return None
    return column, values


def _is_a(value: object, kind: type) -> bool:
    # A bool is an int, and a datetime a date, in Python but not in Spark.
    odd = bool if kind is int else datetime
    return isinstance(value, kind) and not isinstance(value, odd)


def _narrowed(manifest: Manifest, schema: StructType) -> Manifest:
    """The manifest of what is read; of a hash, the fields that are asked for are sent alone."""
    if manifest.layout is not Layout.HASH:
        return manifest
    wanted = {*schema.names, *KeyTemplate.parse(manifest.key).columns}
    columns = tuple(column for column in manifest.columns if column.name in wanted)
    return replace(manifest, columns=columns)


def _batch_decoder(version: Version, schema: StructType) -> _BatchDecoder:
    """A function from rows to Arrow batches of the columns of a schema."""
    wanted = to_arrow_schema(schema, timezone="UTC")
    types = {column.name: column.type for column in version.manifest.columns}

    if version.manifest.layout is Layout.HASH:
        return _fields_decoder(version.manifest, wanted)
    if version.manifest.layout is Layout.PACKED:
        return _packed_decoder(version.manifest, wanted)

    def by_values(rows: Sequence[_Row]) -> pa.RecordBatch:
        values = version.rows(*zip(*rows, strict=True))
        arrays = [
            array_of([row[field.name] for row in values], types[field.name], field.type)
            for field in wanted
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=wanted)

    parsed = [_parsed_as(field.type) for field in wanted]
    if not parsed or None in parsed:
        return lambda rows: iter((by_values(rows),))
    explicit = pa.schema(list(zip(wanted.names, parsed, strict=True)))

    def by_columns(rows: Sequence[_Row]) -> pa.RecordBatch:
        text = b"\n".join([value for _, value in rows])
        table = pj.read_json(
            pa.BufferReader(text),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(text) + 1),
            parse_options=pj.ParseOptions(
                explicit_schema=explicit, unexpected_field_behavior="ignore"
            ),
        )
        return _batch(table.select(wanted.names).columns, wanted)

    def either(rows: Sequence[_Row]) -> Iterator[pa.RecordBatch]:
        try:
            yield by_columns(rows)
        except pa.ArrowInvalid:  # NaN, which is text in JSON; a year with five digits
            if len(rows) <= _FEW_ROWS:
                yield by_values(rows)
            else:
                half = len(rows) // 2
                yield from either(rows[:half])
                yield from either(rows[half:])

    return either


def _packed_decoder(manifest: Manifest, wanted: pa.Schema) -> _BatchDecoder:
    """The same of packed rows: by columns, those of the key by its text."""
    template = KeyTemplate.parse(manifest.key)
    types = {column.name: column.type for column in manifest.columns}
    fields = {field.name: field.type for field in wanted}
    keys = key_reader(template, types, fields)
    unpack = array_unpacker(packed_columns(manifest.columns, template), fields)

    def decode(rows: Sequence[_Row]) -> Iterator[pa.RecordBatch]:
        arrays = keys([name for name, _ in rows]) | unpack([value for _, value in rows])
        yield pa.RecordBatch.from_arrays([arrays[name] for name in wanted.names], schema=wanted)

    return decode


def _fields_decoder(manifest: Manifest, wanted: pa.Schema) -> _BatchDecoder:
    """The same of rows that are hashes: by columns, each by itself."""
    places = {column.name: place for place, column in enumerate(manifest.columns)}

    def decode(rows: Sequence[_Row]) -> Iterator[pa.RecordBatch]:
        arrays = []
        for field in wanted:
            place = places[field.name]
            values = [fields[place] for _, fields in rows]
            arrays.append(_field_array(values, manifest.columns[place].type, field.type))
        yield pa.RecordBatch.from_arrays(arrays, schema=wanted)

    return decode


def _field_array(
    fields: Sequence[bytes | None], type_: ColumnType, arrow_type: pa.DataType
) -> pa.Array:
    array = pa.array(fields, pa.binary())
    if pa.types.is_binary(arrow_type):
        return array
    if not pa.types.is_nested(arrow_type):
        # A year with five digits, or a type for which Arrow does not know the way, is for Python.
        with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return pc.cast(pc.cast(array, pa.string()), arrow_type)
    decode = field_decoder(type_)
    values = [None if field is None else decode(field) for field in fields]
    return array_of(values, type_, arrow_type)


def _batch(columns: Sequence[pa.ChunkedArray], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [
        pc.cast(column.combine_chunks(), field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _parsed_as(type_: pa.DataType) -> pa.DataType | None:
    """What Arrow's JSON reader can make that casts to a type; None where there is nothing."""
    if pa.types.is_date(type_) or pa.types.is_timestamp(type_):
        return pa.string()
    if pa.types.is_list(type_):
        item = _parsed_as(type_.value_type)
        return type_ if item == type_.value_type else None
    if pa.types.is_struct(type_):
        fields = [type_.field(at) for at in range(type_.num_fields)]
        return type_ if all(_parsed_as(one.type) == one.type for one in fields) else None
    flat = (
        pa.types.is_boolean,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_decimal,
        pa.types.is_string,
    )
    return type_ if any(fits(type_) for fits in flat) else None
