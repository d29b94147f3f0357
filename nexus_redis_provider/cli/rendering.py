"""What texts, tables and times look like on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

_NUMBERS = ("ROWS", "BYTES", "KEPT", "STAGED", "TO SWEEP", "LENGTH", "MS", "KEYS")
_FREE_TEXT = (
    "LOCK",
    "HELD BY",
    "WHO",
    "OWNER",
    "WHY",
    "DATASET",
    "COLUMN",
    "TYPE",
    "VALUE",
    "REMOVED",
    "KEY",
    "COMMAND",
    "SERVER",
)


def printable(text: str) -> str:
    """The text, with what a terminal would obey or hide written as an escape."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def new_table(*headers: str) -> Table:
    """A table which, where the terminal is narrow, breaks texts and leaves numbers whole."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for header in headers:
        table.add_column(
            header,
            no_wrap=header not in _FREE_TEXT,
            overflow="fold",
            justify="right" if header in _NUMBERS else "left",
        )
    return table


def fact_grid(facts: Sequence[tuple[str, Any]]) -> Table:
    """Names and values, one pair a line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(printable(name), Text(printable(str(value))))
    return grid


def heading(text: str) -> Text:
    """What stands above a table."""
    return Text(f"\n{text}", style="bold")


def moment(at: datetime) -> str:
    """A moment in UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
