"""Packed rows as Arrow arrays: what `packing.unpacker` does, for a whole column at a time.

No row is looked at by itself. The bytes of a column are cut out of all rows at once; those of fixed
width are then the memory of its array, and texts lie in it end to end. Values that are packed as
JSON become Python values in between.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from nexus_redis_provider.core.gold.arrays import array_of
from nexus_redis_provider.core.gold.packing import (
    LONG,
    fixed_format,
    is_packed_natively,
    nulls_size,
    text_decoder,
)
from nexus_redis_provider.core.gold.schemas import Column

_Numbers: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
_Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
_Bools: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
Unpacker = Callable[[Sequence[bytes]], dict[str, pa.Array]]
_DECIMAL = 16
"""Bytes of an Arrow decimal."""


def array_unpacker(columns: Sequence[Column], wanted: Mapping[str, pa.DataType]) -> Unpacker:
    """A function from packed rows to arrays of some of their columns, by name.

    Args:
        columns: all that were packed.
        wanted: of which arrays are made, with Spark's Arrow types for theirs.
    """
    head = nulls_size(columns)
    fixed: list[tuple[int, Column, int, int]] = []
    variable: list[tuple[int, Column]] = []
    for place, column in enumerate(columns):
        if (kind := fixed_format(column.type)) is None:
            variable.append((place, column))
        else:
            width = struct.calcsize(f"<{kind[0]}")
            fixed.append((place, column, head, head + width))
            head += width

    def unpack(rows: Sequence[bytes]) -> dict[str, pa.Array]:
        data = pa.py_buffer(b"".join(rows))
        ends = np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)))
        starts = ends - np.diff(ends, prepend=0)
        at = _within(starts + head, ends)
        heads = _bytes_of(_cut(data, starts, at), len(rows))
        arrays = {}
        for place, column, begin, end in fixed:
            if column.name in wanted:
                nulls = _nulls(heads, place)
                arrays[column.name] = _fixed_array(heads[:, begin:end], nulls, wanted[column.name])
        for place, column in variable:
            nulls = _nulls(heads, place)
            begins, at = _texts(data, at, ends, nulls)
            if column.name in wanted:
                texts = _cut(data, begins, at, nulls)
                arrays[column.name] = _text_array(texts, column, wanted[column.name])
        return arrays

    return unpack


def _within(at: _Numbers, ends: _Numbers) -> _Numbers:
    """The places themselves, none of which is behind the end of its row.

    Raises:
        ValueError: one is.
    """
    if np.any(at > ends):
        raise ValueError("A packed row ends before its last column; it is not of this format.")
    return at


def _cut(
    data: pa.Buffer, begins: _Numbers, ends: _Numbers, nulls: _Bools | None = None
) -> pa.LargeBinaryArray:
    """The bytes from place to place, which rise; null where said."""
    # Every second one of what lies between neighbouring places.
    places = np.column_stack((begins, ends)).ravel()
    pieces = pa.Array.from_buffers(
        pa.large_binary(), max(0, len(places) - 1), [None, pa.py_buffer(places), data]
    )
    return pieces.take(pa.array(np.arange(0, len(places), 2), mask=nulls))


def _bytes_of(pieces: pa.LargeBinaryArray, rows: int) -> _Bytes:
    """The bytes of pieces that have the same length, a row for each."""
    return np.frombuffer(pieces.buffers()[2], np.uint8).reshape(rows, -1)


def _nulls(heads: _Bytes, place: int) -> _Bools | None:
    """Which values of a column are null; None for none."""
    nulls = heads[:, place // 8] >> np.uint8(place % 8) & 1 == 1
    return nulls if nulls.any() else None


def _fixed_array(values: _Bytes, nulls: _Bools | None, type_: pa.DataType) -> pa.Array:
    if pa.types.is_boolean(type_):
        return pa.array(values[:, 0] != 0, mask=nulls)
    if pa.types.is_decimal(type_) and values.shape[1] < _DECIMAL:
        signs = np.where(values[:, -1:] >> 7 == 1, np.uint8(255), np.uint8(0))
        values = np.hstack((values, np.repeat(signs, _DECIMAL - values.shape[1], axis=1)))
    valid = None if nulls is None else pa.py_buffer(np.packbits(~nulls, bitorder="little"))
    memory = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(type_, len(values), [valid, memory])


def _texts(
    data: pa.Buffer, at: _Numbers, ends: _Numbers, nulls: _Bools | None
) -> tuple[_Numbers, _Numbers]:
    """Where the values of a variable column begin and end; a null takes no place."""
    octets = np.frombuffer(data, np.uint8)
    present = np.ones(len(at), bool) if nulls is None else ~nulls
    begins = _within(at + present, ends)
    lengths = np.zeros(len(at), np.int64)
    lengths[present] = octets[at[present]]
    long = np.flatnonzero(lengths == LONG)
    if len(long):
        begins[long] += 4
        _within(begins, ends)
        sizes = octets[begins[long, None] + np.arange(-4, 0)]
        lengths[long] = np.ascontiguousarray(sizes).view("<u4")[:, 0]
    return begins, _within(begins + lengths, ends)


def _text_array(texts: pa.LargeBinaryArray, column: Column, type_: pa.DataType) -> pa.Array:
    if is_packed_natively(column.type):
        return texts.cast(pa.binary()).cast(type_)
    decode = text_decoder(column.type)
    values = [None if text is None else decode(text) for text in texts.to_pylist()]
    return array_of(values, column.type, type_)
