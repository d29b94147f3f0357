"""What befalls the run that holds the lock: retry, clear, mark, delete, timeout."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from demo.standalone import StandaloneError, alive, kill
from tests.e2e.stage import Run, Stage

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", autouse=True)
def limited(shared_stage: Stage) -> tuple[Run, Run]:
    """A run that Airflow will end for its time limit, and one that waits for it.

    They come before the tests, since they take their time, as do the next two.
    """
    limited = shared_stage.enter("limited")
    assert shared_stage.at_work("limited") == limited
    waiting = shared_stage.enter_to_wait("after_limited")
    holder = shared_stage.holder("time limit")
    assert holder
    assert holder.expires_in > 3 * 3600
    return limited, waiting


@pytest.fixture(scope="module", autouse=True)
def killed(shared_stage: Stage) -> tuple[Run, Run]:
    """A run whose worker is gone without a word, and one that waits for it."""
    killed = shared_stage.enter("killed")
    assert shared_stage.at_work("killed") == killed
    waiting = shared_stage.enter_to_wait("killed")
    task = shared_stage.process(killed)
    supervisor = task.parent()
    assert supervisor
    kill([supervisor, task])
    return killed, waiting


def test_a_retry_works_on_with_the_same_lock(stage: Stage):
    first = stage.enter("retried")
    assert stage.at_work("retried") == first
    second = stage.enter_to_wait("retried")
    stage.let_end(first, "badly")
    assert stage.at_work("retried") == first
    assert stage.task(second, "lock") == "deferred"

    stage.let_end(first)
    assert stage.at_work("retried") == second
    stage.let_end(second)
    stage.until("success", first, second)
    (one, token), (again, same_token), (other, newer) = stage.worked(first, second)
    assert (one, again, other) == (first, first, second)
    assert token == same_token < newer


def test_work_that_is_cleared_when_all_is_over_takes_the_lock_again(stage: Stage):
    run = stage.enter("cleared")
    assert stage.at_work("cleared") == run
    stage.let_end(run)
    stage.until("success", run)
    assert stage.holder("dag:cleared") is None

    stage.clear(run, "work")
    assert stage.at_work("cleared") == run
    holder = stage.holder("dag:cleared")
    assert holder
    stage.let_end(run)
    stage.until("success", run)
    (_, token), (_, newer) = stage.worked(run)
    assert token < newer == holder.token
    assert stage.holder("dag:cleared") is None


def test_work_that_is_cleared_while_it_works_keeps_the_lock(stage: Stage):
    first = stage.enter("cleared")
    assert stage.at_work("cleared") == first
    killed = stage.process(first)
    second = stage.enter_to_wait("cleared")

    stage.clear(first, "work")
    assert stage.at_work("cleared") == first
    assert not alive([killed])
    assert stage.task(second, "lock") == "deferred"

    stage.let_end(first)
    assert stage.at_work("cleared") == second
    stage.let_end(second)
    stage.until("success", first, second)
    said = stage.events(first, second)
    assert [(event.what, event.run) for event in said] == [
        ("start", first),  # and then it was killed
        ("start", first),
        ("end", first),
        ("start", second),
        ("end", second),
    ]
    assert said[0].token <= said[1].token < said[3].token


@pytest.mark.parametrize("state", ["failed", "success"])
def test_a_run_that_is_marked_gives_the_lock_back(stage: Stage, state: str):
    marked = stage.enter("marked")
    assert stage.at_work("marked") == marked
    following = stage.enter_to_wait("marked")
    stage.mark(marked, state)
    following_works(stage, marked, following)
    stage.until(state, marked)
    assert stage.task(marked, "unlock") == "success"
    assert "released after" in stage.log(marked, "unlock")


def test_a_run_that_is_marked_while_it_waits_is_passed(stage: Stage):
    working = stage.enter("marked_while_waiting")
    assert stage.at_work("marked_while_waiting") == working
    marked = stage.enter_to_wait("marked_while_waiting")
    following = stage.enter_to_wait("marked_while_waiting")
    assert stage.line("dag:marked_while_waiting") == [marked, following]
    stage.mark(marked, "failed")
    # Airflow calls it a success, since the tasks that it ends with were skipped.
    stage.until("success", marked)
    stage.let_end(working)
    assert stage.at_work("marked_while_waiting") == following
    stage.let_end(following)
    stage.until("success", working, following)
    assert [run for run, _ in stage.worked(working, marked, following)] == [working, following]


def test_a_run_that_is_deleted_loses_the_lock(stage: Stage):
    deleted = stage.enter("deleted")
    assert stage.at_work("deleted") == deleted
    following = stage.enter_to_wait("deleted")
    delete(stage, deleted)
    following_works(stage, deleted, following)
    assert "Took lock" in stage.log(following, "lock")


def test_a_lock_taken_by_a_task_that_then_fails_is_free_again(stage: Stage):
    """No teardown runs where no setup succeeded."""
    failing = stage.enter("taken_in_vain")
    stage.until("failed", failing)
    assert "is ours" in stage.log(failing, "lock")
    assert stage.task(failing, "work") == stage.task(failing, "unlock") == "upstream_failed"
    holder = stage.holder("taken")
    assert holder
    assert holder.owner.endswith(f"/{failing}")

    following = stage.enter("after_taken_in_vain")
    assert stage.at_work("after_taken_in_vain") == following
    stage.let_end(following)
    stage.until("success", following)
    assert "Took lock" in stage.log(following, "lock")


def test_a_run_that_takes_too_long_loses_the_lock(stage: Stage, limited: tuple[Run, Run]):
    """It ends without its teardown, and the lease has hours to go: Airflow's word counts."""
    ended, following = limited
    following_works(stage, ended, following)
    assert stage.state(ended) == "failed"
    assert stage.task(ended, "unlock") == "skipped"
    assert "Took lock 'time limit' from " in stage.log(following, "lock")


