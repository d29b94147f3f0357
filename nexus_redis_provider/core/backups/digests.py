"""What keys hold, as digests that are the same wherever the same is held.

Not of DUMP, which depends on the server's version and its settings, and for sets and hashes on the
order in which a server happens to keep them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import redis

from nexus_redis_provider.core.exchanges import execute_all

_FOOTER = 10
Digest = bytes | None


def digests(client: redis.Redis, keys: Sequence[bytes]) -> list[Digest]:
    """Of type, value and expiry of each key, in the order of the keys; None where there is none.

    Args:
        client: of one server.
        keys: some, whose whole values are read at once.

    Raises: as `scripts.run`.
    """
    types = [name.decode() for name in execute_all(client, [("TYPE", key) for key in keys])]
    expiries = execute_all(client, [("PEXPIRETIME", key) for key in keys])
    asked = [_READS.get(kind, _OTHER)[0](key) for key, kind in zip(keys, types, strict=True)]
    values = execute_all(client, asked)
    return [
        None if kind == "none" else _digest(kind, expiry, _READS.get(kind, _OTHER)[1](value))
        for kind, expiry, value in zip(types, expiries, values, strict=True)
    ]


def _digest(kind: str, expiry: int, parts: Iterable[Any]) -> bytes:
    digest = hashlib.sha256(f"{kind} {expiry}".encode())
    for part in parts:
        text = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(b" %d " % len(text) + text)
    return digest.digest()


_Command = tuple[Any, ...]
_Read = tuple[Callable[[bytes], _Command], Callable[[Any], Iterable[Any]]]


def _pairs(value: Any) -> list[Any]:
    # A map, or pairs, or what would be pairs, as the protocol has it.
    return sorted(value.items() if isinstance(value, dict) else value)


_READS: dict[str, _Read] = {
    "string": (lambda key: ("GET", key), lambda value: [value]),
    "list": (lambda key: ("LRANGE", key, 0, -1), list),
    "set": (lambda key: ("SMEMBERS", key), sorted),
    "zset": (lambda key: ("ZRANGE", key, 0, -1, "WITHSCORES"), list),
    "hash": (lambda key: ("HGETALL", key), _pairs),
    "stream": (lambda key: ("XRANGE", key, "-", "+"), list),
}
# Of a module: without the version and the checksum at its end. Of a key that has gone, nothing.
_OTHER: _Read = (
    lambda key: ("DUMP", key),
    lambda value: [value[:-_FOOTER]] if value else [],
)
