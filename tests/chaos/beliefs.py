"""From when to when a holder believed that it held a lock, as its log tells."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.chaos.journals import Event


@dataclass(frozen=True, slots=True)
class Belief:
    """A holder's belief; closed at both ends."""

    name: str
    owner: str
    token: int
    permits: int
    is_shared: bool
    begin: float
    end: float

    def __str__(self) -> str:
        return f"{self.owner} ({self.token}) {self.begin:.5f} to {self.end:.5f}"


def believed(events: list[Event]) -> Iterator[Belief]:
    """All beliefs, those that are never acted on left out."""
    dead_at = is_dead_at(events)
    moments = defaultdict[tuple[str, str, int], list[float]](list)
    taken = dict[tuple[str, str, int], Event]()
    open_runs = dict[str, Event]()
    for event in events:
        owner = event.facts.get("owner", "")
        if event.what == "acquired":
            taken[event["name"], owner, event["token"]] = event
            if event["bound"] == "oracle" and not dead_at(owner, event.at):
                open_runs.setdefault(owner, event)
        elif event.what == "held":
            if not dead_at(owner, event.at):
                moments[event["name"], owner, event["token"]].append(event.at)
        elif event.what in ("releasing", "died") and owner in open_runs:
            yield _belief(begun := open_runs.pop(owner), begun.at, event.at)
    for begun in open_runs.values():
        yield _belief(begun, begun.at, events[-1].at)
    for key, times in moments.items():
        # A holder that was paused before it wrote that it had the lock was in possession before.
        if key in taken and taken[key]["bound"] == "lease":
            yield _belief(taken[key], min(times), max(times))


def is_dead_at(events: list[Event]) -> Callable[[str, float], bool]:
    """Whether the oracle had ended a run by a time; who is no run never dies."""
    changes = defaultdict[str, list[tuple[float, bool]]](list)
    for event in events:
        if event.what in ("alive", "died"):
            changes[event["owner"]].append((event.at, event.what == "died"))

    def dead_at(owner: str, at: float) -> bool:
        index = bisect.bisect_right(changes[owner], (at, True)) if owner in changes else 0
        return bool(index) and changes[owner][index - 1][1]

    return dead_at


def _belief(taken: Event, begin: float, end: float) -> Belief:
    return Belief(
        name=taken["name"],
        owner=taken["owner"],
        token=taken["token"],
        permits=taken["permits"],
        is_shared=taken["mode"] == "shared",
        begin=begin,
        end=end,
    )
