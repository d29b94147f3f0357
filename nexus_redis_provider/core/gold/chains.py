"""Where the buckets of a delta are: most of them still where earlier versions wrote them.

A delta writes an overlay of a bucket that has changed: its new and changed rows, and for each that
vanished an empty value. So a bucket is a chain of sources, the newest first, and what the first one
says of a key counts. A chain that grows too long is written anew, as one bucket. A bucket without
rows is an empty chain; so each source that a chain names has rows, or some of them are lost.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

GONE = b""
"""The value of a row that vanished; that of no other row is empty."""
LONGEST = 4

Chain = tuple[str, ...]
"""Names of sources, see `GoldKeys.bucket`."""


@dataclass(frozen=True, slots=True)
class BucketMap:
    """The chains of all buckets of a share.

    Attributes:
        chains: each that occurs.
        places: for each bucket, which one of them.
    """

    chains: tuple[Chain, ...]
    places: Sequence[int]

    @classmethod
    def single(cls, source: str, buckets: int) -> Self:
        """The map of a share all of whose buckets are of one source."""
        return cls(((source,),), [0] * buckets)

    @classmethod
    def of(cls, chains: Iterable[Chain]) -> Self:
        """The map of these chains, one for each bucket."""
        known: dict[Chain, int] = {}
        places = [known.setdefault(chain, len(known)) for chain in chains]
        return cls(tuple(known), places)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The map that `encode` wrote."""
        head, _, places = data.partition(b"\n")
        numbers = array("I")
        numbers.frombytes(places)
        return cls(tuple(map(tuple, json.loads(head))), numbers)

    def encode(self) -> bytes:
        """A line of JSON with the chains; then a number of 4 bytes, little-endian, per bucket."""
        return json.dumps(self.chains).encode() + b"\n" + array("I", self.places).tobytes()

    def __getitem__(self, bucket: int) -> Chain:
        return self.chains[self.places[bucket]]

    def __len__(self) -> int:
        return len(self.places)

    def sources(self) -> Iterator[tuple[int, str]]:
        """Each bucket with each of its sources."""
        for bucket, place in enumerate(self.places):
            for source in self.chains[place]:
                yield bucket, source


def merged(layers: Iterable[dict[bytes, bytes]]) -> dict[bytes, bytes]:
    """The rows of a bucket, of what its chain has, the newest layer first."""
    rows: dict[bytes, bytes] = {}
    for layer in reversed(list(layers)):
        rows.update(layer)
    return {key: value for key, value in rows.items() if value != GONE}
