"""Commands that took long, as the servers have logged them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis

from nexus_redis_provider.core.clusters import primaries_of
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.exchanges import execute_all


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowCommand:
    """A command that took longer than `slowlog-log-slower-than`.

    Attributes:
        server: that did it.
        id: number in that server's log.
        at: when it was done; server clock, to the second.
        duration: seconds that it took, without waiting and sending.
        words: command and arguments; the server leaves out all but 32, and of each all but 128
            bytes.
        client: `host:port` of who asked.
        client_name: by CLIENT SETNAME, or empty.
    """

    server: str
    id: int
    at: datetime
    duration: float
    words: tuple[bytes, ...]
    client: str
    client_name: str


def slow_log(client: redis.Redis, count: int = 128) -> list[SlowCommand]:
    """What the servers have logged, newest first.

    Args:
        client: of one server, or of a whole Cluster: then of all its primaries.
        count: entries of each server, at most; each keeps `slowlog-max-len`, by default 128.

    Raises:
        UnreachableError, AccessDeniedError: a server cannot be asked.
        ConfigurationError: `count` is not positive.
    """
    if count < 1:
        raise ConfigurationError(f"count must be at least 1, not {count}.")
    found = [
        _entry(primary.address, *entry)
        for primary in primaries_of(client)
        for entry in execute_all(primary.client, [("SLOWLOG", "GET", count)])[0]
    ]
    return sorted(found, key=lambda entry: (entry.at, entry.id), reverse=True)


def _entry(server: str, number: int, at: int, us: int, words: Any, *who: bytes) -> SlowCommand:
    client, name = (text.decode(errors="replace") for text in who[:2])
    return SlowCommand(
        server=server,
        id=number,
        at=datetime.fromtimestamp(at, UTC),
        duration=us / 1e6,
        words=tuple(words),
        client=client,
        client_name=name,
    )
