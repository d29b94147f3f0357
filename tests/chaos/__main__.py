"""`make chaos`: a thousand faults, and what became of the promises of the locks.

In the environment: SEED repeats the choices of another run, FAULTS is how many (1,000), BUG plants
a bug of `bugs.py`, DIRECTORY is an empty one in which the logs stay.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.campaigns import BOUND_S, Plan, carry_out
from tests.chaos.checks import Verdict, judge

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


def _main() -> int:
    seed = int(os.environ.get("SEED") or random.randrange(10**6))
    plan = Plan(
        seed=seed,
        faults=int(os.environ.get("FAULTS") or 1000),
        bug=os.environ.get("BUG", ""),
    )
    _say(f"SEED={seed} FAULTS={plan.faults}")
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        directory = Path(os.environ.get("DIRECTORY") or temporary)
        asyncio.run(carry_out(plan, directory, tell=_say))
        verdict = judge(directory, BOUND_S)
    _show(verdict)
    return 1 if verdict.violations else 0


if __name__ == "__main__":
    sys.exit(_main())
