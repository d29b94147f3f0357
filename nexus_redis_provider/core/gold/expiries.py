"""When each row expires, where not all of them do at once.

A moment follows from the name alone, so that all attempts at a row agree, and so do all versions
of a bucket of packed rows.
"""

from __future__ import annotations

import zlib
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

Expiries: TypeAlias = int | pa.Int64Array | None
"""When keys expire, ms since 1970: all of them at once, each by itself, or never."""


def spread(names: pa.StringArray | pa.BinaryArray, expires_ms: int, jitter_ms: int) -> Expiries:
    """Moments of the time before `expires_ms`, by the CRC-32 of names; one for all without jitter.

    Args:
        names: without nulls.
        expires_ms: the last moment, ms since 1970.
        jitter_ms: how much earlier the first one is, at most.
    """
    if not jitter_ms:
        return expires_ms
    # There is no vectorised CRC-32, nor a remainder.
    crcs = map(zlib.crc32, pc.cast(names, pa.binary()).to_pylist())
    hashes, span = pa.array(list(crcs), pa.int64()), jitter_ms + 1
    remainders = pc.subtract(hashes, pc.multiply(pc.divide(hashes, span), span))
    return pc.subtract(expires_ms, remainders)
