"""Batches of rows that have a key each, and the commands that write them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence, Sized
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nexus_redis_provider.core.gold.columns import check_text
from nexus_redis_provider.core.gold.expiries import Expiries
from nexus_redis_provider.core.gold.hashes import encode_hashes
from nexus_redis_provider.core.gold.manifests import Layout
from nexus_redis_provider.core.gold.rows import encode_rows
from nexus_redis_provider.core.gold.specs import Spec
from nexus_redis_provider.core.gold.wire import (
    NULL,
    OK,
    Replies,
    hash_commands,
    key_commands,
    multi_set_commands,
    set_commands,
)

ROWS_AT_ONCE = 32
"""Rows that one command writes: a few more or less make no difference to the server."""


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Rows of a dataset.

    Attributes:
        keys, values: string or binary arrays without nulls.
        fields: of rows that are hashes, how many each has.
        expires: when they do.
    """

    keys: pa.StringArray
    values: pa.StringArray | pa.BinaryArray
    fields: pa.Int32Array | None = None
    expires: Expiries = None

    def __len__(self) -> int:
        return len(self.keys)

    def slice(self, start: int, length: int) -> RowBatch:
        """Some of the rows, with buffers that begin at the first, as the wire and pages need it."""
        columns = (self.keys, self.values, self.fields, self.expires)
        return RowBatch(
            *(_compact(one, start, length) if isinstance(one, pa.Array) else one for one in columns)
        )

    def take(self, positions: Sequence[int]) -> RowBatch:
        """Some of the rows."""
        chosen = pa.array(positions, pa.int32())
        columns = (self.keys, self.values, self.fields, self.expires)
        return RowBatch(
            *(one.take(chosen) if isinstance(one, pa.Array) else one for one in columns)
        )

    def without(self, positions: Collection[int]) -> RowBatch:
        """All but some of the rows."""
        if not positions:
            return self
        gone = set(positions)
        return self.take([place for place in range(len(self)) if place not in gone])

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
        due: their replies, if all is as it should be.
        kept: the reply to a command that has not written, since a key was there.
        steps: how many commands write the same rows, one after the other.
    """

    stream: memoryview
    rows: int
    count: int
    due: bytes
    kept: bytes | None = None
    steps: int = 1

    def rows_of(self, replies: Replies, batch: Sized) -> list[int]:
        """Positions of the rows to whose commands these are the replies, in order."""
        firsts = sorted({place // self.steps * self.rows for place, _ in replies})
        ranges = [range(first, min(first + self.rows, len(batch))) for first in firsts]
        return list(chain.from_iterable(ranges))


class RowFormat(ABC):
    """How rows stand in Redis that have a key each.

    Attributes:
        adds_only: whether `add` leaves alone what is there; else who adds has to look before.
    """

    adds_only: bool

    def __init__(self, prefix: str, *, is_spread: bool = False) -> None:
        """Say how rows are stored.

        Args:
            prefix: stands before each key.
            is_spread: whether rows are on several nodes, so that each has a command of its own.
        """
        self._prefix = prefix
        self._is_spread = is_spread

    @abstractmethod
    def add(self, batch: RowBatch, *, one_by_one: bool = False) -> Commands:
        """Commands that write rows whose keys are not there, and tell of those that are."""

    def look(self, batch: RowBatch, at_once: int) -> Commands:
        """Commands that tell of so many keys each whether none of them is there."""
        stream = memoryview(key_commands("EXISTS", self._prefix, batch.keys, at_once))
        count = -(-len(batch) // at_once)
        return Commands(stream, at_once, count, b":0\r\n" * count)

    @abstractmethod
    def replace(self, batch: RowBatch) -> Commands:
        """Commands that write rows, whatever is there."""


class JsonRows(RowFormat):
    """Strings."""

    adds_only = True

    def add(self, batch: RowBatch, *, one_by_one: bool = False) -> Commands:
        """Commands that write rows whose keys are not there.

        That finds a repeated key, and keeps late zombies from changing a row. One command for
        several rows writes all of them, or none; it takes no notice of a key that it has twice.
        """
        alone = one_by_one or self._is_spread or batch.expires is not None
        if alone or _repeats_a_key(batch):
            return self._alone(batch, ("NX",))
        return self._together("MSETNX", batch, b":1\r\n")

    def replace(self, batch: RowBatch) -> Commands:
        if self._is_spread or batch.expires is not None:
            return self._alone(batch, ())
        return self._together("MSET", batch, OK)

    def _alone(self, batch: RowBatch, options: Sequence[str]) -> Commands:
        stream = set_commands(self._prefix, batch.keys, batch.values, options, batch.expires)
        return Commands(stream, 1, len(batch), OK * len(batch), NULL[:-2])

    def _together(self, verb: str, batch: RowBatch, done: bytes) -> Commands:
        stream = multi_set_commands(verb, self._prefix, batch.keys, batch.values, ROWS_AT_ONCE)
        count = -(-len(batch) // ROWS_AT_ONCE)
        return Commands(stream, ROWS_AT_ONCE, count, done * count, b":0")


class HashRows(RowFormat):
    """Hashes, a field for each column that is not null."""

    adds_only = False

    def add(self, batch: RowBatch, *, one_by_one: bool = False) -> Commands:
        """Commands that write rows; each replies how many of its fields were not there.

        So that tells of keys that are repeated, but has written over the row that was there.
        """
        return self._commands(batch, anew=False)

    def replace(self, batch: RowBatch) -> Commands:
        """Commands that write rows; no field stays of what was there."""
        return self._commands(batch, anew=True)

    def _commands(self, batch: RowBatch, *, anew: bool) -> Commands:
        assert batch.fields is not None  # noqa: S101 - for mypy; see `row_format`
        stream = hash_commands(
            self._prefix,
            *(batch.keys, batch.values, batch.fields),
            expires=batch.expires,
            anew=anew,
        )
        before, afters = b":1\r\n" * anew, _expiry_replies(batch)
        numbers = batch.fields.to_pylist()
        due = b"".join(b"%b:%d\r\n%b" % (before, *row) for row in zip(numbers, afters, strict=True))
        steps = 1 + anew + (batch.expires is not None)
        return Commands(stream, 1, steps * len(batch), due, steps=steps)


def row_format(layout: Layout, prefix: str, *, is_spread: bool = False) -> RowFormat:
    """How rows of a layout are written that have a key each; of hashes, batches have `fields`."""
    kinds = {Layout.JSON: JsonRows, Layout.HASH: HashRows}
    return kinds[layout](prefix, is_spread=is_spread)


def row_encoder(spec: Spec) -> Callable[[pa.RecordBatch], tuple[Any, ...]]:
    """What makes the arguments of `PartitionWriter.write` of a batch of the spec's columns."""
    kinds: dict[Layout, Callable[..., tuple[Any, ...]]]
    kinds = {Layout.JSON: encode_rows, Layout.HASH: encode_hashes}
    encode, names = kinds[spec.layout], [column.name for column in spec.columns]

    def encoded(batch: pa.RecordBatch) -> tuple[Any, ...]:
        check_text(batch, spec.columns, spec.dataset)
        keys, values, checksum, *fields = encode(batch, spec.columns, spec.key)
        ttls = batch.column(names.index(spec.ttl_column)) if spec.ttl_column else None
        return keys, values, checksum, fields[0] if fields else None, ttls

    return encoded


def _expiry_replies(batch: RowBatch) -> list[bytes]:
    """What is due of each row, a hash, when it was told when to expire, or not to."""
    if batch.expires is None:
        return [b""] * len(batch)
    if isinstance(batch.expires, int):
        return [b":1\r\n"] * len(batch)
    return [b":1\r\n" if expires else b":0\r\n" for expires in batch.expires.is_valid().to_pylist()]


def _repeats_a_key(batch: RowBatch) -> bool:
    distinct: int = pc.count_distinct(batch.keys).as_py()
    return distinct < len(batch)


def _compact(column: pa.Array, start: int, length: int) -> pa.Array:
    part = column.slice(start, length)
    return part if part.offset == 0 else pa.concat_arrays([part, part.slice(0, 0)])
