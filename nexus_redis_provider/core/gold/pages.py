"""Index pages: the keys of one batch of rows, written before the rows themselves.

They make a version enumerable (scan, removal) without ever scanning the keyspace, and let a crash
be cleaned up, since no row is written whose key is not on a page. This is why rows of a version
need no expiry of their own, which would cost 40 bytes and a third of the speed (measured; see
ARCHITECTURE.md).

A page is a little-endian int32 count `n`, `n + 1` int32 offsets, then the keys end to end: the
memory of an Arrow string array, copied as it is.
"""

from __future__ import annotations

import sys
from array import array
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # A reader decodes pages without pyarrow.
    import pyarrow as pa


def encode_page(keys: pa.StringArray) -> bytes:
    """The page of an Arrow string array without nulls and with offset 0."""
    _, offsets, data = keys.buffers()
    count = len(keys)
    ends = memoryview(offsets)[: 4 * (count + 1)]
    length = int.from_bytes(ends[-4:], "little")
    return b"".join((count.to_bytes(4, "little"), ends, memoryview(data)[:length] if data else b""))


def decode_page(page: bytes) -> list[bytes]:
    """The keys of a page, in order."""
    count = int.from_bytes(page[:4], "little")
    start = 4 * (count + 2)
    offsets = array("i")
    offsets.frombytes(page[4:start])
    if sys.byteorder == "big":
        offsets.byteswap()
    return [page[start + a : start + b] for a, b in pairwise(offsets)]


def page_array(page: bytes) -> pa.StringArray:
    """The keys of a page as an Arrow string array over the same memory."""
    import pyarrow as pa  # readers do without it

    count = int.from_bytes(page[:4], "little")
    whole = pa.py_buffer(page)
    offsets_bytes = 4 * (count + 1)
    offsets, data = whole.slice(4, offsets_bytes), whole.slice(4 + offsets_bytes)
    return pa.StringArray.from_buffers(count, offsets, data)
