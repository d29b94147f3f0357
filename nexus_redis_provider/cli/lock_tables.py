"""Locks as people read them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from nexus_redis_provider.cli.lock_documents import is_passed_over
from nexus_redis_provider.cli.rendering import fact_grid, heading, moment, new_table, printable
from nexus_redis_provider.core.durations import in_words
from nexus_redis_provider.core.locks.audits import AuditEntry
from nexus_redis_provider.core.locks.states import Holder, LockState, Waiter

_HOLDERS_LISTED = 5


def locks_table(states: Sequence[LockState]) -> Table:
    """One row for each holder of each lock."""
    table = new_table("LOCK", "HELD BY", "SINCE (UTC)", "LEASE LEFT", "WAITING", "TOKEN")
    for state in states:
        shown, more = state.holders[:_HOLDERS_LISTED], len(state.holders) - _HOLDERS_LISTED
        rows = [(_who(one), _minute(one.since), _left(one), one.token) for one in shown]
        rows = rows or [("-", "-", "-", state.token)]
        for number, (who, since, left, token) in enumerate(rows):
            first = number == 0
            table.add_row(
                Text(printable(state.name) if first else ""),
                Text(who),
                since,
                left,
                str(state.length) if first else "",
                str(token),
            )
        if more > 0:
            table.add_row("", f"and {more} more")
    return table


def lock_view(state: LockState, entries: Sequence[AuditEntry]) -> Iterator[RenderableType]:
    """Everything about one lock."""
    about = [("lock", state.name), ("newest token", state.token or "forgotten")]
    held = f"by {len(state.holders)}" if state.holders else "by nobody"
    yield fact_grid([*about, ("held", held), ("waiting", state.length)])
    for holder in state.holders:
        yield heading(f"Held by {printable(holder.owner)}")
        yield fact_grid(
            [
                *_described(holder.description),
                ("since", f"{moment(holder.since)} UTC"),
                ("lease left", _left(holder)),
                ("token", holder.token),
                ("mode", _mode(holder.permits)),
                ("entries", holder.entries),
                *([("deployment", holder.deployment)] if holder.deployment else []),
            ]
        )
    if state.waiters:
        yield heading("In line")
        yield _waiters_table(state.waiters)
        if (more := state.length - len(state.waiters)) > 0:
            yield f"and {more} more"
    if entries:
        yield heading("Done by force, newest first")
        yield _audit_table(entries)


def release_view(lost: Sequence[Holder], now: LockState) -> Iterator[RenderableType]:
    """Who lost a lock, and who has it next."""
    for holder in lost:
        url = holder.description.get("url")
        yield (
            f"Lock {printable(holder.name)} was taken from {printable(holder.owner)}, who held it "
            f"since {moment(holder.since)} UTC with token {holder.token}."
        )
        if url:
            yield f"  See {printable(str(url))}"
    following = next((one for one in now.waiters if not is_passed_over(one)), None)
    if now.holders:
        yield f"Now held by {', '.join(printable(one.owner) for one in now.holders)}."
    elif following:
        yield f"Next in line: {printable(following.owner)}; waiting: {now.length}."
    else:
        yield "Nobody waits for it: it is free."
    yield (
        "Who lost it is not stopped by that. If it still works, stop it; what it writes with its "
        "token as a fence is refused once a later holder has written."
    )


def _waiters_table(waiters: Sequence[Waiter]) -> Table:
    table = new_table("#", "WHO", "SINCE (UTC)", "MODE", "HEARD FROM")
    for position, one in enumerate(waiters, start=1):
        heard = "no, passed over" if is_passed_over(one) else "yes"
        table.add_row(str(position), Text(_who(one)), moment(one.since), _mode(one.permits), heard)
    return table


def _audit_table(entries: Sequence[AuditEntry]) -> Table:
    table = new_table("WHEN (UTC)", "WHAT", "OWNER", "BY", "WHY", "TOKEN")
    for one in entries:
        texts = [Text(printable(text)) for text in (one.action, one.owner, one.by, one.why)]
        table.add_row(moment(one.at), *texts, str(one.token))
    return table


def _described(description: Any) -> list[tuple[str, Any]]:
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in description.items()
    ]


def _who(one: Holder | Waiter) -> str:
    dag_id, run_id = one.description.get("dag_id"), one.description.get("run_id")
    return printable(f"DAG {dag_id}, run {run_id}" if dag_id and run_id else one.owner)


def _mode(permits: int) -> str:
    return {0: "shared", 1: "exclusive"}.get(permits, f"{permits} at once")


def _left(holder: Holder) -> str:
    return in_words(holder.expires_in) if holder.expires_in > 0 else "over"


def _minute(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"
