"""Locks as people read them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from nexus_redis_provider.cli.documents import is_passed_over
from nexus_redis_provider.core.durations import in_words
from nexus_redis_provider.core.locks.audits import AuditEntry
from nexus_redis_provider.core.locks.states import Holder, LockState, Waiter

_HOLDERS_LISTED = 5


def printable(text: str) -> str:
    """The text, with what a terminal would obey or hide written as an escape."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def locks_table(states: Sequence[LockState]) -> Table:
    """One row for each holder of each lock."""
    table = _table("LOCK", "HELD BY", "SINCE (UTC)", "LEASE LEFT", "WAITING", "TOKEN")
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
    yield _facts([*about, ("held", held), ("waiting", state.length)])
    for holder in state.holders:
        yield _heading(f"Held by {printable(holder.owner)}")
        yield _facts(
            [
                *_described(holder.description),
                ("since", f"{_time(holder.since)} UTC"),
                ("lease left", _left(holder)),
                ("token", holder.token),
                ("mode", _mode(holder.permits)),
                ("entries", holder.entries),
                *([("deployment", holder.deployment)] if holder.deployment else []),
            ]
        )
    if state.waiters:
        yield _heading("In line")
        yield _waiters_table(state.waiters)
        if (more := state.length - len(state.waiters)) > 0:
            yield f"and {more} more"
    if entries:
        yield _heading("Done by force, newest first")
        yield _audit_table(entries)


def release_view(lost: Sequence[Holder], now: LockState) -> Iterator[RenderableType]:
    """Who lost a lock, and who has it next."""
    for holder in lost:
        url = holder.description.get("url")
        yield (
            f"Lock {printable(holder.name)} was taken from {printable(holder.owner)}, who held it "
            f"since {_time(holder.since)} UTC with token {holder.token}."
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
    table = _table("#", "WHO", "SINCE (UTC)", "MODE", "HEARD FROM")
    for position, one in enumerate(waiters, start=1):
        heard = "no, passed over" if is_passed_over(one) else "yes"
        table.add_row(str(position), Text(_who(one)), _time(one.since), _mode(one.permits), heard)
    return table


def _audit_table(entries: Sequence[AuditEntry]) -> Table:
    table = _table("WHEN (UTC)", "WHAT", "OWNER", "BY", "WHY", "TOKEN")
    for one in entries:
        texts = [Text(printable(text)) for text in (one.action, one.owner, one.by, one.why)]
        table.add_row(_time(one.at), *texts, str(one.token))
    return table


_FREE_TEXT = ("LOCK", "HELD BY", "WHO", "OWNER", "WHY")


def _table(*headers: str) -> Table:
    """A table which, where the terminal is narrow, breaks texts and leaves numbers whole."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for header in headers:
        table.add_column(header, no_wrap=header not in _FREE_TEXT, overflow="fold")
    return table


def _facts(facts: Sequence[tuple[str, Any]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(printable(name), Text(printable(str(value))))
    return grid


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


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


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
