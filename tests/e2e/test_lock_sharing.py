"""Who shares a lock: DAGs, permits, kinds of runs, tasks of a run."""

from __future__ import annotations

import pytest

from tests.e2e.stage import Run, Stage

pytestmark = pytest.mark.e2e


def test_dags_share_a_lock_by_its_name(stage: Stage):
    north = stage.enter("north")
    assert stage.at_work("north") == north
    south = stage.enter_to_wait("south")
    stage.let_end(north)
    assert stage.at_work("north", "south") == south
    stage.let_end(south)
    stage.until("success", north, south)
    (_, token), (_, newer) = stage.worked(north, south)
    assert token < newer


def test_as_many_work_as_there_are_permits(stage: Stage):
    runs = [stage.enter("crowded") for _ in range(6)]
    working = {stage.at_work("crowded"), stage.at_work("crowded")}
    for run in set(runs) - working:
        stage.until_waiting(run)
    assert len(stage.lock("dag:crowded").holders) == 2
    ended = 0
    while working:
        stage.let_end(working.pop())
        ended += 1
        if ended <= 4:
            working.add(stage.at_work("crowded"))
    stage.until("success", *runs)

    counts = [0]
    for event in stage.events(*runs):
        counts.append(counts[-1] + (1 if event.what == "start" else -1))
    assert len(counts) == 1 + 2 * len(runs)
    assert max(counts) == 2
    assert stage.lock("dag:crowded").holders == ()


def test_a_backfill_does_not_pass_a_scheduled_run(stage: Stage):
    """Although `max_active_runs=1` lets it: a backfill has a limit of its own."""
    scheduled, backfill = two_kinds_of_runs(stage, "yearly_without_lock")
    assert stage.at_work("yearly_without_lock") == backfill
    assert [event.what for event in stage.events(scheduled, backfill)] == ["start", "start"]

    locked, waiting = two_kinds_of_runs(stage, "yearly")
    stage.until_waiting(waiting)
    stage.let_end(locked)
    assert stage.at_work("yearly") == waiting
    for run in (waiting, scheduled, backfill):
        stage.let_end(run)
    stage.until("success", locked, waiting, scheduled, backfill)
    assert [run for run, _ in stage.worked(locked, waiting)] == [locked, waiting]


def test_tasks_of_a_run_exclude_each_other(stage: Stage):
    run = stage.enter("parallel")
    assert stage.at_work("parallel") == run
    stage.wait(lambda: stage.lock("table").length == 1)
    (holder,), (waiter,) = (state := stage.lock("table")).holders, state.waiters
    assert {holder.owner[-7:], waiter.owner[-7:]} == {"/load/0", "/load/1"}
    tasks = stage.airflow.ask("GET", f"{run.path}/taskInstances")["task_instances"]
    assert {task["state"] for task in tasks} == {"running", "deferred"}

    stage.let_end(run)
    assert stage.at_work("parallel") == run
    stage.let_end(run)
    stage.until("success", run)
    (_, token), (_, newer) = stage.worked(run)
    assert holder.token == token < newer
    assert stage.lock("table").holders == ()


def two_kinds_of_runs(stage: Stage, dag_id: str) -> tuple[Run, Run]:
    """A scheduled run at work, and one of a backfill beside it."""
    stage.wait(lambda: stage.airflow.knows(dag_id))
    stage.airflow.ask("PATCH", f"dags/{dag_id}", json={"is_paused": False})
    scheduled = stage.at_work(dag_id)
    assert scheduled.run_id.startswith("scheduled__")
    day = "2023-01-01T00:00:00Z"
    # Airflow would look up the last one itself, and block its own database meanwhile.
    body = {"dag_id": dag_id, "from_date": day, "to_date": day, "run_on_latest_version": True}
    stage.airflow.ask("POST", "backfills", json=body)
    runs = stage.airflow.runs(dag_id)
    (backfill,) = (Run(dag_id, run_id) for run_id in runs if run_id.startswith("backfill__"))
    return scheduled, backfill
