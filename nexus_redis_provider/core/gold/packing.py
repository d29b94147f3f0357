"""Packed rows: values without names, in binary, for `packed` datasets. Format 1.

A row is `nulls fixed variable`, all numbers little-endian, columns in the order of the manifest
without those of the key, which stand in the row's key:

- `nulls`: a bit per column, lowest first, in whole bytes, at least one; 1 where the value is null.
- `fixed`: columns of fixed width, zeros where null. `boolean` and `byte` 1 byte, `short` 2,
  `integer`, `float` and `date` (days since 1970) 4, `long`, `double`, `timestamp` and
  `timestamp_ntz` (microseconds since 1970) 8, `decimal` the unscaled number, 8 bytes up to 18
  digits, else 16.
- `variable`: each other column that is not null: its length, one byte, or 255 and four bytes; then
  its bytes. `string` is UTF-8, `binary` is itself, any other type is its JSON (see `schemas`).

Packing is vectorised and needs pyarrow and numpy, as unpacking to Arrow does (see `unpacking`);
unpacking to Python values needs neither.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from decimal import Context, Decimal
from functools import partial, reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from nexus_redis_provider.core.gold.calendars import date_of, timestamp_of
from nexus_redis_provider.core.gold.schemas import Column, ColumnType, value_decoder
from nexus_redis_provider.core.gold.templates import KeyTemplate

if TYPE_CHECKING:
    import pyarrow as pa

PACKING = 1
"""The version of the format, as a manifest has it."""
LONG = 255
"""The first byte of a length that takes four more."""
_EXACT = Context(prec=38)
_TEXTS = frozenset({"string", "binary"})

_FIXED: dict[str, tuple[str, Callable[[Any], Any] | None]] = {
    "boolean": ("?", None),
    "byte": ("b", None),
    "short": ("h", None),
    "integer": ("i", None),
    "long": ("q", None),
    "float": ("f", None),
    "double": ("d", None),
    "date": ("i", date_of),
    "timestamp": ("q", partial(timestamp_of, utc=True)),
    "timestamp_ntz": ("q", partial(timestamp_of, utc=False)),
}
Unpacker = Callable[[Sequence[bytes]], list[Sequence[Any]]]


def packed_columns(columns: Sequence[Column], template: KeyTemplate) -> tuple[Column, ...]:
    """The columns that are packed: all but those of the key."""
    return tuple(column for column in columns if column.name not in template.columns)


def nulls_size(columns: Sequence[Column]) -> int:
    """Bytes that tell which values of a row are null."""
    # No row is empty: that stands for one that vanished.
    return max(1, (len(columns) + 7) // 8)


def is_packed_natively(type_: ColumnType) -> bool:
    """Whether columns of this type are packed as they are, and not as JSON text."""
    return isinstance(type_, str) and (type_ in _TEXTS or fixed_format(type_) is not None)


def fixed_format(type_: ColumnType) -> tuple[str, Callable[[Any], Any] | None] | None:
    """The `struct` format of a type of fixed width, and what makes a Python value of it."""
    if not isinstance(type_, str) or not type_.startswith("decimal("):
        return _FIXED.get(type_) if isinstance(type_, str) else None
    precision, scale = map(int, type_[len("decimal(") : -1].split(","))
    if precision <= 18:
        return "q", lambda number: Decimal(number).scaleb(-scale, _EXACT)
    return "16s", lambda data: Decimal(int.from_bytes(data, "little", signed=True)).scaleb(
        -scale, _EXACT
    )


def unpacker(columns: Sequence[Column]) -> Unpacker:
    """A function from packed rows to the values of each column, in the order of the rows.

    Args:
        columns: those that were packed.
    """
    head = nulls_size(columns)
    kinds = [(place, kind) for place, one in enumerate(columns) if (kind := fixed_format(one.type))]
    record = struct.Struct(f"<{head}s" + "".join(code for _, (code, _) in kinds))
    makers = [(place, make) for place, (_, make) in kinds]
    variable = [
        (place, text_decoder(one.type))
        for place, one in enumerate(columns)
        if fixed_format(one.type) is None
    ]
    count, nothing = len(columns), bytes(head)

    def unpack(rows: Sequence[bytes]) -> list[Sequence[Any]]:
        bits, *fixed = zip(*map(record.unpack_from, rows), strict=True)
        has_nulls = bits.count(nothing) < len(rows)
        nulls = [int.from_bytes(one, "little") for one in bits] if has_nulls else [0] * len(rows)
        some = reduce(or_, nulls) if has_nulls else 0
        values: list[Sequence[Any]] = [()] * count
        for (place, make), numbers in zip(makers, fixed, strict=True):
            found = numbers if make is None else list(map(make, numbers))
            values[place] = _without(found, nulls, place) if some >> place & 1 else found
        ends = [record.size] * len(rows) if variable else []
        for place, decode in variable:
            texts = _texts(rows, ends, nulls, place)
            values[place] = [None if text is None else decode(text) for text in texts]
        return values

    return unpack


def _without(values: Sequence[Any], nulls: Sequence[int], place: int) -> list[Any]:
    """The values of a column, but for those that are null."""
    return [None if bits >> place & 1 else value for value, bits in zip(values, nulls, strict=True)]


def _texts(
    rows: Sequence[bytes], ends: list[int], nulls: Sequence[int], place: int
) -> list[bytes | None]:
    """The bytes of a variable column; `ends`, where the one before ends in each row, moves on."""
    texts: list[bytes | None] = []
    for number, (row, at, bits) in enumerate(zip(rows, ends, nulls, strict=True)):
        if bits >> place & 1:
            texts.append(None)
            continue
        length, start = row[at], at + 1
        if length == LONG:
            length, start = int.from_bytes(row[start : start + 4], "little"), start + 4
        ends[number] = start + length
        texts.append(row[start : start + length])
    return texts


def text_decoder(type_: ColumnType) -> Callable[[bytes], Any]:
    """A function from the bytes of a variable column to the Python value."""
    if type_ == "string":
        return bytes.decode
    if type_ == "binary":
        return bytes
    decode = value_decoder(type_)
    return lambda text: decode(json.loads(text, parse_float=Decimal))


def pack(columns: Sequence[Column], arrays: Sequence[pa.Array], rows: int) -> pa.BinaryArray:
    """Rows of Arrow columns, packed.

    Args:
        columns: names and types of the arrays.
        arrays: of equal length; those of types that are not packed natively are JSON texts.
        rows: their length, where there may be no array.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    nulls = np.zeros((rows, nulls_size(columns)), np.uint8)
    for place, array in enumerate(arrays):
        if array.null_count:
            nulls[:, place // 8] |= np.asarray(array.is_null(), np.uint8) << np.uint8(place % 8)
    head = [nulls]
    parts: list[pa.Array] = []
    for column, array in zip(columns, arrays, strict=True):
        if (kind := fixed_format(column.type)) is not None:
            head.append(_fixed_bytes(array, kind[0]))
        else:
            data = pc.cast(array, pa.binary())
            parts += [_lengths(data), data]
    block = np.ascontiguousarray(np.concatenate(head, axis=1))
    width = block.shape[1]
    fixed = pa.Array.from_buffers(pa.binary(width), rows, [None, pa.py_buffer(block)])
    if not parts:
        return pc.cast(fixed, pa.binary())
    return pc.binary_join_element_wise(
        pc.cast(fixed, pa.binary()), *(pc.fill_null(part, b"") for part in parts), b""
    )


def _fixed_bytes(array: pa.Array, code: str) -> Any:
    """The little-endian bytes of a column, one row each, zeros where null."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = len(array)
    if pa.types.is_decimal(array.type):
        words = np.frombuffer(array.buffers()[1], np.uint8).reshape(-1, 16)
        words = words[array.offset : array.offset + rows]
        if array.null_count:
            words = np.where(np.asarray(array.is_null())[:, None], np.uint8(0), words)
        return words[:, : 8 if code == "q" else 16]
    if pa.types.is_timestamp(array.type):
        array = pc.cast(pc.cast(array, pa.timestamp("us", array.type.tz)), pa.int64())
    elif pa.types.is_date32(array.type):
        array = pc.cast(array, pa.int32())
    elif pa.types.is_boolean(array.type):
        array = pc.cast(array, pa.uint8())
    filled = pc.fill_null(array, 0) if array.null_count else array
    numbers = filled.to_numpy(zero_copy_only=False).astype(
        f"<{code}".replace("?", "u1"), copy=False
    )
    return np.ascontiguousarray(numbers).view(np.uint8).reshape(rows, -1)


def _lengths(data: pa.BinaryArray) -> pa.BinaryArray:
    """The length of each value, as format 1 writes it; null where the value is."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = pc.binary_length(data)
    longest = pc.max(lengths).as_py() or 0
    if longest < LONG:
        return pc.take(_short_lengths(), lengths)
    numbers = pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False)
    wide = np.empty((len(data), 5), np.uint8)
    wide[:, 0] = LONG
    wide[:, 1:] = numbers.astype("<u4").view(np.uint8).reshape(-1, 4)
    long = pa.Array.from_buffers(pa.binary(5), len(data), [None, pa.py_buffer(wide)])
    short = pc.take(_short_lengths(), pc.if_else(pc.less(lengths, LONG), lengths, 0))
    return pc.if_else(pc.less(lengths, LONG), short, pc.cast(long, pa.binary()))


def _short_lengths() -> pa.BinaryArray:
    import pyarrow as pa

    return pa.array([bytes((length,)) for length in range(LONG)], pa.binary())
