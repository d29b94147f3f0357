"""Airflow is asked whether a holder lives; nobody guesses it."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from airflow.models.dagrun import DagRun
from airflow.sdk import DAG, Variable
from airflow.utils.session import create_session

from nexus_redis_provider.core.locks.protocol import inspect, who_holds
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.hooks.dag_runs import DEPLOYMENT_VARIABLE
from nexus_redis_provider.operators.dag_lock import DagUnlockOperator
from tests.core.lock_calls import take
from tests.with_airflow.contexts import context_of

DAG_ID = "lock_fail"


def hold_for(
    client: redis.Redis,
    namespace: str,
    run_id: str,
    lease: float = 600,
    deployment: str = "airflow",
) -> int:
    call = take(
        "a",
        f"{deployment}/{DAG_ID}/{run_id}",
        lease,
        deployment=deployment,
        description={"dag_id": DAG_ID, "run_id": run_id},
        namespace=namespace,
    )
    return run(client, call).token


def set_state(run_id: str, state: str) -> None:
    with create_session() as session:
        found = session.query(DagRun).filter_by(run_id=run_id).update({"state": state})
    assert found == 1


@pytest.fixture
def earlier(run_dag: Any) -> str:
    """The id of a run that is over."""
    return run_dag(DAG_ID, lock="b")["run_id"]


def test_a_run_that_is_over_loses_the_lock_at_once(
    run_dag: Any, client: redis.Redis, namespace: str, earlier: str
) -> None:
    token = hold_for(client, namespace, earlier)
    outcome = run_dag(DAG_ID, lock="a")
    assert outcome["states"]["work"] == "success"
    assert outcome["trail"][0]["token"] > token
    assert run(client, who_holds("a", namespace=namespace)) is None


def test_a_run_that_was_deleted_loses_the_lock_at_once(
    run_dag: Any, client: redis.Redis, namespace: str
) -> None:
    hold_for(client, namespace, "never there")
    assert run_dag(DAG_ID, lock="a")["states"]["work"] == "success"


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_run_that_lives_keeps_the_lock_whatever_its_lease_says(
    *, state: str, run_dag: Any, client: redis.Redis, namespace: str, earlier: str, wait_until: Any
) -> None:
    token = hold_for(client, namespace, earlier, lease=0.05)
    wait_until(lambda: run(client, who_holds("a", namespace=namespace)).expires_in < 0)
    set_state(earlier, state)
    try:
        outcome = run_dag(DAG_ID, lock="a")
    finally:
        set_state(earlier, "success")
    assert outcome["states"]["lock"] == "failed"
    assert outcome["states"]["work"] == "upstream_failed"
    holder = run(client, who_holds("a", namespace=namespace))
    assert holder.token == token
    assert holder.expires_in > 3600, "the contender renewed the lease on its behalf"


def test_while_airflow_cannot_say_the_holder_lives(
    run_dag: Any, client: redis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_answer(*_: Any, **__: Any) -> int:
        raise ConnectionError("no API server")

    module = "airflow.sdk.execution_time.task_runner.RuntimeTaskInstance.get_dr_count"
    monkeypatch.setattr(module, staticmethod(no_answer))
    token = hold_for(client, namespace, "never there")
    outcome = run_dag(DAG_ID, lock="a")
    assert outcome["states"]["lock"] == "failed"
    assert run(client, who_holds("a", namespace=namespace)).token == token


def test_a_foreign_run_is_not_asked_for(
    run_dag: Any, client: redis.Redis, namespace: str, wait_until: Any
) -> None:
    token = hold_for(client, namespace, "theirs", deployment="elsewhere")
    assert run_dag(DAG_ID, lock="a")["states"]["lock"] == "failed"
    assert run(client, who_holds("a", namespace=namespace)).token == token
    client.delete(f"{namespace}:lock:{{a}}")

    hold_for(client, namespace, "theirs", lease=0.05, deployment="elsewhere")
    wait_until(lambda: run(client, who_holds("a", namespace=namespace)).expires_in < 0)
    assert run_dag(DAG_ID, lock="a")["states"]["work"] == "success"


def test_who_removes_the_dead_does_not_jump_the_line(
    run_dag: Any, client: redis.Redis, namespace: str
) -> None:
    hold_for(client, namespace, "never there")
    call = take("a", "airflow/x/first", stay=60, deployment="airflow", namespace=namespace)
    run(client, call)
    assert run_dag(DAG_ID, lock="a")["states"]["lock"] == "failed"
    state = run(client, inspect("a", namespace=namespace))
    assert state.holders == ()
    assert [waiter.owner for waiter in state.waiters] == ["airflow/x/first"]
    assert run(client, call).acquired


def test_a_deployment_names_itself_once(
    run_dag: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW__NEXUS_REDIS__DEPLOYMENT_ID")
    owners = [run_dag(DAG_ID, lock="a")["trail"][0]["owner"] for _ in range(2)]
    (first, second) = (owner.split("/")[0] for owner in owners)
    assert first == second
    assert first.startswith("airflow-")
    monkeypatch.setenv(f"AIRFLOW_VAR_{DEPLOYMENT_VARIABLE.upper()}", "ours")
    assert run_dag(DAG_ID, lock="a")["trail"][0]["owner"].startswith("ours/")


def test_an_api_that_fails_once_renames_no_deployment(
    run_dag: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW__NEXUS_REDIS__DEPLOYMENT_ID")
    before = run_dag(DAG_ID, lock="a")["trail"][0]["owner"].split("/")[0]
    hidden = iter([True])
    get = Variable.get

    def get_once_in_vain(key: str, default: Any = None, **options: Any) -> Any:
        return default if next(hidden, False) else get(key, default=default, **options)

    monkeypatch.setattr(Variable, "get", get_once_in_vain)
    after = run_dag(DAG_ID, lock="a")["trail"][0]["owner"].split("/")[0]
    assert next(hidden, None) is None
    assert before == after


def test_a_task_of_its_own_lock_asks_too(
    run_dag: Any, client: redis.Redis, namespace: str, earlier: str, wait_until: Any
) -> None:
    token = hold_for(client, namespace, earlier, lease=0.05)
    wait_until(lambda: run(client, who_holds("a", namespace=namespace)).expires_in < 0)
    set_state(earlier, "running")
    try:
        outcome = run_dag("locked_task", lock="a", on_held="fail")
    finally:
        set_state(earlier, "success")
    assert outcome["states"]["work"] == "failed"
    assert outcome["trail"] == []
    assert run(client, who_holds("a", namespace=namespace)).token == token
    outcome = run_dag("locked_task", lock="a", on_held="fail")
    assert outcome["states"]["work"] == "success"


def test_unlock_is_found_by_a_run_of_many(client: redis.Redis, namespace: str) -> None:
    for run_id in ("r1", "r2"):
        call = take("a", f"airflow/d/{run_id}", permits=2, namespace=namespace)
        run(client, call)
    with DAG("d", schedule=None):
        unlock = DagUnlockOperator(task_id="unlock", name="a", namespace=namespace)
    assert unlock.execute(context_of("d", "r2")) is True
    assert run(client, who_holds("a", namespace=namespace)).owner == "airflow/d/r1"
