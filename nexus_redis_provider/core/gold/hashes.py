"""Rows as hashes: a field for each column that is not null, so that any client reads a value.

A value is its JSON (see `schemas`) without the quotes, but for text, which is raw, and for
`binary`, which is the bytes themselves, since a hash holds any. So dates and times are ISO 8601,
numbers decimal, with `NaN`, `Infinity` and `-Infinity`, and nested columns JSON.

The arguments of a row are the bytes that follow its key in `HSET`: for each field its name and its
value, in the order of the columns. Readers make the same bytes of what they are given, so the
checksum is over these.

Encoding is vectorised and needs pyarrow; decoding does not.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from nexus_redis_provider.core.gold.schemas import (
    TEXT_TYPES,
    Column,
    ColumnType,
    value_decoder,
)
from nexus_redis_provider.core.gold.templates import KeyTemplate

if TYPE_CHECKING:
    import pyarrow as pa

Fields = Sequence[bytes | None]
"""The values of a row, in the order of the columns; None for a field that is not there."""
_DIRECT: dict[str, Callable[[bytes], Any]] = {
    "binary": bytes,
    "string": bytes.decode,
    "double": float,
    **dict.fromkeys(("byte", "short", "integer", "long"), int),
}
_QUOTED_IN_JSON = (*TEXT_TYPES, "date", "timestamp", "time(")
_parsed = json.JSONDecoder(parse_float=Decimal).decode


def fields_decoder(columns: Sequence[Column]) -> Callable[[Fields], dict[str, Any]]:
    """A function from the fields of a row to a dict of Python values."""
    decoders = [(column.name, field_decoder(column.type)) for column in columns]

    def decode(fields: Fields) -> dict[str, Any]:
        return {
            name: None if field is None else decoder(field)
            for (name, decoder), field in zip(decoders, fields, strict=True)
        }

    return decode


def field_decoder(type_: ColumnType) -> Callable[[bytes], Any]:
    """A function from a field to the Python value."""
    decode = value_decoder(type_)
    if isinstance(type_, str):
        if type_ in _DIRECT:
            return _DIRECT[type_]
        if type_ == "interval" or type_.startswith(_QUOTED_IN_JSON):
            return lambda field: decode(field.decode())
    return lambda field: decode(_parsed(field.decode()))


def field_heads(columns: Sequence[Column]) -> list[bytes]:
    """What stands before the value of each field: its name, as an argument of a command."""
    names = [column.name.encode() for column in columns]
    return [b"$%d\r\n%b\r\n" % (len(name), name) for name in names]


def arguments(heads: Sequence[bytes], fields: Fields) -> bytes:
    """The arguments of a row, of what `field_heads` gives and the row's fields."""
    return b"".join(
        b"%b$%d\r\n%b\r\n" % (head, len(field), field)
        for head, field in zip(heads, fields, strict=True)
        if field is not None
    )


def encode_hashes(
    batch: pa.RecordBatch, columns: Sequence[Column], template: KeyTemplate
) -> tuple[pa.StringArray, pa.BinaryArray, int, pa.Int32Array]:
    """Keys (null where a part is null), arguments, the sum of the rows' CRC-32, numbers of fields.

    Args:
        batch: columns in the order of `columns`, each of a type for which `rows.is_writable` holds.
        columns: their names and types.
        template: of the key.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from nexus_redis_provider.core.gold.rows import row_keys
    from nexus_redis_provider.core.gold.wire import sized

    keys = row_keys(batch, columns, template)
    parts, present = [], pa.array([0] * len(batch), pa.int32())
    for array, column, head in zip(batch.columns, columns, field_heads(columns), strict=True):
        texts = _texts(array, column.type)
        field = pc.binary_join_element_wise(head, sized(texts), texts, b"\r\n", b"")
        parts.append(pc.fill_null(field, b""))
        present = pc.add(present, pc.cast(texts.is_valid(), pa.int32()))
    rows = pc.binary_join_element_wise(*parts, b"")
    joined = pc.binary_join_element_wise(pc.cast(keys, pa.binary()), rows, b"\0")
    return keys, rows, sum(map(zlib.crc32, pc.drop_null(joined).to_pylist())), present


def _texts(array: pa.Array, type_: ColumnType) -> pa.BinaryArray:
    """The value of each field, null where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from nexus_redis_provider.core.gold.rows import json_tokens

    if type_ == "binary" or (isinstance(type_, str) and type_.startswith(TEXT_TYPES)):
        return pc.cast(array, pa.binary())
    return pc.cast(pc.utf8_trim(json_tokens(array, type_), '"'), pa.binary())