def test_a_run_whose_worker_is_killed_loses_the_lock(stage: Stage, killed: tuple[Run, Run]):
    """No code of the run can tell: it holds the lock until Airflow misses its heartbeat."""
    ended, following = killed
    following_works(stage, ended, following)
    assert stage.state(ended) == "failed"
    assert stage.task(ended, "work") == "failed"


def following_works(stage: Stage, ended: Run, following: Run) -> None:
    """The run that waits takes over from the one that was ended in the midst of its work."""
    killed = stage.process(ended)
    assert stage.at_work(following.dag_id) == following
    stage.let_end(following)
    stage.until("success", following)
    said = stage.events(ended, following)
    assert [(event.what, event.run) for event in said] == [
        ("start", ended),
        ("start", following),
        ("end", following),
    ]
    assert said[0].token < said[1].token
    stage.wait(lambda: not alive([killed]))


def delete(stage: Stage, run: Run) -> None:
    """Airflow refuses to delete a running run, but not one that was set back to queued."""
    # Its scheduler dies if it is looking at the run just then; so it is made to look away.
    stage.airflow.ask("PATCH", f"dags/{run.dag_id}", json={"is_paused": True})
    paused_at = datetime.now(UTC)
    stage.wait(lambda: scheduler_seen_at(stage) > paused_at)
    stage.mark(run, "queued")
    stage.airflow.ask("DELETE", run.path)
    stage.airflow.ask("PATCH", f"dags/{run.dag_id}", json={"is_paused": False})
    with pytest.raises(StandaloneError, match="404"):
        stage.state(run)


def scheduler_seen_at(stage: Stage) -> datetime:
    """When it last told that it lives, which it does between two looks at all runs."""
    health = stage.airflow.ask("GET", "monitor/health")
    return datetime.fromisoformat(health["scheduler"]["latest_scheduler_heartbeat"])
