"""What was done to a lock by force, and by whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis

from nexus_redis_provider.core.endpoint import translated_errors
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE, LockKeys


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One interference with a lock.

    Attributes:
        at: when, by the server's clock.
        action: what was done; `force-release` so far.
        owner: whose hold ended by it.
        token: the fencing token of that hold.
        by: who did it.
        why: the reason that was given.
    """

    at: datetime
    action: str
    owner: str
    token: int
    by: str
    why: str


def audit(
    client: redis.Redis, name: str, *, count: int = 10, namespace: str = DEFAULT_NAMESPACE
) -> list[AuditEntry]:
    """What was done to a lock by force, newest first; also where the lock itself is forgotten.

    Args:
        client: of the server that holds the lock, without `decode_responses`.
        name: of the lock.
        count: how many entries, at most.
        namespace: first part of the keys.

    Raises:
        UnreachableError: no answer within the client's timeouts and retries.
        AccessDeniedError: bad credentials, or the ACL forbids XREVRANGE or the key.

    Redis: stream `LockKeys.audit`. Cost: one round trip.
    """
    with translated_errors(client):
        entries: Any = client.xrevrange(LockKeys(name, namespace).audit, count=count)
    return [_entry(entry_id, fields) for entry_id, fields in entries]


def _entry(entry_id: bytes, fields: Mapping[bytes, bytes]) -> AuditEntry:
    text = {key.decode(): value.decode(errors="replace") for key, value in fields.items()}
    return AuditEntry(
        at=_time_of(entry_id),
        action=text["action"],
        owner=text["owner"],
        token=int(text["token"]),
        by=text["by"],
        why=text["why"],
    )


def _time_of(entry_id: bytes) -> datetime:
    # The server numbers entries by its clock: `milliseconds-sequence`.
    return datetime.fromtimestamp(int(entry_id.split(b"-")[0]) / 1000, tz=UTC)
