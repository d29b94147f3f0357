"""One task attempt's share of packed rows: collected, arranged in buckets, and written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nexus_redis_provider.core.durations import to_ms
from nexus_redis_provider.core.endpoint import translated_errors
from nexus_redis_provider.core.errors import DuplicateKeyError, NullKeyError, PublishError
from nexus_redis_provider.core.gold.attempts import Attempt
from nexus_redis_provider.core.gold.buckets import Arranged, arrange, digest
from nexus_redis_provider.core.gold.chains import BucketMap
from nexus_redis_provider.core.gold.expiries import Expiries
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.row_commands import Commands
from nexus_redis_provider.core.gold.specs import Report
from nexus_redis_provider.core.gold.streams import Writes
from nexus_redis_provider.core.gold.sweeping import remove_attempt
from nexus_redis_provider.core.gold.wire import (
    bucket_commands,
    expiry_commands,
    joined,
    row_frames,
)
from nexus_redis_provider.core.scripts import Call, run
from nexus_redis_provider.core.slots import slots_of

_MAX_ROWS = 20_000
Numbers = np.ndarray[Any, np.dtype[np.int64]]


class BucketWriter(Attempt):
    """Writes one share of packed rows under a version; used as a context manager.

    All rows of the share are held in memory until `finish`: only then it is known how many buckets
    they need, and that no key is there twice.
    """

    script = "stage_buckets"

    def __init__(self, publication: Publication, partition: int, attempt: str) -> None:
        """Describe the attempt; see `Attempt`. The partition is the number of the share."""
        super().__init__(publication, partition, attempt)
        self._source = f"{publication.version}.{attempt}"
        self._parts: list[tuple[pa.BinaryArray, pa.BinaryArray, Any]] = []
        self._buckets = 0
        self._is_mapped = False
        self._under_way: deque[int] = deque()

    def write(
        self,
        keys: pa.StringArray,
        values: pa.BinaryArray,
        hashes: Numbers,
    ) -> None:
        """Take a batch; it is written by `finish`.

        Args:
            keys: UTF-8; a null key is refused.
            values: packed rows, see `packing`.
            hashes: CRC-32 of each key, all of this share.

        Raises:
            PublishError: the data is refused.
        """
        if keys.null_count:
            raise NullKeyError(self._spec.dataset, self._spec.key.columns, keys.null_count)
        if (strays := hashes % self._publication.shares != self._partition).any():
            stray = keys[int(strays.argmax())].as_py()
            raise PublishError(
                f"Gold dataset {self._spec.dataset!r}: the row with key {stray!r} came to share "
                f"{self._partition} of {self._publication.shares}, to which it does not belong.",
                self._spec.dataset,
            )
        self._spec.limits.check_values(self._spec.dataset, keys, values)
        if len(keys):
            self._parts.append((pc.cast(keys, pa.binary()), values, hashes))

    def finish(self) -> Report:
        """Write all rows, and wait for every reply.

        Raises:
            PublishError: the data, or the publish, is refused.
            UnreachableError: the connection broke; nothing more can be written by this attempt.
        """
        with self._writing():
            if self._parts:
                self._write_all(self._arranged())
        self.check_staged()
        return Report(
            partition=self._partition,
            attempt=self._attempt,
            rows=self._rows,
            bytes=self._bytes,
            checksum=self._checksum,
            buckets=self._buckets,
            is_mapped=self._is_mapped,
        )

    def _arranged(self) -> Arranged:
        keys, values, hashes = (list(column) for column in zip(*self._parts, strict=True))
        self._parts.clear()
        rows = sum(map(len, keys))
        self._buckets = self._bucket_count(rows)
        arranged = arrange(
            pa.chunked_array(keys).combine_chunks(),
            pa.chunked_array(values).combine_chunks(),
            np.concatenate(hashes),
            self._publication.shares,
            self._buckets,
        )
        if arranged.repeated is not None:
            raise DuplicateKeyError(self._spec.dataset, arranged.repeated.decode(), 2)
        return arranged

    def _bucket_count(self, rows: int) -> int:
        return max(1, round(rows / self._publication.bucket_rows))

    def _write_all(self, arranged: Arranged) -> None:
        self._write_buckets(arranged)
        if len(arranged.numbers) < self._buckets:
            written = set(arranged.numbers.tolist())
            chain = (self._source,)
            self._write_map(
                BucketMap.of(chain if number in written else () for number in range(self._buckets))
            )

    def _write_map(self, chains: BucketMap) -> None:
        """Say where buckets are, as not each of them has been written."""
        with translated_errors(self._client):
            key = self._keys.bucket_map(self._publication.version, self._attempt)
            self._client.set(key, chains.encode(), pxat=self._publication.expires_ms)
        self._is_mapped = True

    def _write_buckets(self, arranged: Arranged) -> None:
        first = 0
        while first < len(arranged.numbers):
            end = arranged.starts[first] + self._pace.rows
            last = max(first + 1, int(arranged.starts.searchsorted(end, side="right")) - 1)
            self._send(arranged, first, last)
            first = last
        self._settle()

    def _send(self, arranged: Arranged, first: int, last: int) -> None:
        """Send some buckets and what registers them."""
        starts = arranged.starts[first : last + 1]
        begin, end = int(starts[0]), int(starts[-1])
        keys = arranged.keys.slice(begin, end - begin)
        values = arranged.values.slice(begin, end - begin)
        names = self._names(arranged.numbers[first:last])
        sizes = starts[1:] - starts[:-1]
        stream, commands, buckets = bucket_commands(
            names, pa.array(sizes), row_frames(keys, values), _firsts(starts - begin)
        )
        numbers = arranged.numbers[first:last]
        slots = partial(self._slots, numbers)
        writes = [Writes(len(names), _chosen(stream, commands, sizes.tolist()), slots)]
        if (expires := self._bucket_expiries(numbers)) is not None:
            writes.append(Writes(len(names), partial(_expiry_commands, names, expires), slots))
        with self._paced(end - begin, len(stream)):
            self._stream.send(self._registration(end - begin), *writes)
            self._under_way.append(end - begin)
            self._settle(leave=self._pace.under_way)
        if self._pace.wants_sample:
            self._pace.weigh(end - begin, names.to_pylist(), [])
        self._checksum += sum(map(digest, buckets))
        self._bytes += _bytes(keys) + _bytes(values)

    def _registration(self, rows: int) -> Call[int]:
        """Registers buckets with so many rows."""
        version, lease = self._publication.version, self._spec.staging_lease
        return Call(
            self.script,
            (self._keys.staging, self._keys.attempts(version)),
            (version, self._attempt, self._buckets, to_ms(lease, "staging_lease"), rows),
            int,
        )

    def _register(self, rows: int) -> None:
        if not run(self._client, self._registration(rows)):
            self._give_up()

    def _count_all(self, arranged: Arranged) -> None:
        """Count rows that are there, sent or not."""
        frames = row_frames(arranged.keys, arranged.values)
        stream = joined(frames)
        ends = np.cumsum(pc.binary_length(frames).to_numpy())[arranged.starts[1:] - 1]
        bounds = [0, *ends.tolist()]
        self._rows = len(arranged.keys)
        self._bytes = _bytes(arranged.keys) + _bytes(arranged.values)
        self._checksum = sum(digest(stream[a:b]) for a, b in pairwise(bounds))

    def _names(self, numbers: Numbers) -> pa.StringArray:
        before, after = self._keys.around_bucket(self._source, self._partition)
        return pc.binary_join_element_wise(
            before, pc.cast(pa.array(numbers), pa.string()), after, ""
        )

    def _slots(self, numbers: Numbers) -> list[int]:
        # Of a bucket's key, the share and the number are the hash tag.
        return slots_of(f"{self._partition}.", [b"%d" % number for number in numbers.tolist()])

    def _bucket_expiries(self, numbers: Numbers) -> Expiries:
        """When buckets expire: all versions of a bucket by as much before the last one."""
        texts = pc.cast(pa.array(numbers), pa.string())
        return self._expiries(pc.binary_join_element_wise(f"{self._partition}", texts, "."))

    def _settle(self, leave: int = 0) -> None:
        """Read replies until so many chunks are under way."""
        while len(self._under_way) > leave:
            rows = self._under_way.popleft()
            if (outcome := self._stream.receive()).is_refused:
                self._give_up(outcome.replies)
            self._rows += rows

    def _most_rows(self) -> int:
        return _MAX_ROWS

    def _end(self) -> None:
        if self._under_way:  # The attempt ends early; a sweep may miss these buckets.
            self._settle()
            self.check_staged()

    def _withdraw(self) -> None:
        self._publication.abandon()
        version = self._publication.version
        remove_attempt(self._client, self._keys, version, self._attempt, self._buckets)


def _chosen(
    stream: memoryview, commands: Sequence[memoryview], sizes: Sequence[int]
) -> Callable[[Sequence[int] | None], Commands]:
    """What gives the commands of some buckets with so many rows each, or all in one stream."""

    def chosen(places: Sequence[int] | None) -> Commands:
        some = range(len(sizes)) if places is None else places
        due = b"".join(b":%d\r\n" % sizes[place] for place in some)
        if places is None:
            return Commands(stream, 1, len(sizes), due)
        joined_up = b"".join(commands[place] for place in places)
        return Commands(memoryview(joined_up), 1, len(places), due)

    return chosen


def _expiry_commands(
    names: pa.StringArray, expires: int | pa.Int64Array, places: Sequence[int] | None
) -> Commands:
    """Commands that let buckets expire."""
    if places is not None:
        names = names.take(pa.array(places))
        expires = expires if isinstance(expires, int) else expires.take(pa.array(places))
    return Commands(expiry_commands(names, expires), 1, len(names), b":1\r\n" * len(names))


def _firsts(starts: Numbers) -> pa.Int64Array:
    """For each row the bucket that begins with it, or null."""
    rows = int(starts[-1])
    firsts, none = np.zeros(rows, np.int64), np.ones(rows, bool)
    firsts[starts[:-1]] = np.arange(len(starts) - 1)
    none[starts[:-1]] = False
    return pa.array(firsts, mask=none)


def _bytes(data: pa.BinaryArray) -> int:
    total: int | None = pc.sum(pc.binary_length(data)).as_py()
    return total or 0
