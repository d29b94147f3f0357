"""Locks as JSON documents: times in ISO 8601, durations in seconds, null for what is unlimited."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from nexus_redis_provider.core.locks.audits import AuditEntry
from nexus_redis_provider.core.locks.states import Holder, LockState, Waiter


def mode_of(permits: int) -> str:
    """What a number of permits, as holders and waiters have it, is called."""
    return {0: "shared", 1: "exclusive"}.get(permits, "semaphore")


def holder_document(holder: Holder) -> dict[str, Any]:
    """Who holds a lock."""
    return {
        "owner": holder.owner,
        "token": holder.token,
        "mode": mode_of(holder.permits),
        "permits": holder.permits or None,
        "since": holder.since.isoformat(),
        "expires_in": holder.expires_in,
        "entries": holder.entries,
        "deployment": holder.deployment or None,
        "description": dict(holder.description),
    }


def waiter_document(waiter: Waiter, position: int) -> dict[str, Any]:
    """Who waits for a lock, at which place from 1."""
    return {
        "position": position,
        "owner": waiter.owner,
        "ticket": waiter.ticket,
        "mode": mode_of(waiter.permits),
        "permits": waiter.permits or None,
        "since": waiter.since.isoformat(),
        "heard_for": waiter.heard_for,
        "passed_over": is_passed_over(waiter),
        "deployment": waiter.deployment or None,
        "description": dict(waiter.description),
    }


def is_passed_over(waiter: Waiter) -> bool:
    """Whether others go before it until it is heard from again."""
    return waiter.heard_for <= 0


def lock_document(state: LockState) -> dict[str, Any]:
    """A lock with its holders, and how many wait."""
    return {
        "name": state.name,
        "token": state.token,
        "holders": [holder_document(holder) for holder in state.holders],
        "waiting": state.length,
    }


def audit_document(entry: AuditEntry) -> dict[str, Any]:
    """What was done by force."""
    return {**asdict(entry), "at": entry.at.isoformat()}
