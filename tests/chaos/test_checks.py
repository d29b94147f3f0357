"""The judge on logs of a few lines: each rule, and what does not break it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chaos.checks import judge
from tests.chaos.journals import Journal
from tests.chaos.resources import Resource

BOUND_S = 5.0
Line = tuple[str, float, str, dict[str, Any]]


def line(who: str, at: float, what: str, **facts: Any) -> Line:
    """A line in the log of the process `who`, which is an owner of that name as well."""
    return who, at, what, {"name": "one", "owner": who} | facts


def wants(who: str, at: float, wait: float = 1.0) -> Line:
    return line(who, at, "wants", wait=wait)


def acquired(who: str, at: float, token: int, **facts: Any) -> Line:
    options = {"asked": at - 0.01, "mode": "exclusive", "permits": 1, "bound": "lease"}
    return line(who, at, "acquired", token=token, **(options | facts))


def held(who: str, token: int, *times: float) -> list[Line]:
    return [line(who, at, "held", token=token) for at in times]


def hold(who: str, begin: float, end: float, token: int, **facts: Any) -> list[Line]:
    return [acquired(who, begin, token, **facts), *held(who, token, begin, end)]


def asked(who: str, at: float, stay: float = 1.0, ticket: int = 1) -> Line:
    return line(who, at, "asked", sent=at - 0.01, ticket=ticket, stay=stay)


def supervised(at: float, what: str, **facts: Any) -> Line:
    return "supervisor", at, what, facts


SWEPT = {"name": "one", "newest": 5, "token": 6, "fields": [""], "line": 0}
SHARED, TWO, RUN = {"mode": "shared"}, {"permits": 2}, {"bound": "oracle"}
FIRST = hold("a", 1, 2, 5)
UNSERVED = [
    *(wants("b", 2.5), wants("c", 2.6), line("b", 4, "refused"), wants("b", 4.1)),
    *(line("c", 6, "refused"), wants("c", 6.1), line("b", 7, "refused"), line("c", 8, "refused")),
]

BROKEN: dict[str, tuple[str, list[Line]]] = {
    "two holders": ("two at once", [*FIRST, *hold("b", 1.9, 3, 6)]),
    "a reader beside a writer": ("two at once", [*FIRST, *hold("b", 1.9, 3, 6, **SHARED)]),
    "a run beside a living one": (
        "two at once",
        [
            line("a", 0, "alive"),
            acquired("a", 1, 5, **RUN),
            acquired("b", 2, 6),
            *held("b", 6, 2, 3),
        ],
    ),
    "three where two may": (
        "more than permitted",
        [*hold("a", 1, 4, 5, **TWO), *hold("b", 2, 4, 6, **TWO), *hold("c", 3, 4, 7, **TWO)],
    ),
    "one token": ("a token for two", [*FIRST, acquired("b", 3, 5, asked=0)]),
    "a smaller token": ("tokens do not rise", [*FIRST, acquired("b", 3, 4)]),
    "tokens fall though both asked early": (
        "tokens do not rise",
        [*FIRST, *hold("b", 3, 4, 4, asked=0)],
    ),
    "a token that the server forgot": (
        "tokens do not rise",
        [*hold("a", 1, 2, 9), supervised(3, "swept", **SWEPT)],
    ),
    "refused while holding": (
        "refused a holder",
        [*FIRST, line("a", 2, "wrote", token=5, accepted=False, held_after=True)],
    ),
    "a living run that was robbed": (
        "a living run lost its lock",
        [line("a", 0, "alive"), acquired("a", 1, 5, **RUN), line("a", 2, "lost", token=5)],
    ),
    "a retry that gets another token": (
        "a living run lost its lock",
        [line("a", 0, "alive"), acquired("a", 1, 5, **RUN), acquired("a", 2, 6, **RUN)],
    ),
    "a wait without an end": ("waits for ever", [wants("a", 1)]),
    "a wait that takes long": (
        "waits too long",
        [wants("a", 1), wants("b", 3), acquired("b", 4, 5), line("a", 8, "refused")],
    ),
    "a lock that nobody gets": (
        "nobody gets it",
        [*FIRST, *UNSERVED],
    ),
    "a worker that gets nothing": (
        "starved",
        [
            line("a", 0, "began", kind="plain"),
            supervised(1, "calm", living=["a"]),
        ],
    ),
    "overtaken in line": ("overtaken", [asked("a", 1), wants("b", 1.1), acquired("b", 1.5, 5)]),
    "overtaken between two questions": (
        "overtaken",
        [
            asked("a", 1),
            line("a", 1.6, "asks"),
            wants("b", 1.1),
            acquired("b", 1.5, 5),
            asked("a", 1.7, ticket=1),
        ],
    ),
    "a key without a TTL": ("a key for ever", [supervised(1, "left", keys={"a": 5, "b": -1})]),
    "a holder that stays": (
        "a holder for ever",
        [supervised(1, "swept", **(SWEPT | {"fields": ["", "a"]}))],
    ),
    "an error": ("crash", [line("a", 1, "crash", error="KeyError")]),
}

KEPT: dict[str, list[Line]] = {
    "one after the other": [*FIRST, *hold("b", 2.1, 3, 6)],
    "readers": [*hold("a", 1, 3, 5, **SHARED), *hold("b", 2, 4, 6, **SHARED)],
    "as many as may": [*hold("a", 1, 3, 5, **TWO), *hold("b", 2, 4, 6, **TWO)],
    "the same owner again": [*FIRST, acquired("a", 3, 5, entries=2)],
    "who was paused before it looked": [acquired("a", 1, 5), *hold("b", 2, 3, 6)],
    "a run that is dead": [
        line("a", 0, "alive"),
        acquired("a", 1, 5, **RUN),
        line("a", 2, "died"),
        *hold("b", 2.1, 3, 6),
        line("a", 4, "lost", token=5),
    ],
    "a wait of a stopped process": [
        wants("a", 1),
        supervised(1.5, "stopped", victim="a"),
        supervised(7.5, "continued", victim="a"),
        line("a", 8, "refused"),
    ],
    "a wait of a killed process": [wants("a", 1), supervised(2, "killed", victim="a")],
    "who was not heard from": [asked("a", 1, stay=0.2), wants("b", 1.1), acquired("b", 1.5, 5)],
    "who may have got it before it was killed": [
        asked("a", 1),
        line("a", 1.2, "asks"),
        wants("b", 1.1),
        acquired("b", 1.7, 5),
    ],
    "who got it and did not hear of it": [
        asked("a", 1),
        line("a", 1.2, "asks"),
        wants("b", 1.1),
        acquired("b", 1.7, 5),
        asked("a", 1.8, ticket=2),
    ],
    "who got it before it was killed, and whose successor asks again": [
        asked("a", 1),
        line("a", 1.2, "asks"),
        wants("b", 1.1),
        acquired("b", 1.7, 5),
        line("a", 1.75, "asks"),
        asked("a", 1.8, ticket=2),
    ],
    "who got it by a late copy of its question, and was robbed as it is dead": [
        asked("a", 1),
        wants("b", 1.1),
        line("a", 1.4, "stole", token=4),
        acquired("b", 1.5, 5),
    ],
    "who came before": [wants("b", 0.5), asked("a", 1), acquired("b", 1.5, 5)],
    "all in order": [
        *FIRST,
        supervised(3, "left", keys={"a": 5}),
        supervised(4, "swept", **SWEPT),
    ],
}


def write(directory: Path, lines: list[Line]) -> None:
    journals: dict[str, Journal] = {}
    for who, at, what, facts in lines:
        journals.setdefault(who, Journal(directory, who)).log(what, at=at, **facts)
    for journal in journals.values():
        journal.close()


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_found(case: str, tmp_path: Path) -> None:
    rule, lines = BROKEN[case]
    write(tmp_path, lines)
    assert judge(tmp_path, BOUND_S).rules == {rule}


@pytest.mark.parametrize("case", KEPT)
def test_what_is_kept_is_not_blamed(case: str, tmp_path: Path) -> None:
    write(tmp_path, KEPT[case])
    assert judge(tmp_path, BOUND_S).violations == []


def test_a_resource_lets_one_after_the_other_write(tmp_path: Path) -> None:
    write(tmp_path, FIRST)
    resource = Resource(tmp_path, "one")
    assert resource.read(5, "a") == 0
    assert resource.write(5, "a", base=0)
    assert resource.read(6, "b") == 1
    assert not resource.write(5, "a", base=1)
    assert resource.read(5, "a") is None
    assert resource.write(6, "b", base=1)
    assert judge(tmp_path, BOUND_S).violations == []
    assert resource.write(6, "b", base=1)
    assert judge(tmp_path, BOUND_S).rules == {"lost update"}
    strict = Resource(tmp_path, "one", tells_owners=True)
    assert strict.read(6, "c") is None
    assert strict.read(6, "b") == 2
    resource.read(6, "c")
    assert judge(tmp_path, BOUND_S).rules == {"lost update", "a token for two"}
