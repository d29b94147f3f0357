"""What becomes of runs that come while another one holds the lock."""

from __future__ import annotations

import pytest

from tests.e2e.stage import Stage

pytestmark = pytest.mark.e2e


def test_overlapping_runs_work_one_after_the_other(stage: Stage):
    runs = {stage.enter("waiting"), stage.enter("waiting")}
    first = stage.at_work("waiting")
    (second,) = runs - {first}

    # The other one waits where it takes no worker, and does not start to work.
    stage.until_waiting(second)
    assert stage.state(first) == stage.state(second) == "running"
    holder = stage.holder("dag:waiting")
    assert holder
    assert holder.owner.endswith(f"/{first}")

    stage.let_end(first)
    assert stage.at_work("waiting") == second
    stage.let_end(second)
    stage.until("success", first, second)
    (one, token), (other, newer) = stage.worked(first, second)
    assert (one, other) == (first, second)
    assert holder.token == token < newer
    assert stage.holder("dag:waiting") is None


def test_a_run_is_skipped_while_another_one_works(stage: Stage):
    working = stage.enter("skipping")
    assert stage.at_work("skipping") == working
    skipped = stage.enter("skipping")
    stage.until("success", skipped)
    assert stage.task(skipped, "work") == "skipped"
    # The skipped run is over, its teardown included, and the lock is still with the other one.
    holder = stage.holder("dag:skipping")
    assert holder
    assert holder.owner.endswith(f"/{working}")

    stage.let_end(working)
    stage.until("success", working)
    assert stage.worked(working, skipped) == [(working, holder.token)]


def test_work_that_fails_gives_the_lock_to_the_next_run(stage: Stage):
    failing = stage.enter("waiting")
    assert stage.at_work("waiting") == failing
    following = stage.enter_to_wait("waiting")
    stage.let_end(failing, "badly")
    assert stage.at_work("waiting") == following
    stage.let_end(following)
    stage.until("failed", failing)
    stage.until("success", following)
    assert [run for run, _ in stage.worked(failing, following)] == [failing, following]


def test_who_has_waited_long_enough_fails_and_is_in_nobodys_way(stage: Stage):
    working = stage.enter("hurried")
    assert stage.at_work("hurried") == working
    giving_up = stage.enter("hurried", wait_timeout=8)
    stage.wait(lambda: stage.line("dag:hurried") == [giving_up])
    following = stage.enter_to_wait("hurried")
    stage.until("failed", giving_up)
    assert "is held by" in stage.log(giving_up, "lock")
    assert stage.task(giving_up, "work") == "upstream_failed"
    assert stage.state(working) == stage.state(following) == "running"
    assert stage.line("dag:hurried") == [following]

    stage.let_end(working)
    assert stage.at_work("hurried") == following
    stage.let_end(following)
    stage.until("success", working, following)
    assert [run for run, _ in stage.worked(working, giving_up, following)] == [working, following]
