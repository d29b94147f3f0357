"""`make chaos`: faults of every kind, and what became of what was promised, as tables in Markdown.

In the environment: ONLY names a part (`locks`, `sentinel`, `cluster`, `storms`). Of the locks, SEED
repeats the choices of another run, FAULTS is how many (1,000), BUG plants a bug of `bugs.py`,
DIRECTORY is an empty one in which the logs stay.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nexus_redis_provider.embedded import EmbeddedServer
from tests.benchmarks.tables import conditions, heading
from tests.chaos.campaigns import BOUND_S, Plan, carry_out
from tests.chaos.checks import Verdict, judge
from tests.chaos.cluster_faults import CLUSTER_FAULTS
from tests.chaos.fault_tables import show, show_storms
from tests.chaos.faults import Fault
from tests.chaos.sentinel_faults import SENTINEL_FAULTS
from tests.chaos.storms import STORMS

_SHOWN = 20


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _show(verdict: Verdict) -> None:
    _say(f"\n{'faults':<40}{verdict.faults.total():>10,}")
    for kind, count in verdict.faults.most_common():
        _say(f"  {kind:<38}{count:>10,}")
    _say("what happened")
    for what, number in verdict.figures.items():
        _say(f"  {what:<38}{number:>10,.{0 if float(number).is_integer() else 1}f}")
    _say(f"{'violations':<40}{len(verdict.violations):>10,}")
    for violation in verdict.violations[:_SHOWN]:
        _say(f"  {violation}")


def _locks() -> bool:
    """A thousand faults, chosen at random; whether no promise was broken."""
    seed = int(os.environ.get("SEED") or random.randrange(10**6))
    plan = Plan(
        seed=seed,
        faults=int(os.environ.get("FAULTS") or 1000),
        bug=os.environ.get("BUG", ""),
    )
    heading(f"Locks: SEED={seed} FAULTS={plan.faults}")
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        directory = Path(os.environ.get("DIRECTORY") or temporary)
        asyncio.run(carry_out(plan, directory, tell=_say))
        verdict = judge(directory, BOUND_S)
    _show(verdict)
    return not verdict.violations


def _faults(title: str, faults: Sequence[Fault]) -> bool:
    """One fault after the other, each at a deployment of its own."""
    heading(title)
    outcomes = []
    for fault in faults:
        with tempfile.TemporaryDirectory(prefix="chaos-") as directory:
            outcomes += fault.outcomes(Path(directory))
    show(outcomes)
    broken = [broken for one in outcomes for broken in (*one.violations, *one.unclear)]
    for what in broken[:_SHOWN]:
        _say(f"  {what}")
    return not broken


def _sentinel() -> bool:
    return _faults("Sentinel", SENTINEL_FAULTS)


def _cluster() -> bool:
    return _faults("Cluster", CLUSTER_FAULTS)


def _storms() -> bool:
    heading("Storms")
    found = [asyncio.run(storm()) for storm in STORMS]
    show_storms(found)
    return all(one.is_over for one in found)


_PARTS = {"locks": _locks, "sentinel": _sentinel, "cluster": _cluster, "storms": _storms}


def _main() -> int:
    only = os.environ.get("ONLY")
    names = [only] if only else [*_PARTS]
    if unknown := set(names) - _PARTS.keys():
        _say(f"ONLY={unknown.pop()} is no part; give one of {', '.join(_PARTS)}.")
        return 2
    with EmbeddedServer() as server, server.endpoint.client() as client:
        _say(conditions(client, "redis"))
    held = [_PARTS[name]() for name in names]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(_main())
