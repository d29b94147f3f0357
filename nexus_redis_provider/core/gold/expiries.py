"""When each row expires, where not all of them do at once.

A moment follows from the name alone, so that all attempts at a row agree, and so do all versions
of a bucket of packed rows.
"""

from __future__ import annotations

import zlib
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from nexus_redis_provider.core.durations import to_ms
from nexus_redis_provider.core.errors import RowTtlError
from nexus_redis_provider.core.gold.specs import Spec

MOST_SECONDS = 10**10 - 1
"""Of a lifetime; as of all durations."""
# The last one of the year 9999.
_LAST_MS = 253_402_300_799_999
Expiries: TypeAlias = int | pa.Int64Array | None
"""When keys expire, ms since 1970: all of them at once, each by itself (null: never), or never."""


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


def refuse_bad_ttls(spec: Spec, keys: pa.StringArray, ttls: pa.Array) -> None:
    """See that each lifetime in whole seconds is one.

    Raises:
        RowTtlError: names the first that is none.
    """
    if not pa.types.is_integer(ttls.type):
        return
    seconds = pc.cast(ttls, pa.int64())
    is_bad = pc.or_(pc.less(seconds, 1), pc.greater(seconds, MOST_SECONDS))
    place: int = pc.index(pc.fill_null(is_bad, False), True).as_py()
    if place >= 0:
        column = str(spec.ttl_column)
        raise RowTtlError(spec.dataset, column, keys[place].as_py(), seconds[place].as_py())


class Lifetimes:
    """When rows expire by what their ttl column says.

    Attributes:
        first_ms: when the first of them does, or None if none does.
        last_ms: when the last one does, or None if some do not.
    """

    def __init__(self, spec: Spec, created_ms: int) -> None:
        """Say of what rows, and when the publish was begun."""
        self._spec = spec
        self._created_ms = created_ms
        self._last_ms: int | None = None
        self._some_stay = False
        self.first_ms: int | None = None

    @property
    def last_ms(self) -> int | None:
        return None if self._some_stay else self._last_ms

    def of(self, keys: pa.StringArray, ttls: pa.Array) -> pa.Int64Array:
        """When each row expires, ms since 1970; null where it stays.

        Args:
            keys: of the rows.
            ttls: their ttl column.

        Raises:
            RowTtlError: as `refuse_bad_ttls`.
        """
        refuse_bad_ttls(self._spec, keys, ttls)
        expiries = _moments(ttls, self._created_ms)
        if self._spec.ttl is not None and expiries.null_count:
            expires_ms = self._created_ms + to_ms(self._spec.ttl, "ttl")
            expiries = pc.coalesce(expiries, spread(keys, expires_ms, self._spec.jitter_ms))
        ends = pc.min_max(expiries).as_py()
        if ends["min"] is not None:
            self.first_ms = min(self.first_ms or ends["min"], ends["min"])
            self._last_ms = max(self._last_ms or 0, ends["max"])
        self._some_stay |= expiries.null_count > 0
        return expiries


def _moments(ttls: pa.Array, created_ms: int) -> pa.Int64Array:
    if pa.types.is_integer(ttls.type):
        return pc.add(pc.multiply(pc.cast(ttls, pa.int64()), 1000), created_ms)
    instants = pc.cast(ttls, pa.timestamp("ms", "UTC"), safe=False)
    # Redis takes no moment before 1970, and Python none beyond 9999.
    moments = pc.min_element_wise(pc.cast(instants, pa.int64()), _LAST_MS, skip_nulls=False)
    return pc.max_element_wise(moments, 1, skip_nulls=False)
