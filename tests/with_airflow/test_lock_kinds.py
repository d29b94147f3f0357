"""Semaphores, shared locks, templates, policies, metrics, and locks of single tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from airflow.sdk import DAG
from airflow.sdk._shared.observability.metrics.base_stats_logger import NoStatsLogger
from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.observability import stats

from nexus_redis_provider.core.errors import (
    ConfigurationError,
    EvictionError,
    NotReplicatedError,
    UnreachableError,
)
from nexus_redis_provider.core.locks.protocol import inspect, release, who_holds
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.embedded import EmbeddedServer
from nexus_redis_provider.operators.dag_lock import DagLockOperator, DagUnlockOperator
from nexus_redis_provider.operators.locking import LockHolderLink
from tests.core.lock_calls import take
from tests.guarded import own_server
from tests.urls import connection_uri
from tests.with_airflow.contexts import context_of

URL = {"url": "http://airflow/run"}


def test_options_are_templates(run_dag: Any, client: redis.Redis, namespace: str) -> None:
    outcome = run_dag("lock_templated", region="eu", permits="3", lease="60")
    assert set(outcome["states"].values()) == {"success"}
    (seen,) = outcome["trail"]
    assert seen["owners"] == [f"airflow/lock_templated/{outcome['run_id']}"]
    assert seen["permits"] == [3]


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"mode": "exklusiv"}, "mode must be one of exclusive, shared, not 'exklusiv'"),
        ({"permits": "none"}, "permits must be a whole number from 1, not 'none'"),
        ({"permits": "2", "mode": "shared"}, "permits=2 is for a semaphore"),
        ({"lease": "long"}, "lease must be seconds or a timedelta, not 'long'"),
        ({"on_held": "explode"}, "on_held must be one of wait, fail, skip, not 'explode'"),
        ({"replicas": "-1"}, "replicas must be a whole number from 0, not '-1'"),
    ],
)
def test_what_a_template_must_not_give(
    *,
    conf: dict[str, str],
    message: str,
    run_dag: Any,
    client: redis.Redis,
    namespace: str,
    caplog: Any,
) -> None:
    outcome = run_dag("lock_templated", region="eu", **conf)
    assert outcome["states"]["lock"] == "failed"
    assert outcome["trail"] == []
    assert run(client, who_holds("region eu", namespace=namespace)) is None


def test_a_parameter_is_a_lock_of_its_own(
    run_dag: Any, client: redis.Redis, namespace: str
) -> None:
    run(client, take("region eu", "another", namespace=namespace))
    assert run_dag("lock_templated", region="eu")["states"]["lock"] == "failed"
    assert run_dag("lock_templated", region="us")["states"]["lock"] == "success"


def test_a_semaphore_has_room_for_some(run_dag: Any, client: redis.Redis, namespace: str) -> None:
    run(client, take("region eu", "one", permits=2, namespace=namespace))
    outcome = run_dag("lock_templated", region="eu", permits="2")
    assert len(outcome["trail"][0]["owners"]) == 2
    run(client, take("region eu", "two", permits=2, namespace=namespace))
    assert run_dag("lock_templated", region="eu", permits="2")["states"]["lock"] == "failed"


def test_shared_runs_exclude_exclusive_ones(
    run_dag: Any, client: redis.Redis, namespace: str
) -> None:
    run(client, take("region eu", "reader", mode="shared", namespace=namespace))
    assert run_dag("lock_templated", region="eu", mode="shared")["states"]["look"] == "success"
    assert run_dag("lock_templated", region="eu")["states"]["lock"] == "failed"


def test_too_few_replicas_fail_the_task_and_free_the_lock(
    run_dag: Any, client: redis.Redis, namespace: str
) -> None:
    outcome = run_dag("lock_templated", region="eu", replicas="9")
    assert outcome["states"]["lock"] == "failed"
    assert run(client, who_holds("region eu", namespace=namespace)) is None


def test_a_run_keeps_what_it_has_when_replicas_fail_later(
    lock: Any, client: redis.Redis, namespace: str
) -> None:
    first = lock().execute(context_of("d", "r"))
    with pytest.raises(NotReplicatedError):
        lock(replicas=9).execute(context_of("d", "r"))
    assert run(client, who_holds("a", namespace=namespace)).token == first


def test_a_run_does_not_wait_for_itself(run_dag: Any, client: redis.Redis, namespace: str) -> None:
    outcome = run_dag("locked_in_locked", lock="t")
    assert outcome["states"]["work"] == "failed"
    assert outcome["states"]["unlock"] == "success"


@pytest.fixture
def lock(namespace: str) -> Any:
    def make(**options: Any) -> DagLockOperator:
        with DAG("d", schedule=None):
            return DagLockOperator(task_id="lock", name="a", namespace=namespace, **options)

    return make


def test_without_redis_a_patient_task_waits(lock: Any) -> None:
    patient = lock(redis_conn_id="nowhere", on_unreachable="wait", wait_timeout=60)
    with pytest.raises(TaskDeferred) as deferred:
        patient.execute(context_of("d", "r"))
    assert deferred.value.trigger.owner == "airflow/d/r"
    with pytest.raises(UnreachableError):
        lock(redis_conn_id="nowhere").execute(context_of("d", "r"))
    late = {"until": 1.0, "ticket": 0}
    with pytest.raises(UnreachableError):
        patient.resume(context_of("d", "r"), late)


def test_a_patient_task_works_once_redis_is_back(
    lock: Any, monkeypatch: pytest.MonkeyPatch, namespace: str
) -> None:
    with own_server() as server:
        monkeypatch.setenv(
            "AIRFLOW_CONN_OWN", connection_uri("nexus-redis", server.endpoint, retries="0")
        )
        server.stop()
        patient = lock(redis_conn_id="own", on_unreachable="wait")
        with pytest.raises(TaskDeferred):
            patient.execute(context_of("d", "r"))
        server.start()
        assert patient.resume(context_of("d", "r"), {"until": None, "ticket": 0}) > 0


def test_the_place_in_line_is_kept_over_deferrals(
    lock: Any, client: redis.Redis, namespace: str
) -> None:
    run(client, take("a", "holder", namespace=namespace))
    tickets = []
    for _ in range(2):
        with pytest.raises(TaskDeferred) as deferred:
            lock().execute(context_of("d", "first"))
        tickets.append(deferred.value.trigger.ticket)
        with pytest.raises(TaskDeferred):
            lock().execute(context_of("d", "second"))
    assert tickets[0] == tickets[1] > 0
    # Even the server's forgetting changes nothing about it.
    client.delete(
        *(f"{namespace}:lock:{{a}}{part}" for part in ("", ":line", ":waiters", ":heard"))
    )
    run(client, take("a", "holder", namespace=namespace))
    run(client, take("a", "third", stay=60, namespace=namespace))
    with pytest.raises(TaskDeferred):
        lock().resume(context_of("d", "first"), {"until": None, "ticket": tickets[0]})
    waiters = run(client, inspect("a", namespace=namespace)).waiters
    assert [waiter.owner for waiter in waiters] == ["airflow/d/first", "third"]


def test_a_waiting_task_links_to_the_holder(lock: Any, client: redis.Redis, namespace: str) -> None:
    held = run(client, take("a", "holder", description=URL, namespace=namespace))
    waiting = lock()
    (link,) = waiting.operator_extra_links
    assert isinstance(link, LockHolderLink)
    with pytest.raises(TaskDeferred):
        waiting.execute(context_of("d", "r"))
    assert link.get_link(waiting, ti_key=None) == URL["url"]
    run(client, release("a", "holder", held.token, namespace=namespace))
    waiting.resume(context_of("d", "r"), {"until": None, "ticket": 0})
    assert link.get_link(waiting, ti_key=None) == ""


class Recorder:
    """A metrics backend that remembers."""

    def __init__(self) -> None:
        self.counted: dict[str, int] = {}
        self.timed: dict[str, float] = {}
        self.tags: dict[str, Any] = {}

    def incr(self, stat: str, count: int = 1, rate: float = 1, *, tags: Any = None) -> None:
        self.counted[stat] = self.counted.get(stat, 0) + count
        self.tags[stat] = tags

    def timing(self, stat: str, dt: float, *, tags: Any = None) -> None:
        self.timed[stat] = dt
        self.tags[stat] = tags


@pytest.fixture
def metrics() -> Any:
    recorder = Recorder()
    stats.initialize(factory=lambda: recorder, export_legacy_names=False)
    yield recorder
    stats.initialize(factory=NoStatsLogger, export_legacy_names=True)


def test_metrics_tell_what_happens_to_a_lock(
    *, lock: Any, client: redis.Redis, namespace: str, metrics: Recorder, wait_until: Any
) -> None:
    run(client, take("a", "holder", 0.3, namespace=namespace))
    with pytest.raises(TaskDeferred):
        lock().execute(context_of("d", "r"))
    assert metrics.counted["nexus_redis.lock.contention"] == 1
    wait_until(lambda: run(client, who_holds("a", namespace=namespace)).expires_in < 0)
    lock().resume(context_of("d", "r"), {"until": None, "ticket": 0})
    with DAG("d", schedule=None):
        unlock = DagUnlockOperator(task_id="unlock", name="a", namespace=namespace)
    unlock.execute(context_of("d", "r"))
    assert metrics.counted == {
        "nexus_redis.lock.contention": 1,
        "nexus_redis.lock.a.contention": 1,
        "nexus_redis.lock.expiries": 1,
        "nexus_redis.lock.a.expiries": 1,
    }
    assert 250 < metrics.timed["nexus_redis.lock.wait_time"] < 60_000
    assert metrics.timed["nexus_redis.lock.a.hold_time"] >= 0
    assert metrics.tags["nexus_redis.lock.hold_time"] == {"lock": "a"}


def test_a_locked_task(run_dag: Any, client: redis.Redis, namespace: str) -> None:
    outcome = run_dag("locked_task", lock="t")
    assert outcome["state"] == "success"
    *worked, total = outcome["trail"]
    assert total == {"total": 12}
    tokens = [line["token"] for line in worked]
    assert tokens == sorted(set(tokens))
    run_id = outcome["run_id"]
    assert sorted(line["owner"] for line in worked) == [
        f"airflow/locked_task/{run_id}/work/{index}" for index in range(3)
    ]
    assert run(client, who_holds("t", namespace=namespace)) is None


def test_a_locked_task_that_fails_frees_its_lock(
    run_dag: Any, client: redis.Redis, namespace: str
) -> None:
    outcome = run_dag("locked_task", lock="t", fail=True)
    assert outcome["states"]["work"] == "failed"
    assert run(client, who_holds("t", namespace=namespace)) is None


def test_a_locked_task_is_skipped_while_others_hold_it(
    run_dag: Any, client: redis.Redis, namespace: str
) -> None:
    run(client, take("t", "holder", namespace=namespace))
    outcome = run_dag("locked_task", lock="t", on_held="skip")
    assert outcome["states"] == {"work": "skipped", "total": "skipped"}
    assert outcome["trail"] == []


def test_a_locked_task_that_lost_its_lock_fails(run_dag: Any, namespace: str) -> None:
    outcome = run_dag("locked_task", lock="t", lease="0.5", lose=True)
    assert outcome["states"]["work"] == "failed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "both"}, "mode must be one of exclusive, shared, not 'both'"),
        ({"permits": 0}, "permits must be a whole number from 1, not 0"),
        ({"permits": True}, "permits must be a whole number from 1, not True"),
        ({"claim_timeout": 0}, "claim_timeout must be a positive number"),
        ({"claim_timeout": 20, "poll_interval": 10}, "at least three times poll_interval"),
        ({"on_unreachable": "open"}, "on_unreachable must be one of fail, wait, not 'open'"),
    ],
)
def test_what_an_option_cannot_be(lock: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        lock(**options)


@pytest.fixture
def evicting(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedServer]:
    """A server that may evict keys, behind the connection `cache`."""
    with own_server("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as server:
        monkeypatch.setenv("AIRFLOW_CONN_CACHE", connection_uri("nexus-redis", server.endpoint))
        yield server


def test_a_dag_lock_on_a_server_that_may_evict_is_refused(
    evicting: EmbeddedServer, namespace: str
) -> None:
    context = context_of("d", "r")
    with DAG("d", schedule=None):
        options = {"name": "t", "redis_conn_id": "cache", "namespace": namespace}
        lock = DagLockOperator(task_id="lock", **options)
        anyway = DagLockOperator(task_id="anyway", allow_eviction=True, **options)
    with pytest.raises(EvictionError, match="Lock 't' was not taken: Redis at"):
        lock.execute(context)
    with evicting.endpoint.client() as client:
        assert client.keys() == []
    assert anyway.execute(context) > 0


def test_a_locked_task_on_a_server_that_may_evict_is_refused(
    evicting: EmbeddedServer, run_dag: Any
) -> None:
    outcome = run_dag("locked_where_it_may_vanish")
    assert outcome["states"] == {"refused": "failed", "allowed": "success"}
    assert outcome["trail"] == [{"held": True}]
