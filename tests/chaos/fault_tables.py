"""Outcomes of faults as tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tests.benchmarks.tables import table
from tests.chaos.callers import GoldReader, Locker, Publisher, WaitingWriter, Writer
from tests.chaos.loads import Outcome
from tests.chaos.storms import Aftermath

_WITHOUT = {
    Writer.kind: "no writes, s",
    GoldReader.kind: "no reads, s",
    Locker.kind: "no locks, s",
    Publisher.kind: "no publishes, s",
}
_LOST = {
    Writer.kind: "writes lost",
    WaitingWriter.kind: "writes with WAIT lost",
    Publisher.kind: "publishes lost",
}


def show(outcomes: Iterable[Outcome]) -> None:
    """What each fault did, a line each; and the errors that callers saw."""
    found = list(outcomes)
    titles = [
        "", *_WITHOUT.values(), *_LOST.values(),
        "stale reads", "lock violations", "half-published",
    ]  # fmt: skip
    table(" | ".join(titles), (_line(outcome) for outcome in found))
    table("errors that callers saw | how often | one of them", _errors(found))


def _line(outcome: Outcome) -> list[str]:
    without = (outcome.without.get(kind) for kind in _WITHOUT)
    return [
        outcome.fault,
        *("-" if seconds is None else f"{seconds:.1f}" for seconds in without),
        *(_lost(outcome, kind) for kind in _LOST),
        f"{outcome.stale:,}",
        str(len(outcome.violations)),
        str(outcome.half_published),
    ]


def _lost(outcome: Outcome, kind: str) -> str:
    if kind not in outcome.acknowledged:
        return "-"
    return f"{outcome.lost[kind]:,} of {outcome.acknowledged[kind]:,}"


def _errors(found: Iterable[Outcome]) -> Iterator[list[str]]:
    for outcome in found:
        examples = {type(error).__name__: str(error) for error in outcome.met}
        for name, count in outcome.errors.most_common():
            yield [outcome.fault, f"{count:,}", f"{name}: {examples[name]}"]


def show_storms(found: Sequence[Aftermath]) -> None:
    """What became of each storm, a line each; and what callers were told."""
    header = (
        " | served | told an error | within, s | served afterwards | connections left | files left"
    )
    table(
        header,
        (
            [
                one.storm,
                f"{one.served:,}",
                f"{one.errors.total():,}",
                f"{one.seconds:.1f}",
                f"{one.served_then:,}",
                str(one.connections),
                str(one.files),
            ]
            for one in found
        ),
    )
    table(
        "errors that callers saw | how often | one of them",
        ([one.storm, f"{count:,}", text] for one in found for text, count in one.errors.items()),
    )
