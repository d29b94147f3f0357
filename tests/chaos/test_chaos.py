"""The promises of a lock hold under faults, and the judge would have noticed if they did not."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_redis_provider.embedded import find_server
from tests.chaos.bugs import BUGS, is_plantable
from tests.chaos.campaigns import BOUND_S, Plan, carry_out
from tests.chaos.checks import judge
from tests.conftest import need_server

_SCRIPTS = ("acquire_lock", "release_lock", "renew_lock", "attend_line", "leave_line")
# Nearly every bug shows in the first round; none has been seen to take four.
_ROUNDS = 10
_BRIEF_BOUND_S = 5.0


@pytest.fixture(autouse=True)
def _server() -> None:
    need_server(find_server)


async def test_no_promise_is_broken(tmp_path: Path) -> None:
    plan = Plan(seed=9, faults=75)
    await carry_out(plan, tmp_path)
    verdict = judge(tmp_path, BOUND_S)
    assert not verdict.violations, f"seed {plan.seed}: " + "\n".join(
        map(str, verdict.violations[:20])
    )
    assert verdict.faults.total() >= 60
    assert len(verdict.faults) == len(plan.weights), "a kind of fault did not happen"
    for what in ("acquisitions", "re-entries", "steals from dead runs", "writes accepted"):
        assert verdict.figures[what], f"there were no {what}"


@pytest.mark.parametrize("name", BUGS)
async def test_the_judge_finds(name: str, tmp_path: Path) -> None:
    bug = BUGS[name]
    assert is_plantable(name, _SCRIPTS), "the scripts have changed: so must the bug"
    verdicts = []
    for seed in range(_ROUNDS):
        directory = tmp_path / str(seed)
        directory.mkdir()
        plan = Plan(
            seed=seed,
            faults=bug.faults,
            weights=bug.weights,
            crew=bug.crew,
            bug=name,
            is_brief=True,
        )
        await carry_out(plan, directory)
        verdict = judge(directory, _BRIEF_BOUND_S)
        crashes = [str(broken) for broken in verdict.violations if broken.rule == "crash"]
        assert not crashes, f"the bug is to break promises, not scripts: {crashes}"
        if verdict.rules & bug.rules:
            return
        verdicts.append((verdict.rules, verdict.figures["acquisitions"]))
    pytest.fail(f"expected one of {bug.rules}, found in each round: {verdicts}")
