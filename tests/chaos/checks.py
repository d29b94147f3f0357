"""The judge: reads what workers, faults and resources wrote, and says which promise was broken.

It knows nothing of Redis and asks nobody. A holder *believes* that it holds a lock

- bound by its lease: from the first to the last moment at which `ensure_held()` let it go on. It
  may have been paused at any time; these moments are the ones at which it acted.
- bound by the oracle (a DAG run that only runs of its own deployment contend with): from when it
  got the lock until it gives it back, or the oracle says that it is dead, whatever its lease says.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.beliefs import Belief, believed, is_dead_at
from tests.chaos.journals import Event, read_journals
from tests.chaos.lines import overtakings
from tests.chaos.resources import Access, read_resources


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise.

    Attributes:
        rule: which one, in a few words that are always the same.
        what: who broke it, when, and how.
    """

    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the logs say.

    Attributes:
        figures: what happened, by kind.
        violations: empty if every promise was kept.
    """

    faults: Counter[str]
    figures: dict[str, float] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)

    @property
    def rules(self) -> set[str]:
        return {violation.rule for violation in self.violations}


def judge(directory: Path, bound_s: float) -> Verdict:
    """Judge a run by what it left in the directory.

    Args:
        directory: with the logs.
        bound_s: how much longer than it said it would wait anybody may wait, and how soon everybody
            is served after the last fault.
    """
    events, resources = read_journals(directory), read_resources(directory)
    checks: list[Iterable[Violation]] = [
        *(of_resource(name, accesses) for name, accesses in resources.items()),
        _of_tokens(events),
        _of_beliefs(events),
        _of_refusals(events),
        _of_living_runs(events),
        _of_waits(events, bound_s),
        _of_service(events, bound_s),
        _of_names(events, bound_s),
        _of_remains(events),
        (Violation("overtaken", text) for text in overtakings(events)),
        _of_processes(events),
    ]
    violations = [violation for found in checks for violation in found]
    faults = Counter(event["kind"] for event in events if event.what == "fault")
    return Verdict(faults, _figures(events, resources, bound_s), violations)


def of_resource(name: str, accesses: list[Access]) -> Iterator[Violation]:
    """What a resource let happen that a lock must not let happen."""
    newest, value, owners = 0, 0, dict[int, str]()
    for access in accesses:
        if access.token < newest:
            yield Violation("accepted out of order", f"{name}: {access} after token {newest}")
        if owners.setdefault(access.token, access.owner) != access.owner:
            yield Violation("a token for two", f"{name}: {access}, and {owners[access.token]}")
        if access.base != value:
            yield Violation("lost update", f"{name}: {access} on top of {value}")
        newest, value = access.token, access.value


def _of_tokens(events: list[Event]) -> Iterator[Violation]:
    by_name = defaultdict[str, list[Event]](list)
    for event in events:
        if event.what == "acquired":
            by_name[event["name"]].append(event)
    for name, taken in by_name.items():
        owners = dict[int, str]()
        for event in taken:
            if owners.setdefault(event["token"], event["owner"]) != event["owner"]:
                yield Violation(
                    "a token for two",
                    f"{name}: {event['token']} of {event['owner']} and {owners[event['token']]}",
                )
        yield from _rising(name, taken)


def _rising(name: str, taken: list[Event]) -> Iterator[Violation]:
    """Who asked after another one had the lock in hand has a larger token."""
    newest: Event | None = None
    in_hand = 0
    for event in sorted(taken, key=lambda event: event["asked"]):
        while taken[in_hand].at < event["asked"]:
            if newest is None or taken[in_hand]["token"] > newest["token"]:
                newest = taken[in_hand]
            in_hand += 1
        if newest is None or newest["token"] < event["token"]:
            continue
        if newest["owner"] != event["owner"] or newest["token"] != event["token"]:
            yield Violation(
                "tokens do not rise",
                f"{name}: {event['owner']} asked at {event['asked']:.4f} and got {event['token']}, "
                f"while {newest['owner']} had {newest['token']} since {newest.at:.4f}",
            )


def _of_beliefs(events: list[Event]) -> Iterator[Violation]:
    by_name = defaultdict[str, list[Belief]](list)
    for belief in believed(events):
        by_name[belief.name].append(belief)
    for name, beliefs in by_name.items():
        beliefs.sort(key=lambda belief: belief.begin)
        current: list[Belief] = []
        newest: Belief | None = None
        for belief in beliefs:
            current = [other for other in current if other.end > belief.begin]
            for other in current:
                if not (belief.is_shared and other.is_shared) and 1 in (
                    belief.permits,
                    other.permits,
                ):
                    yield Violation("two at once", f"{name}: {belief} and {other}")
            permits = min((one.permits for one in (*current, belief)), default=1)
            if len(current) + 1 > permits > 1:
                yield Violation("more than permitted", f"{name}: {belief} and {current}")
            current.append(belief)
            if belief.permits == 1 and not belief.is_shared:
                if newest is not None and newest.token > belief.token:
                    yield Violation("tokens do not rise", f"{name}: {newest}, then {belief}")
                newest = belief


def _of_refusals(events: list[Event]) -> Iterator[Violation]:
    """A resource refuses nobody who holds the lock."""
    dead_at = is_dead_at(events)
    for event in events:
        if event.what != "wrote" or event["accepted"] or not event["held_after"]:
            continue
        # A run that is dead may have been robbed, rightly, before it could know.
        if not dead_at(event["owner"], event.at):
            yield Violation("refused a holder", f"{event['name']}: {event}")


def _of_living_runs(events: list[Event]) -> Iterator[Violation]:
    """A run that only its own deployment contends with keeps its lock until the oracle ends it."""
    holds, alive = dict[str, Event](), dict[str, bool]()
    for event in events:
        owner = event.facts.get("owner", "")
        if event.what in ("alive", "died"):
            alive[owner] = event.what == "alive"
            if event.what == "died":
                holds.pop(owner, None)
        elif event.what == "releasing":
            holds.pop(owner, None)
        elif event.what == "acquired" and event["bound"] == "oracle" and alive.get(owner):
            before = holds.setdefault(owner, event)
            if before["token"] != event["token"]:
                yield Violation("a living run lost its lock", f"{before}, then {event}")
        elif event.what == "lost" and owner in holds:
            yield Violation("a living run lost its lock", f"{holds[owner]}, then {event}")


def _of_waits(events: list[Event], bound_s: float) -> Iterator[Violation]:
    for wish, _, overrun in _waits(events):
        if overrun is None:
            yield Violation("waits for ever", str(wish))
        elif overrun > bound_s:
            yield Violation("waits too long", f"{wish}: {overrun:.1f} s longer than it said")


def _waits(events: list[Event]) -> Iterator[tuple[Event, Event | None, float | None]]:
    """Each wish, how it ended, and by how much later than it was to; None: it did not end.

    Time for which the process was stopped does not count.
    """
    wishes, stops = dict[tuple[str, str], Event](), dict[str, float]()
    stopped_s = Counter[str]()
    killed = {event["victim"] for event in events if event.what == "killed"}
    stopped_before = dict[tuple[str, str], float]()
    for event in events:
        if event.what == "stopped":
            stops[event["victim"]] = event.at
        elif event.what == "continued" and event["victim"] in stops:
            stopped_s[event["victim"]] += event.at - stops.pop(event["victim"])
        key = (event.source, event.facts.get("owner", ""))
        if event.what == "wants":
            wishes[key], stopped_before[key] = event, stopped_s[event.source]
        elif event.what in ("acquired", "refused", "unreachable") and key in wishes:
            wish = wishes.pop(key)
            paused = stopped_s[event.source] - stopped_before[key]
            yield wish, event, event.at - wish.at - paused - wish["wait"]
    for (source, _), wish in wishes.items():
        if source not in killed:
            yield wish, None, None


def _of_service(events: list[Event], bound_s: float) -> Iterator[Violation]:
    """When the faults are over, everybody who lives is served soon."""
    for calm in (event for event in events if event.what == "calm"):
        kinds = {event.source: event["kind"] for event in events if event.what == "began"}
        served = {
            event.source
            for event in events
            if event.what == "acquired" and calm.at < event.at < calm.at + bound_s
        }
        for source in calm["living"]:
            if source not in served and kinds.get(source) != "thief":
                yield Violation("starved", f"{source} ({kinds.get(source)}) since {calm.at:.3f}")


def _of_names(events: list[Event], bound_s: float) -> Iterator[Violation]:
    """A lock that is wanted is taken by somebody, also while there are faults."""
    for name, idle_s, since in _idle(events):
        if idle_s > bound_s:
            yield Violation("nobody gets it", f"{name}, for {idle_s:.1f} s since {since:.3f}")


def _idle(events: list[Event]) -> Iterator[tuple[str, float, float]]:
    """For how long locks were not taken by anybody, while they were wanted, and since when."""
    wishes, since = defaultdict[str, set[tuple[str, str]]](set), dict[str, float]()
    closing = next((event.at for event in events if event.what == "closing"), events[-1].at)
    for event in events:
        name, wish = event.facts.get("name", ""), (event.source, event.facts.get("owner", ""))
        if event.what == "wants":
            if not wishes[name]:
                since[name] = event.at
            wishes[name].add(wish)
        elif event.what in ("acquired", "refused", "unreachable"):
            if wish in wishes[name]:
                wishes[name].discard(wish)
                yield name, event.at - since[name], since[name]
            if event.what == "acquired":
                since[name] = event.at
        elif event.what in ("killed", "stopped"):
            for waiting in wishes.values():
                waiting -= {one for one in waiting if one[0] == event["victim"]}
    for name, waiting in wishes.items():
        if waiting and since[name] < closing:
            yield name, closing - since[name], since[name]


def _of_remains(events: list[Event]) -> Iterator[Violation]:
    tokens = Counter[str]()
    for event in events:
        if event.what == "acquired":
            tokens[event["name"]] = max(tokens[event["name"]], event["token"])
        elif event.what == "left":
            immortal = [key for key, ttl in event["keys"].items() if ttl < 0]
            if immortal:
                yield Violation("a key for ever", ", ".join(immortal))
        elif event.what == "swept":
            if event["fields"] != [""] or event["line"]:
                yield Violation("a holder for ever", str(event))
            if not tokens[event["name"]] <= event["newest"] < event["token"]:
                yield Violation("tokens do not rise", f"{event}, and the newest in the logs")


def _of_processes(events: list[Event]) -> Iterator[Violation]:
    for event in events:
        if event.what == "crash":
            yield Violation("crash", f"{event.source}: {event['error']}")
        elif event.what == "stuck":
            yield Violation("stuck", event["victim"])
        elif event.what == "gone" and event["code"]:
            yield Violation("crash", f"{event['victim']} ended with {event['code']}")


def _figures(
    events: list[Event], resources: dict[str, list[Access]], bound_s: float
) -> dict[str, float]:
    def count(what: str, condition: Callable[[Event], object] = lambda _: True) -> int:
        return sum(1 for event in events if event.what == what and condition(event))

    overruns = [overrun for _, _, overrun in _waits(events) if overrun is not None]
    calm = next((event.at for event in events if event.what == "calm"), None)
    served = dict[str, float]()
    for event in events:
        if event.what == "acquired" and calm is not None and event.at > calm:
            served.setdefault(event.source, event.at - calm)
    clocks = [event.facts.get("clock", 0) for event in events if event.what == "fault"]
    return {
        "acquisitions": count("acquired"),
        "re-entries": count("acquired", lambda event: event.facts.get("entries", 1) > 1),
        "waits given up": count("refused"),
        "server unreachable": count("unreachable"),
        "steals from dead runs": count("stole"),
        "leases found expired": sum(event.facts.get("expired", 0) for event in events),
        "losses noticed by holders": count("lost"),
        "releases that came too late": count("released", lambda event: not event["was_ours"]),
        "writes accepted": sum(a.wrote for accesses in resources.values() for a in accesses),
        "writes refused": count("wrote", lambda event: not event["accepted"]),
        "reads refused": count("read", lambda event: not event["accepted"]),
        "seconds of the run": events[-1].at - events[0].at if events else 0,
        "longest time a wanted lock was not taken, s": max(
            (idle_s for _, idle_s, _ in _idle(events)), default=0
        ),
        "longest overrun of a wait, s": max(overruns, default=0),
        "last one served after the faults, s": max(served.values(), default=0),
        "wall clock against the monotonic one, ms": 1000
        * (max(clocks, default=0) - min(clocks, default=0)),
    }
