"""The lock protocol: what holders, waiters and onlookers say to the server, one script each.

What a lock promises: the server never lets in more holders at once than each of them permits, lets
them in in the order in which they came, and gives every new one a larger token than all before.
What no lease can promise: that an owner which was paused past its lease notices before it acts. So
hand the token to whatever you write to, and let it refuse older ones; `gold` datasets do
(Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from nexus_redis_provider.core.bounds import is_whole
from nexus_redis_provider.core.durations import Duration, to_ms
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE, LockKeys
from nexus_redis_provider.core.locks.states import (
    NOBODY,
    Acquisition,
    Attendance,
    Holder,
    LockState,
    holders_of,
    time_of,
    waiter_of,
)
from nexus_redis_provider.core.scripts import Call

Mode = Literal["exclusive", "shared"]

_DEPLOYMENT = re.compile(r"[A-Za-z0-9_.:@-]{1,100}")


@dataclass(frozen=True, slots=True)
class Claim:
    """Who wants which lock, and whom it lets in besides.

    Args:
        name: free text; equal names are the same lock.
        owner: identity that a retry of the same work repeats exactly.
        mode: `exclusive`, or `shared` with others that say so too.
        permits: how many may hold it at once; 1 excludes all others, more make a semaphore.
        deployment: the Airflow that the owner belongs to, or empty. Contenders of the same one ask
            there whether a holder still lives, whatever its lease says.
        lease_only: the owner's own hold ends with its lease all the same.
        description: shown to whoever inspects the lock or waits for it.
        namespace: first part of the keys.

    Raises:
        ConfigurationError: one of them is not as it must be.
    """

    name: str
    owner: str
    mode: Mode = "exclusive"
    permits: int = 1
    deployment: str = ""
    lease_only: bool = False
    description: Mapping[str, Any] = field(default_factory=dict)
    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        if not self.name or not self.owner:
            raise ConfigurationError(
                f"A lock needs a name and an owner, not {self.name!r} and {self.owner!r}."
            )
        if self.mode not in get_args(Mode):
            modes = " or ".join(get_args(Mode))
            raise ConfigurationError(
                f"Lock {self.name!r}: mode must be {modes}, not {self.mode!r}."
            )
        if not is_whole(self.permits, 1):
            raise ConfigurationError(
                f"Lock {self.name!r}: permits must be a whole number from 1, not {self.permits!r}."
            )
        if self.mode == "shared" and self.permits != 1:
            raise ConfigurationError(
                f"Lock {self.name!r}: permits={self.permits} is for a semaphore; mode='shared' "
                "lets in any number. Give one of them."
            )
        if self.deployment and not _DEPLOYMENT.fullmatch(self.deployment):
            raise ConfigurationError(
                "A deployment's id must be 1 to 100 of the characters A-Z a-z 0-9 _ . : @ -, not "
                f"{self.deployment!r}."
            )

    @property
    def keys(self) -> LockKeys:
        """Where the lock stands in Redis."""
        return LockKeys(self.name, self.namespace)


def acquire(
    claim: Claim,
    lease: Duration,
    *,
    stay: Duration | None = None,
    bell: str = NOBODY,
    ticket: int = 0,
    request: str = "",
) -> Call[Acquisition]:
    """Take the lock, or learn who holds it. The same owner gets the same token again.

    Args:
        claim: who wants what.
        lease: seconds until others may take the lock unless it is renewed.
        stay: stand in line if it is not free, and count as living for so many seconds; None only
            asks.
        bell: to be woken by: a channel, or `list:ID` for the list `LockKeys.wake(ID)`.
        ticket: of a place held before, for a server that has forgotten it.
        request: identity of this request, `ID.N`. The owner enters once for it, however often it is
            sent, also if a copy arrives late, after one with the same ID and a larger N. By default
            that of this call.

    Redis: see `LockKeys`; one script. Clock: server.
    """
    args = (
        claim.owner,
        to_ms(lease, "lease"),
        0 if claim.mode == "shared" else claim.permits,
        claim.deployment or NOBODY,
        json.dumps(dict(claim.description), sort_keys=True) if claim.description else "{}",
        0 if stay is None else to_ms(stay, "stay"),
        bell,
        ticket,
        NOBODY if claim.lease_only else claim.deployment or NOBODY,
        request or f"{uuid.uuid4().hex}.1",
    )

    def decode(reply: Any) -> Acquisition:
        if reply[0] == 1:
            _, token, left_ms, since_ms, waited_ms, expired, entries = reply
            return Acquisition(
                acquired=True,
                token=int(token),
                expires_in=left_ms / 1000,
                since=time_of(since_ms),
                waited=waited_ms / 1000,
                entries=entries,
                expired=expired,
            )
        _, ticket, position, length, holders = reply
        return Acquisition(
            acquired=False,
            ticket=int(ticket),
            position=position,
            length=length,
            holders=holders_of(claim.name, holders),
        )

    return Call("acquire_lock", claim.keys.state, args, decode, has_part=True)


def with_request(
    call: Call[Acquisition], request: str, *, bell: str = NOBODY, lease: float | None = None
) -> Call[Acquisition]:
    """An `acquire` as another request, without building all of it again."""
    owner, lease_ms, *rest, _, ticket, oracle, _ = call.args
    asked_ms = lease_ms if lease is None else to_ms(lease, "lease")
    args = (owner, asked_ms, *rest, bell, ticket, oracle, request)
    return Call(call.script, call.keys, args, call.decode, has_part=True)


def release(
    name: str, owner: str, token: int, entries: int = 0, *, namespace: str = DEFAULT_NAMESPACE
) -> Call[float | None]:
    """Give the lock back if it is still ours; never takes it from another owner. Repeatable.

    Args:
        name, owner, token: of the hold.
        entries: release only if the owner has not taken the lock again since; 0 does in any case.

    Returns:
        The seconds for which it was held, or None if it was not ours (any more).
    """
    return Call(
        "release_lock",
        LockKeys(name, namespace).state,
        (owner, token, entries),
        lambda reply: reply[1] / 1000 if reply[0] == 1 else None,
        has_part=True,
    )


def steal(holder: Holder, *, namespace: str = DEFAULT_NAMESPACE) -> Call[float | None]:
    """Take the lock from a holder that was found dead, unless it has shown itself since.

    Ask for the holder first and whether it lives after that: who took the lock again meanwhile (as
    a run that is cleared does) has another number of entries, and keeps it. Returns as `release`.
    """
    return release(holder.name, holder.owner, holder.token, holder.entries, namespace=namespace)


def renew(
    name: str,
    owner: str,
    token: int,
    lease: Duration,
    *,
    namespace: str = DEFAULT_NAMESPACE,
) -> Call[str | None]:
    """Let the lease begin anew. Returns None, or who holds the lock instead ('' for nobody)."""
    return Call(
        "renew_lock",
        LockKeys(name, namespace).state,
        (owner, token, to_ms(lease, "lease")),
        lambda reply: None if reply[0] == 1 else reply[1].decode(),
        has_part=True,
    )


def extend(
    holder: Holder, lease: Duration, *, namespace: str = DEFAULT_NAMESPACE
) -> Call[str | None]:
    """Let the lease of a holder that was found alive begin anew, on its behalf; as `renew`."""
    return renew(holder.name, holder.owner, holder.token, lease, namespace=namespace)


def leave(name: str, owner: str, *, namespace: str = DEFAULT_NAMESPACE) -> Call[bool]:
    """Stand in line no longer, and forget the ticket. Returns whether there was one."""
    return Call("leave_line", LockKeys(name, namespace).state, (owner,), bool, has_part=True)


def attend(
    name: str,
    owners: Sequence[str],
    *,
    channel: str = NOBODY,
    namespace: str = DEFAULT_NAMESPACE,
) -> Call[Attendance]:
    """Let waiters count as living for their `stay` anew, and learn how they stand.

    Args:
        name: of the lock.
        owners: of the waiters, in any number.
        channel: to be woken by from now on.
    """

    def decode(reply: Any) -> Attendance:
        turns, strangers, positions, length, head, holders = reply
        return Attendance(
            turns=frozenset(owner.decode() for owner in turns),
            strangers=frozenset(owner.decode() for owner in strangers),
            positions=dict(zip(owners, positions, strict=True)),
            length=length,
            head=head.decode(),
            holders=holders_of(name, holders),
        )

    args = (channel, json.dumps(list(owners)))
    return Call("attend_line", LockKeys(name, namespace).state, args, decode)


def inspect(
    name: str, *, waiters: int = 100, namespace: str = DEFAULT_NAMESPACE
) -> Call[LockState]:
    """Who holds the lock and who waits for it. Changes nothing.

    Args:
        waiters: how many of them to show, at most.
    """

    def decode(reply: Any) -> LockState:
        token, length, holders, waiting = reply
        by_age = sorted(holders_of(name, holders), key=lambda holder: holder.token)
        return LockState(name, int(token), tuple(by_age), length, tuple(map(waiter_of, waiting)))

    keys = LockKeys(name, namespace).state
    return Call("inspect_lock", keys, (waiters,), decode, has_part=True)


def who_holds(name: str, *, namespace: str = DEFAULT_NAMESPACE) -> Call[Holder | None]:
    """Who holds the lock, for the longest time if there are several, or None."""
    call = inspect(name, waiters=0, namespace=namespace)

    def decode(reply: Any) -> Holder | None:
        return next(iter(call.decode(reply).holders), None)

    return Call(call.script, call.keys, call.args, decode, has_part=True)


def break_lock(
    name: str, *, by: str, why: str, owner: str = "", namespace: str = DEFAULT_NAMESPACE
) -> Call[tuple[Holder, ...]]:
    """Take the lock from its holders by force, and write down who did and why.

    A holder that still works is not stopped by that: its fencing token is what makes it harmless.

    Args:
        name: of the lock.
        by: who does it.
        why: the reason.
        owner: whose hold is to end; empty for all.

    Returns:
        Who lost it.

    Redis: stream `LockKeys.audit`, capped at a thousand entries.
    """
    if not by or not why:
        raise ConfigurationError(
            f"Breaking lock {name!r} needs who does it and why: it is audited."
        )
    keys = LockKeys(name, namespace)
    return Call(
        "break_lock",
        (*keys.state, keys.audit),
        (owner, by, why, uuid.uuid4().hex),
        lambda reply: holders_of(name, reply),
    )


def is_free(holder: Holder | None) -> bool:
    """Whether another plain owner may take the exclusive lock that `who_holds` found so."""
    return holder is None or holder.expires_in <= 0
