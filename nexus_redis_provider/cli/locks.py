"""The commands on locks."""

from __future__ import annotations

import getpass
import os
import socket
from argparse import Namespace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import redis

from nexus_redis_provider.cli.lock_documents import (
    audit_document,
    holder_document,
    lock_document,
    waiter_document,
)
from nexus_redis_provider.cli.running import Answer
from nexus_redis_provider.core.endpoint import address_of
from nexus_redis_provider.core.errors import ConfigurationError, LockError
from nexus_redis_provider.core.locks.audits import audit
from nexus_redis_provider.core.locks.listing import lock_names, lock_states
from nexus_redis_provider.core.locks.protocol import break_lock, inspect
from nexus_redis_provider.core.locks.states import LockState
from nexus_redis_provider.core.scripts import run

if TYPE_CHECKING:
    from nexus_redis_provider.cli.running import Parts

_WAITERS_SHOWN = 1000
_ENTRIES_SHOWN = 10


def list_locks(client: redis.Redis, args: Namespace) -> Answer:
    """Every lock that is held or waited for, by name; with `--all` also those that are free."""
    names = (
        name
        for name in lock_names(client, args.namespace)
        if args.match is None or fnmatchcase(name, args.match)
    )
    states, complaints = list[LockState](), list[str]()
    for name, state in lock_states(client, names, namespace=args.namespace):
        if not isinstance(state, LockState):
            complaints.append(f"Lock {name!r} cannot be read: {state}")
        elif args.all or state.holders or state.length:
            states.append(state)
    states.sort(key=lambda state: state.name)

    def view() -> Parts:
        from nexus_redis_provider.cli.lock_tables import locks_table

        return [locks_table(states) if states else f"No locks {_where(client, args)}."]

    return Answer([lock_document(state) for state in states], view, tuple(complaints))


def show_lock(client: redis.Redis, args: Namespace) -> Answer:
    """All that is known of one lock.

    Raises:
        LockError: the server remembers no such lock.
    """
    asked = inspect(args.name, waiters=_WAITERS_SHOWN, namespace=args.namespace)
    state = run(client, asked)
    entries = audit(client, args.name, count=_ENTRIES_SHOWN, namespace=args.namespace)
    if not (state.token or state.holders or state.length or entries):
        raise LockError(
            f"There is no lock {args.name!r} {_where(client, args)}. See `locks list --all`.",
            args.name,
        )
    document = lock_document(state) | {
        "waiters": [waiter_document(one, at) for at, one in enumerate(state.waiters, start=1)],
        "audit": [audit_document(entry) for entry in entries],
    }

    def view() -> Parts:
        from nexus_redis_provider.cli.lock_tables import lock_view

        return lock_view(state, entries)

    return Answer(document, view)


def release_lock(client: redis.Redis, args: Namespace) -> Answer:
    """Take a lock from its holders by force.

    Raises:
        ConfigurationError: it was not asked for by `--force`, or no reason was given.
        LockError: nobody, or not that owner, holds it.
    """
    if not args.force:
        raise ConfigurationError(
            f"Lock {args.name!r} was left alone. A holder that still works is not stopped by "
            "losing its lock, and the next one would work beside it. Stop it first, or be sure "
            "that it is dead or that all it writes is fenced; then add --force."
        )
    if not (args.why or "").strip():
        raise ConfigurationError(
            f"Lock {args.name!r} was left alone: say why by --why TEXT; it is written down."
        )
    by = args.by or _myself()
    call = break_lock(
        args.name, by=by, why=args.why, owner=args.owner or "", namespace=args.namespace
    )
    lost = run(client, call)
    now = run(client, inspect(args.name, namespace=args.namespace))
    if not lost:
        raise LockError(_not_held(now, args.owner), args.name)
    document = {
        "name": args.name,
        "by": by,
        "why": args.why,
        "lost": [holder_document(holder) for holder in lost],
        "now": lock_document(now),
    }

    def view() -> Parts:
        from nexus_redis_provider.cli.lock_tables import release_view

        return release_view(lost, now)

    return Answer(document, view)


def _not_held(now: LockState, owner: str | None) -> str:
    asked = f" by {owner!r}" if owner else ""
    # Without an owner, who holds it now has come since.
    others = f", but by {now.holders[0].owner!r}" if owner and now.holders else ""
    more = f" and {len(now.holders) - 1} more" if others and len(now.holders) > 1 else ""
    return f"Lock {now.name!r} is not held{asked}{others}{more}; nothing was changed."


def _where(client: redis.Redis, args: Namespace) -> str:
    return f"at {address_of(client)} in namespace {args.namespace!r}"


def _myself() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container may run as a user that has no name.
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
