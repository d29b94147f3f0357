"""What a lock is: its holders, its waiters, and what came of asking for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

NOBODY = "-"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock.

    Attributes:
        owner: the holder's identity, such as `deployment/dag_id/run_id`.
        token: its fencing token.
        permits: how many may hold the lock at once as it sees it; 0 for any number.
        expires_in: seconds left of its lease; negative when it has run out and nobody else came.
        since: when it took the lock, by the server's clock.
        entries: how often the owner took it, retries of the same work included.
        deployment: where it can be asked whether it still lives; empty where its lease says so.
        description: what the holder says of itself.
    """

    name: str
    owner: str
    token: int
    permits: int
    expires_in: float
    since: datetime
    entries: int
    deployment: str
    description: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Waiter:
    """Who stands in line for a lock.

    Attributes:
        owner: the identity that it will hold the lock by.
        ticket: its place; smaller is earlier.
        permits: as of a holder.
        since: when it came, by the server's clock.
        heard_for: seconds until it is passed over unless it is heard from; negative if it is.
        deployment: as of a holder.
        description: what it says of itself.
    """

    owner: str
    ticket: int
    permits: int
    since: datetime
    heard_for: float
    deployment: str
    description: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Acquisition:
    """What came of an attempt to take a lock.

    Attributes:
        acquired: whether it is ours.
        token: our fencing token, or 0.
        expires_in: seconds left of our lease, or 0.
        since: when we took it; None if it is not ours.
        waited: seconds since we first stood in line, if it is ours now.
        entries: how often we have taken it since `since`.
        expired: holders whose lease had run out, and whose hold we ended by entering.
        ticket: our place in the line, or 0 if we stand in none.
        position: how many are before us, and we ourselves; 0 if we stand in no line.
        length: of the line.
        holders: who has it instead; none where only those ahead of us have a claim.
    """

    acquired: bool
    token: int = 0
    expires_in: float = 0.0
    since: datetime | None = None
    waited: float = 0.0
    entries: int = 0
    expired: int = 0
    ticket: int = 0
    position: int = 0
    length: int = 0
    holders: tuple[Holder, ...] = ()


@dataclass(frozen=True, slots=True)
class Attendance:
    """How a line stands, as those see it who attend it together.

    Attributes:
        turns: owners whose turn it is.
        strangers: owners that have no place in the line (any more): they hold the lock, gave up, or
            the server lost its data.
        positions: by owner, from 1.
        length: of the line.
        head: the first living waiter, attended by whomever; empty if there is none.
        holders: of the lock.
    """

    turns: frozenset[str]
    strangers: frozenset[str]
    positions: Mapping[str, int]
    length: int
    head: str
    holders: tuple[Holder, ...]


@dataclass(frozen=True, slots=True)
class LockState:
    """A lock as an onlooker sees it.

    Attributes:
        token: the newest fencing token; 0 if it is forgotten.
        holders: longest first.
        length: of the line.
        waiters: the first ones in line.
    """

    name: str
    token: int
    holders: tuple[Holder, ...]
    length: int
    waiters: tuple[Waiter, ...]


def time_of(milliseconds: Any) -> datetime:
    """A moment, from what a script says of it."""
    return datetime.fromtimestamp(int(milliseconds) / 1000, tz=UTC)


def _deployment(text: bytes) -> str:
    return text.decode() if text != NOBODY.encode() else ""


def holders_of(name: str, reply: list[list[Any]]) -> tuple[Holder, ...]:
    """The holders of a lock, from what `shown` in `lua/include/lock.lua` gives."""
    return tuple(
        Holder(
            name=name,
            owner=owner.decode(),
            token=int(token),
            permits=int(permits),
            expires_in=left_ms / 1000,
            since=time_of(since_ms),
            entries=int(entries),
            deployment=_deployment(deployment),
            description=json.loads(text),
        )
        for owner, token, permits, left_ms, since_ms, entries, deployment, text in reply
    )


def waiter_of(reply: list[Any]) -> Waiter:
    """A waiter, from what `inspect_lock.lua` gives."""
    owner, ticket, permits, arrived_ms, heard_ms, deployment, text = reply
    return Waiter(
        owner=owner.decode(),
        ticket=int(ticket),
        permits=int(permits),
        since=time_of(arrived_ms),
        heard_for=heard_ms / 1000,
        deployment=_deployment(deployment),
        description=json.loads(text),
    )
