"""Batches of rows that have a key each, and the commands that write them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from nexus_redis_provider.core.gold.wire import OK, multi_set_commands, set_commands

ROWS_AT_ONCE = 32
"""Rows that one command writes: a few more or less make no difference to the server."""


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Rows of a dataset; `keys` and `values` are string arrays without nulls."""

    keys: pa.StringArray
    values: pa.StringArray

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, positions: Sequence[int]) -> RowBatch:
        """Some of the rows."""
        chosen = pa.array(positions, pa.int32())
        return RowBatch(self.keys.take(chosen), self.values.take(chosen))

    def without(self, positions: Collection[int]) -> RowBatch:
        """All but some of the rows."""
        if not positions:
            return self
        return self.take([place for place in range(len(self)) if place not in positions])

    def names(self) -> list[bytes]:
        """The keys, without prefix."""
        return [key.encode() for key in self.keys.to_pylist()]


@dataclass(frozen=True, slots=True)
class Commands:
    """Commands for the rows of a batch, in their order.

    Attributes:
        stream: their bytes.
        rows: how many rows each writes; the last one what is left.
        count: how many commands they are.
        done: the line with which each replies when it has written.
        kept: that with which it replies when it has not, since a key was there.
    """

    stream: memoryview
    rows: int
    count: int
    done: bytes
    kept: bytes | None = None

    def rows_of(self, command: int, batch: RowBatch) -> range:
        """Positions of the rows that a command writes."""
        return range(command * self.rows, min((command + 1) * self.rows, len(batch)))


@dataclass(frozen=True, slots=True)
class JsonRows:
    """How rows are written as strings.

    Attributes:
        prefix: stands before each key.
        expires_ms: when they expire, ms since 1970, or None.
    """

    prefix: str
    expires_ms: int | None

    def add(self, batch: RowBatch, *, one_by_one: bool = False) -> Commands:
        """Commands that write rows whose keys are not there.

        That finds a repeated key, and keeps late zombies from changing a row. One command for
        several rows writes all of them, or none; it takes no notice of a key that it has twice.
        """
        if one_by_one or self.expires_ms is not None or _repeats_a_key(batch):
            stream = set_commands(self.prefix, batch.keys, batch.values, ("NX", *self._expiry))
            return Commands(stream, 1, len(batch), OK, b"$-1")
        stream = multi_set_commands("MSETNX", self.prefix, batch.keys, batch.values, ROWS_AT_ONCE)
        return Commands(stream, ROWS_AT_ONCE, -(-len(batch) // ROWS_AT_ONCE), b":1\r\n", b":0")

    def replace(self, batch: RowBatch) -> Commands:
        """Commands that write rows, whatever is there."""
        if self.expires_ms is not None:
            stream = set_commands(self.prefix, batch.keys, batch.values, self._expiry)
            return Commands(stream, 1, len(batch), OK)
        stream = multi_set_commands("MSET", self.prefix, batch.keys, batch.values, ROWS_AT_ONCE)
        return Commands(stream, ROWS_AT_ONCE, -(-len(batch) // ROWS_AT_ONCE), OK)

    @property
    def _expiry(self) -> tuple[str | int, ...]:
        return () if self.expires_ms is None else ("PXAT", self.expires_ms)


def _repeats_a_key(batch: RowBatch) -> bool:
    distinct: int = pc.count_distinct(batch.keys).as_py()
    return distinct < len(batch)
