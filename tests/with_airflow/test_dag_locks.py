"""A lock around the work of a DAG, run by Airflow itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
import structlog
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import TaskDeferred

from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.locks.protocol import inspect, release, who_holds
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.operators.dag_lock import DagLockOperator, DagUnlockOperator, dag_lock
from tests.core.lock_calls import take
from tests.servers import scripts_run
from tests.with_airflow.contexts import context_of


@pytest.fixture
def held(client: redis.Redis, namespace: str) -> Any:
    """The lock "a" in the hands of another run."""
    return run(client, take("a", "another run", 600, namespace=namespace))


def holder_of(client: redis.Redis, namespace: str) -> str | None:
    holder = run(client, who_holds("a", namespace=namespace))
    return holder and holder.owner


def test_lock_work_unlock(run_dag: Any, client: redis.Redis, namespace: str) -> None:
    before = run(client, take("a", "earlier", 60, namespace=namespace)).token
    run(client, release("a", "earlier", before, namespace=namespace))
    outcome = run_dag("lock_fail", lock="a")
    assert outcome["state"] == "success"
    assert set(outcome["states"].values()) == {"success"}
    worked = outcome["trail"][0]
    assert worked["token"] > before
    assert worked["owner"] == f"airflow/lock_fail/{outcome['run_id']}"
    assert worked["description"]["run_id"] == outcome["run_id"]
    assert worked["description"]["run_type"] == "manual"
    assert worked["description"]["task_id"] == "lock"
    assert "/dags/lock_fail/runs/" in worked["description"]["url"]
    assert holder_of(client, namespace) is None


def test_failed_work_still_unlocks(run_dag: Any, client: redis.Redis, namespace: str) -> None:
    outcome = run_dag("lock_fail", lock="a", fail=True)
    assert outcome["state"] == "success", "the report after it decides over the run"
    assert outcome["states"]["work"] == "failed"
    assert outcome["states"]["unlock"] == "success"
    assert holder_of(client, namespace) is None


def test_fail(run_dag: Any, client: redis.Redis, namespace: str, held: Any) -> None:
    outcome = run_dag("lock_fail", lock="a")
    assert outcome["states"]["lock"] == "failed"
    assert outcome["tries"]["lock"] == 1, "who is refused does not come back by retries"
    assert outcome["states"]["work"] == "upstream_failed"
    assert outcome["trail"] == [{"reported": True}]
    assert holder_of(client, namespace) == "another run"


def test_skip(run_dag: Any, client: redis.Redis, namespace: str, held: Any) -> None:
    outcome = run_dag("lock_skip", lock="a")
    assert outcome["state"] == "success"
    assert outcome["states"] == {
        "lock": "success",
        "work": "skipped",
        "report": "skipped",
        "unlock": "success",
    }
    assert outcome["trail"] == []
    assert holder_of(client, namespace) == "another run"


@pytest.mark.parametrize("dag_id", ["lock_wait", "lock_wait_in_worker"])
def test_wait(
    *, dag_id: str, run_dag: Any, client: redis.Redis, namespace: str, held: Any, wait_until: Any
) -> None:
    calls = scripts_run(client)

    def release_when_looked_at() -> None:
        wait_until(lambda: scripts_run(client) >= calls + 3, timeout=20)
        run(client, release("a", "another run", held.token, namespace=namespace))

    with in_background(release_when_looked_at):
        outcome = run_dag(dag_id, lock="a")
    assert set(outcome["states"].values()) == {"success"}
    assert outcome["trail"][0]["token"] > held.token
    assert holder_of(client, namespace) is None


@pytest.mark.parametrize("dag_id", ["lock_wait_briefly", "lock_wait_briefly_in_worker"])
def test_wait_in_vain(
    dag_id: str, run_dag: Any, client: redis.Redis, namespace: str, held: Any
) -> None:
    outcome = run_dag(dag_id, lock="a")
    assert outcome["states"]["lock"] == "failed"
    assert outcome["states"]["work"] == "upstream_failed"
    assert holder_of(client, namespace) == "another run"
    # Those behind need not wait until they may pass it.
    assert run(client, inspect("a", namespace=namespace)).length == 0


def test_without_redis_nothing_is_locked_and_nothing_runs(run_dag: Any) -> None:
    outcome = run_dag("lock_wait", lock="a", connection="nowhere")
    assert outcome["states"]["lock"] == "failed"
    assert outcome["states"]["work"] == "upstream_failed"
    assert outcome["states"]["unlock"] == "upstream_failed"


def test_who_is_beaten_waits_on_for_the_rest(namespace: str, held: Any) -> None:
    with DAG("beaten", schedule=None):
        lock = DagLockOperator(task_id="lock", name="a", namespace=namespace, wait_timeout=20)
    until = time.time() + 20
    with pytest.raises(TaskDeferred) as deferred:
        lock.resume(context_of("beaten", "r1"), {"until": until, "ticket": 0})
    assert deferred.value.trigger.until == until
    assert deferred.value.method_name == "resume"
    assert deferred.value.timeout.total_seconds() == pytest.approx(80, abs=2)


def test_a_retry_finds_its_own_lock(client: redis.Redis, namespace: str) -> None:
    with DAG("retried", schedule=None):
        lock = DagLockOperator(task_id="lock", name="a", namespace=namespace, on_held="fail")
        unlock = DagUnlockOperator(task_id="unlock", name="a", namespace=namespace)
    context = context_of("retried", "r1")
    assert lock.execute(context) == lock.execute(context)
    assert unlock.execute(context) is True
    assert unlock.execute(context) is False
    assert holder_of(client, namespace) is None


def test_unlock_leaves_another_run_alone(client: redis.Redis, namespace: str, held: Any) -> None:
    with DAG("other", schedule=None):
        unlock = DagUnlockOperator(task_id="unlock", name="a", namespace=namespace)
    with structlog.testing.capture_logs() as logs:
        assert unlock.execute(context_of("other", "r1")) is False
    assert holder_of(client, namespace) == "another run"
    assert "held by another run" in str(logs)


def test_the_context_manager_draws_setup_and_teardown() -> None:
    with DAG("drawn", schedule=None) as dag:
        before = BaseOperator(task_id="before")
        with dag_lock(redis_conn_id="r", lease=60) as lock:
            first = BaseOperator(task_id="first")
            last = BaseOperator(task_id="last")
            first >> last
        before >> lock
    unlock = dag.get_task("unlock")
    assert lock.is_setup
    assert unlock.is_teardown
    assert lock.downstream_task_ids == {"first", "unlock"}
    assert unlock.upstream_task_ids == {"last", "lock"}
    assert (lock.name, unlock.name) == ("dag:{{ dag.dag_id }}",) * 2
    assert (lock.redis_conn_id, unlock.redis_conn_id) == ("r", "r")


def test_two_locks_in_one_another() -> None:
    with (
        DAG("nested", schedule=None),
        dag_lock("outer") as outer,
        dag_lock("inner", lock_task_id="lock_2", unlock_task_id="unlock_2") as inner,
    ):
        work = BaseOperator(task_id="work")
    assert outer.downstream_task_ids == {"lock_2", "unlock"}
    assert inner.downstream_task_ids == {"work", "unlock_2"}
    assert work.downstream_task_ids == {"unlock_2"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_held": "explode"}, "on_held must be one of wait, fail, skip"),
        ({"lease": 0}, "lease"),
        ({"wait_timeout": -1}, "wait_timeout"),
        ({"poll_interval": "often"}, "poll_interval"),
    ],
)
def test_what_a_lock_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DagLockOperator(task_id="lock", **options)


class in_background:  # noqa: N801 - reads as a statement
    """Runs a function beside the block, and fails if it does."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:  # noqa: BLE001 - raised again in __exit__
            self._error = error

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        if self._error:
            raise self._error
