"""Who was overtaken in line, as the logs tell."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.chaos.journals import Event


@dataclass(slots=True)
class _Stand:
    """For how long a waiter certainly stood in line and was certainly heard from.

    `since` is when it first knew of its place; `begin` is later if it was passed over meanwhile;
    `heard` is when it last knew that it stood there.
    """

    owner: str
    ticket: int
    since: float
    begin: float
    heard: float
    end: float

    def ended(self, at: float) -> _Stand:
        return replace(self, end=min(self.end, at))


def overtakings(events: list[Event]) -> Iterator[str]:
    """Newcomers that got an exclusive lock past somebody who stood in line before they came."""
    stands = defaultdict[str, list[_Stand]](list)
    for name, stand in _stands(events):
        stands[name].append(stand)
    for in_line in stands.values():
        in_line.sort(key=lambda stand: stand.begin)
    longest = max((one.end - one.begin for each in stands.values() for one in each), default=0)
    for wish, taken in _first_acquisitions(events):
        in_line, asked = stands[wish["name"]], taken["asked"]
        first = bisect.bisect_left(in_line, asked - longest, key=lambda stand: stand.begin)
        last = bisect.bisect_left(in_line, asked, key=lambda stand: stand.begin)
        for stand in in_line[first:last]:
            if stand.since < wish.at and taken.at < stand.end:
                yield (
                    f"{wish['name']}: {stand.owner}, in line from {stand.since:.4f} to "
                    f"{stand.end:.4f}, by {wish['owner']}, which came at {wish.at:.4f} and had the "
                    f"lock at {taken.at:.4f}"
                )


def _stands(events: list[Event]) -> Iterator[tuple[str, _Stand]]:
    open_stands, asks = dict[tuple[str, str], _Stand](), dict[tuple[str, str], float]()
    for event in events:
        key = (event.facts.get("name", ""), event.facts.get("owner", ""))
        stand = open_stands.get(key)
        if event.what == "asks":
            # Who was killed before it heard the answer may have been granted what it asked first.
            asks.setdefault(key, event.at)
        elif event.what == "asked" and event["ticket"]:
            asked_at, heard_until = asks.pop(key, event["sent"]), event["sent"] + event["stay"]
            if stand is not None and stand.ticket != event["ticket"]:
                # The question was granted at first, but the answer got lost, and then the lease ran
                # out: it stands at the end of the line.
                yield key[0], stand.ended(asked_at)
                stand = None
            if stand is None:
                at = event.at
                open_stands[key] = _Stand(key[1], event["ticket"], at, at, at, heard_until)
            elif event.at < stand.end:
                stand.heard, stand.end = event.at, heard_until
            else:
                # It may have been passed over, but has its place again.
                yield key[0], stand
                open_stands[key] = replace(stand, begin=event.at, heard=event.at, end=heard_until)
        elif event.what in ("acquired", "refused", "unreachable") and stand is not None:
            del open_stands[key]
            yield key[0], stand.ended(asks.pop(key, event.at))
        elif event.what == "stole" and stand is not None:
            # It had the lock: a copy of what it had asked before came late.
            del open_stands[key]
            yield key[0], stand.ended(stand.heard)
    for key, stand in open_stands.items():
        # What was asked last, and not answered, may have been granted.
        yield key[0], stand.ended(asks.get(key, stand.end))


def _first_acquisitions(events: list[Event]) -> Iterator[tuple[Event, Event]]:
    """The first wish of every owner, if it came true: later ones may have kept a place."""
    wishes, seen = dict[str, Event](), set[str]()
    for event in events:
        owner = event.facts.get("owner", "")
        if event.what == "wants" and owner not in seen:
            seen.add(owner)
            wishes[owner] = event
        elif event.what in ("wants", "refused", "unreachable"):
            wishes.pop(owner, None)
        elif event.what == "acquired" and owner in wishes:
            wish = wishes.pop(owner)
            if event["mode"] == "exclusive" and event["permits"] == 1:
                yield wish, event
