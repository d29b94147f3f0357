"""What keys hold, as digests that are the same wherever the same is held.

Not of DUMP, which depends on the server's version and its settings, and for sets and hashes on the
order in which a server happens to keep them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import redis

from nexus_redis_provider.core.exchanges import execute_all
from nexus_redis_provider.core.keyspace.types import LENGTHS

_FOOTER = 10
_WHOLE = 10_000
Digest = bytes | None
_Command = tuple[Any, ...]
_Read = tuple[Callable[[bytes], _Command], Callable[[Any], Iterable[Any]]]


def digests(client: redis.Redis, keys: Sequence[bytes]) -> list[Digest]:
    """Of type, value and expiry of each key, in the order of the keys; None where there is none.

    A replica keeps hashes all of whose fields have expired; here there is none.

    Of a collection with more than ten thousand elements, their number stands for its value.

    Args:
        client: of one server, or of a whole Cluster, with `protocol=3`.
        keys: some, whose values are read at once.

    Raises: as `scripts.run`.
    """
    types = [name.decode() for name in execute_all(client, [("TYPE", key) for key in keys])]
    expiries = execute_all(client, [("PEXPIRETIME", key) for key in keys])
    reads = _reads(client, keys, types)
    asked = [read(key) for key, (read, _) in zip(keys, reads, strict=True)]
    values = execute_all(client, asked)
    return [
        None if kind == "none" or value == {} else _digest(kind, expiry, parts_of(value))
        for kind, expiry, value, (_, parts_of) in zip(types, expiries, values, reads, strict=True)
    ]


def _reads(client: redis.Redis, keys: Sequence[bytes], types: Sequence[str]) -> list[_Read]:
    """How each key is read."""
    asked = [(LENGTHS.get(kind, "EXISTS"), key) for key, kind in zip(keys, types, strict=True)]
    lengths = execute_all(client, asked)
    return [
        _number(kind) if kind != "string" and length > _WHOLE else _READS.get(kind, _OTHER)
        for kind, length in zip(types, lengths, strict=True)
    ]


def _number(kind: str) -> _Read:
    return lambda key: (LENGTHS[kind], key), lambda length: [length]


def _digest(kind: str, expiry: int, parts: Iterable[Any]) -> bytes:
    digest = hashlib.sha256(f"{kind} {expiry}".encode())
    for part in parts:
        text = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(b" %d " % len(text) + text)
    return digest.digest()


def _pairs(value: dict[bytes, bytes]) -> list[Any]:
    return sorted(value.items())


def _entries(value: list[Any]) -> list[Any]:
    # Of a key that is just moving, redis-py has made dictionaries of them.
    return [
        (entry, [*chain(*pairs.items())] if isinstance(pairs, dict) else pairs)
        for entry, pairs in value
    ]


_READS: dict[str, _Read] = {
    "string": (lambda key: ("GET", key), lambda value: [value]),
    "list": (lambda key: ("LRANGE", key, 0, -1), list),
    "set": (lambda key: ("SMEMBERS", key), sorted),
    "zset": (lambda key: ("ZRANGE", key, 0, -1, "WITHSCORES"), list),
    "hash": (lambda key: ("HGETALL", key), _pairs),
    "stream": (lambda key: ("XRANGE", key, "-", "+"), _entries),
}
# Of a module: without the version and the checksum at its end. Of a key that has gone, nothing.
_OTHER: _Read = (
    lambda key: ("DUMP", key),
    lambda value: [value[:-_FOOTER]] if value else [],
)
