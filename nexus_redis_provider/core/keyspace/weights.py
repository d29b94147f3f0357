"""What keys take of the server's memory, and which take most of it."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import redis

from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.exchanges import execute_all
from nexus_redis_provider.core.keyspace.types import LENGTHS
from nexus_redis_provider.core.keyspace.walks import BATCH, pages

SAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class BigKey:
    """A key that takes much memory.

    Attributes:
        key: its name, any bytes.
        bytes: as MEMORY USAGE says: name, value, and what holds them.
        type: as TYPE says.
        length: elements, of a string bytes; None of a module's type.
    """

    key: bytes
    bytes: int
    type: str
    length: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """What some keys take together.

    Attributes:
        keys: that were weighed.
        bytes: of all of them.
        largest: bytes of the largest one.
    """

    keys: int
    bytes: int
    largest: int

    @property
    def mean(self) -> float:
        """Bytes of a key on average."""
        return self.bytes / self.keys if self.keys else 0.0


def weigh(
    client: redis.Redis,
    pattern: str | bytes = "*",
    *,
    samples: int = SAMPLES,
) -> Weight:
    """What the keys like a pattern take of the server's memory.

    Args:
        client, pattern: as for `scan`.
        samples: elements of a collection that are weighed to guess the rest; 0 for all, which
            holds the server up for as long as the collection is large.

    Raises: as `scan`; ConfigurationError also for negative samples.

    Cost: as `scan`, and a MEMORY USAGE for each key, a thousand sent together.
    """
    keys = total = largest = 0
    for _, size in _weighed(client, pages(client, pattern), samples):
        keys, total, largest = keys + 1, total + size, max(largest, size)
    return Weight(keys=keys, bytes=total, largest=largest)


def memory_of(
    client: redis.Redis, keys: Iterable[str | bytes], *, samples: int = SAMPLES
) -> dict[str | bytes, int]:
    """Bytes of each of the keys that are there.

    Args:
        client: of one server or of a whole Cluster.
        keys: any number.
        samples: as for `weigh`.

    Raises: as `weigh`; ConfigurationError also for one key in place of several.
    """
    if isinstance(keys, str | bytes):
        raise ConfigurationError(f"keys must be a list of keys, not the one key {keys!r}.")
    return dict(_weighed(client, _batches(keys), samples))


def big_keys(
    client: redis.Redis,
    pattern: str | bytes = "*",
    *,
    top: int = 20,
    samples: int = SAMPLES,
) -> list[BigKey]:
    """The keys like a pattern that take most memory, largest first.

    Args:
        client, pattern, samples: as for `weigh`.
        top: how many.

    Raises: as `weigh`.

    Cost: as `weigh`; type and length are asked of the `top` alone, whose names are all that is
    remembered.
    """
    if top < 1:
        raise ConfigurationError(f"top must be at least 1, not {top}.")
    # Named twice by SCAN, a key is there once.
    largest = dict[bytes, int]()
    for page in pages(client, pattern):
        largest.update(_weighed(client, [page], samples))
        if len(largest) > top:
            largest = dict(heapq.nlargest(top, largest.items(), key=_size))
    return list(_described(client, sorted(largest.items(), key=_size, reverse=True)))


def _size(pair: tuple[bytes, int]) -> int:
    return pair[1]


def _weighed(
    client: redis.Redis, batches: Iterable[Sequence[Any]], samples: int
) -> Iterator[tuple[Any, int]]:
    if samples < 0:
        raise ConfigurationError(f"samples must be 0 (all) or more, not {samples}.")
    for batch in batches:
        asked = [("MEMORY", "USAGE", key, "SAMPLES", samples) for key in batch]
        # None where a key has gone.
        sizes = execute_all(client, asked)
        yield from (pair for pair in zip(batch, sizes, strict=True) if pair[1] is not None)


def _described(client: redis.Redis, sizes: Sequence[tuple[bytes, int]]) -> Iterator[BigKey]:
    types = [name.decode() for name in execute_all(client, [("TYPE", key) for key, _ in sizes])]
    asked = [
        (LENGTHS[kind], key) for (key, _), kind in zip(sizes, types, strict=True) if kind in LENGTHS
    ]
    lengths = iter(execute_all(client, asked))
    for (key, size), kind in zip(sizes, types, strict=True):
        length = next(lengths) if kind in LENGTHS else None
        if kind != "none":
            yield BigKey(key=key, bytes=size, type=kind, length=length)


def _batches(keys: Iterable[Any]) -> Iterator[list[Any]]:
    left = iter(keys)
    while batch := list(islice(left, BATCH)):
        yield batch
