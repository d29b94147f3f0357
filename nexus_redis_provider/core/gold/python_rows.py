"""Rows of Python values, as a database driver or a task hands them over, as an Arrow table.

The type of a column is that of its values: all of one Python type, or whole numbers among floats
or decimals. Anything else is refused, for a guess would be wrong in silence one day: Arrow itself
takes the first value's type, and drops the time of what comes after a date. A column of nulls alone
is text. Precision and scale of decimals are the least that hold all values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, time
from decimal import Decimal
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.gold.arrow_columns import cast_column
from nexus_redis_provider.core.gold.columns import refused_column

_CHUNK = 10_000
_TOGETHER = ({int, float}, {int, Decimal})
_LISTS = {list, tuple, set, frozenset}
# A decimal that is infinite is a TypeError of pyarrow's.
_FAILED = (pa.ArrowException, OverflowError, TypeError, UnicodeEncodeError)


def table_of_rows(
    names: Sequence[str], chunks: Iterable[Sequence[Sequence[Any]]], dataset: str
) -> pa.Table:
    """The table of rows that come in chunks, each row with its values in the order of the columns.

    Raises:
        SchemaError: names the column whose values are of no type or of several.
    """
    columns: list[list[pa.Array]] = [[] for _ in names]
    for chunk in filter(None, chunks):
        for name, column, values in zip(names, columns, zip(*chunk, strict=True), strict=True):
            column.append(_array(values, dataset, name))
    arrays = [_joined(parts, dataset, name) for name, parts in zip(names, columns, strict=True)]
    return pa.Table.from_arrays(arrays, names=list(names))


def table_of_mappings(rows: Iterable[Mapping[str, Any]], dataset: str) -> pa.Table:
    """The table of rows that name their values. What a row does not name is null in it.

    Raises:
        ConfigurationError: something is not a mapping, or not by text.
        SchemaError: as `table_of_rows`.
    """
    rows = list(rows)
    for row in rows:
        if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
            raise ConfigurationError(
                f"Gold dataset {dataset!r}: a row is a dict of values by column, not {row!r:.100}."
            )
    names = list(dict.fromkeys(chain.from_iterable(rows)))
    values = ([row.get(name) for name in names] for row in rows)
    return table_of_rows(names, _chunks(values), dataset)


def _chunks(rows: Iterator[list[Any]]) -> Iterator[list[list[Any]]]:
    while chunk := list(islice(rows, _CHUNK)):
        yield chunk


def _array(values: Sequence[Any], dataset: str, name: str) -> pa.Array:
    _check_kinds(values, dataset, name)
    try:
        return pa.array(values)
    except _FAILED as error:
        what = f"has values that no column can hold: {str(error).rstrip('.')}"
        raise refused_column(dataset, name, what) from None


def _check_kinds(values: Iterable[Any], dataset: str, name: str) -> None:
    """See that values, and what is in them, are of one type."""
    given = [value for value in values if value is not None]
    kinds = set(map(type, given))
    if len(kinds) > 1 and kinds not in _TOGETHER:
        raise _mixed(dataset, name, {kind.__name__ for kind in kinds})
    if kinds == {datetime} and len({value.tzinfo is None for value in given}) > 1:
        raise _mixed(dataset, name, {"times with a zone", "times without"})
    if kinds == {time} and any(value.tzinfo for value in given):
        what = "has times of day with a zone, which no column can hold; make text of them"
        raise refused_column(dataset, name, what)
    if kinds and kinds <= _LISTS:
        _check_kinds(chain.from_iterable(given), dataset, f"{name}[]")
    if kinds == {dict}:
        for field in dict.fromkeys(chain.from_iterable(given)):
            _check_kinds((value.get(field) for value in given), dataset, f"{name}.{field}")


def _joined(parts: Sequence[pa.Array], dataset: str, name: str) -> pa.ChunkedArray:
    types = {part.type for part in parts} - {pa.null()}
    target = types.pop() if len(types) == 1 else _common_type(types, dataset, name)
    casts = [cast_column(part, target, dataset, name) for part in parts]
    return pa.chunked_array(casts, type=target)


def _common_type(types: set[pa.DataType], dataset: str, name: str) -> pa.DataType:
    if not types:
        return pa.null()
    if types == {pa.int64(), pa.float64()}:
        return pa.float64()
    if all(map(pa.types.is_timestamp, types)) and all(type_.tz for type_ in types):
        return pa.timestamp("us", "UTC")
    decimals = [type_ for type_ in types if pa.types.is_decimal(type_)]
    if len(decimals) < len(types - {pa.int64()}):
        raise _mixed(dataset, name, set(map(str, types)))
    whole = max(type_.precision - type_.scale for type_ in decimals)
    scale = max(type_.scale for type_ in decimals)
    # The whole numbers among them may have as many digits as there is room for.
    precision = 38 if pa.int64() in types else whole + scale
    if precision > 38:
        what = f"has decimals of {whole} digits before and {scale} after the point; cast them"
        raise refused_column(dataset, name, what)
    return pa.decimal128(precision, scale)


def _mixed(dataset: str, name: str, kinds: set[str]) -> Exception:
    what = f"has values of different types: {' and '.join(sorted(kinds))}; cast it to one of them"
    return refused_column(dataset, name, what)
