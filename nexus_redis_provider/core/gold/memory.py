"""Whether what is still to come fits into a server's memory, from rows that were weighed there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import redis

from nexus_redis_provider.core.clusters import Primary
from nexus_redis_provider.core.errors import NoRoomError
from nexus_redis_provider.core.exchanges import execute_all

_WEIGHED = 50
# A slot of the server's table of keys, which doubles as it grows and then is half empty.
_SLOT = 16


@dataclass(frozen=True, slots=True)
class Memory:
    """A server's memory.

    Attributes:
        used: bytes, as they are counted against `limit`: without what replicas have yet to read.
        limit: `maxmemory`, or None where the server has none, and nothing is known.
        is_freeing: whether removed keys are being freed in the background.
    """

    used: int
    limit: int | None
    is_freeing: bool = False

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Self:
        """From the server's INFO memory."""
        return cls(
            used=info["used_memory"] - info.get("mem_not_counted_for_evict", 0),
            limit=info.get("maxmemory") or None,
            is_freeing=bool(info.get("lazyfree_pending_objects")),
        )

    def room(self, margin: float) -> int | None:
        """Bytes that may be added until only a share of `margin` is free; negative beyond it."""
        return None if self.limit is None else int(self.limit * (1 - margin)) - self.used


@dataclass(frozen=True, slots=True)
class Expectation:
    """How many rows will come.

    Attributes:
        is_estimate: nobody said so; it is as many as the live version has.
    """

    rows: int
    is_estimate: bool = False

    def of_bytes(self, row_bytes: float) -> str:
        """All of them in words."""
        origin = " (as many as the live version has)" if self.is_estimate else ""
        return f"{self.rows:,} rows of {row_bytes:.0f} bytes{origin}"


def mean_weight(client: redis.Redis, names: Sequence[str | bytes]) -> float | None:
    """Mean bytes that keys take on the server, of up to fifty of them; None if none is there.

    Cost: a round trip.
    """
    chosen = names[:: max(1, len(names) // _WEIGHED)][:_WEIGHED]
    found = execute_all(client, [("MEMORY", "USAGE", name) for name in chosen])
    weights = [weight for weight in found if weight is not None]
    return sum(weights) / len(weights) + _SLOT if weights else None


def refuse_what_does_not_fit(
    dataset: str,
    primary: Primary,
    memory: Memory,
    margin: float,
    *,
    expected: Expectation | None,
    staged: int,
    row_bytes: float | None,
) -> None:
    """Refuse a load for which there is no room.

    The version that readers see is in `memory` already, and stays until the new one is complete.

    Args:
        primary: whose memory it is, and what share of the rows it gets.
        staged: rows of the version that are there.
        row_bytes: what one takes, or None where it was not weighed.

    Raises:
        NoRoomError: with the figures.
    """
    room = memory.room(margin)
    if room is None or memory.limit is None:
        return
    needed, what = 0, "the rows so far"
    if expected is not None and row_bytes is not None and staged < expected.rows:
        needed = int((expected.rows - staged) * row_bytes * primary.share)
        what = expected.of_bytes(row_bytes)
        if primary.share < 1:
            what = f"{primary.share:.0%} of {what}, to be written to {primary.address},"
    if needed > room:
        raise NoRoomError(
            dataset, what, needed=needed, used=memory.used, limit=memory.limit, margin=margin
        )
