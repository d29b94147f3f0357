"""Buckets: small hashes of packed rows, in which Redis keeps many rows nearly as tight as one.

Rows are dealt to the shares of a version by the CRC-32 of their keys, and within a share to its
buckets. So whoever knows a key and the manifest knows the bucket, a share can have as many buckets
as its rows need, and equal keys always meet in the same task.

Every task attempt writes buckets under a name of its own, which the manifest mentions if the
attempt counts. So attempts at the same share never touch each other's rows.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Hash = TypeVar("Hash", int, "np.ndarray[Any, np.dtype[np.int64]]")

ROWS = 32
"""Rows of a bucket on average: few enough to find one among them fast, enough to share a key."""


@dataclass(frozen=True, slots=True)
class Share:
    """One share of a version, written by one task attempt.

    Attributes:
        task: the attempt that counts.
        buckets: how many it has.
        is_mapped: whether some are of earlier versions, or empty; the bucket map says which.
    """

    task: str
    buckets: int
    is_mapped: bool = False


def share_of(key_hash: int, shares: int) -> int:
    """The share of a row. `key_hash` is the CRC-32 of its key in UTF-8."""
    return key_hash % shares


def bucket_of(key_hash: Hash, shares: int, buckets: int) -> Hash:
    """The bucket of a row within its share; also of many at once, by an array of hashes."""
    return key_hash // shares % buckets


def digest(rows: bytes | memoryview) -> int:
    """Of a bucket's rows, as `canonical` or the wire has them."""
    return zlib.crc32(rows)


def canonical(rows: dict[bytes, bytes]) -> bytes:
    """A bucket's rows as bytes that do not depend on how Redis has them."""
    ordered = sorted(rows.items(), key=lambda row: (zlib.crc32(row[0]), row[0]))
    return b"".join(
        b"$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(value), value) for key, value in ordered
    )


@dataclass(frozen=True, slots=True)
class Arranged:
    """The rows of a share, in the order of its buckets.

    Attributes:
        keys, values, hashes: of the rows.
        starts: row at which each bucket that has any begins, and the number of rows.
        numbers: of these buckets.
        repeated: a key that is there twice, or None.
    """

    keys: pa.BinaryArray
    values: pa.BinaryArray
    hashes: np.ndarray[Any, np.dtype[np.int64]]
    starts: np.ndarray[Any, np.dtype[np.int64]]
    numbers: np.ndarray[Any, np.dtype[np.int64]]
    repeated: bytes | None

    @property
    def row_numbers(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The bucket of each row."""
        import numpy as np

        return np.repeat(self.numbers, self.starts[1:] - self.starts[:-1])

    def keys_of(self, bucket: int) -> set[bytes]:
        """The keys in a bucket."""
        place = int(self.numbers.searchsorted(bucket))
        if place == len(self.numbers) or self.numbers[place] != bucket:
            return set()
        begin, end = self.starts[place : place + 2].tolist()
        return set(self.keys.slice(begin, end - begin).to_pylist())


def arrange(
    keys: pa.BinaryArray,
    values: pa.BinaryArray,
    hashes: np.ndarray[Any, np.dtype[np.int64]],
    shares: int,
    buckets: int,
) -> Arranged:
    """Sort the rows of a share into its buckets, and within these by hash and key."""
    import numpy as np
    import pyarrow as pa

    numbers = bucket_of(hashes, shares, buckets)
    order = np.argsort(numbers << 32 | hashes, kind="stable")
    numbers, hashes = numbers[order], hashes[order]
    # Equal keys have equal hashes, and hardly any others do.
    ties = np.flatnonzero(hashes[1:] == hashes[:-1]) if len(hashes) > 1 else np.empty(0, np.int64)
    repeated = None
    for first, last in _runs(ties):
        tied = sorted((keys[int(row)].as_py(), int(row)) for row in order[first : last + 1])
        order[first : last + 1] = [row for _, row in tied]
        repeated = next((a for (a, _), (b, _) in pairwise(tied) if a == b), repeated)
    begins = np.flatnonzero(np.concatenate(([True], numbers[1:] != numbers[:-1])))[: len(numbers)]
    return Arranged(
        keys=keys.take(pa.array(order)),
        values=values.take(pa.array(order)),
        hashes=hashes,
        starts=np.append(begins, len(numbers)),
        numbers=numbers[begins],
        repeated=repeated,
    )


def _runs(ties: Any) -> Iterator[tuple[int, int]]:
    """Stretches of rows of which each has the same hash as the next: first and last row."""
    first = last = None
    for tie in ties.tolist():
        if last is not None and first is not None and tie != last:
            yield first, last
            first = None
        first, last = tie if first is None else first, tie + 1
    if first is not None and last is not None:
        yield first, last
