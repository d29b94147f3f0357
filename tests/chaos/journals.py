"""What happened, written where Redis cannot lose it: one append-only file for each process.

Times are CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SUFFIX = ".jsonl"


class Journal:
    """The log of one process. A line is one write(2), so a kill cannot mix two of them up."""

    def __init__(self, directory: Path, source: str) -> None:
        self.path = directory / f"{source}{_SUFFIX}"
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def log(self, what: str, *, at: float | None = None, **facts: Any) -> None:
        line = {"at": time.monotonic() if at is None else at, "what": what, **facts}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


@dataclass(frozen=True, slots=True)
class Event:
    """A line of a log."""

    at: float
    source: str
    what: str
    facts: dict[str, Any]

    def __getitem__(self, fact: str) -> Any:
        return self.facts[fact]


def read_journals(directory: Path) -> list[Event]:
    """The events of all processes, in the order of their times."""
    events = [event for path in directory.glob(f"*{_SUFFIX}") for event in _read(path)]
    # Stable: events of one process that have the same time stay in their order.
    return sorted(events, key=lambda event: event.at)


def _read(path: Path) -> Iterator[Event]:
    for line in path.read_bytes().splitlines(keepends=True):
        # Who is killed as it writes leaves half a line, the last one.
        if line.endswith(b"\n"):
            facts = json.loads(line)
            yield Event(facts.pop("at"), path.stem, facts.pop("what"), facts)
