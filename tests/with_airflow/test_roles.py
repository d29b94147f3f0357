"""Two servers: locks are on the one for state, and all else on the default one, a cache."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import redis
from airflow.sdk import DAG, conf
from airflow.sdk.execution_time.context import OutletEventAccessors

from nexus_redis_provider.core.errors import StaleFenceError
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.locks.protocol import who_holds
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.hooks.roles import state_conn_id
from nexus_redis_provider.operators.dag_lock import DagLockOperator, DagUnlockOperator, dag_lock
from nexus_redis_provider.operators.gold_publish import GoldPublishOperator
from tests.guarded import own_server
from tests.urls import connection_uri
from tests.with_airflow.contexts import context_of
from tests.with_airflow.test_cli import call


class Roles(NamedTuple):
    """Clients of the two servers."""

    state: redis.Redis
    cache: redis.Redis


@pytest.fixture
def roles(monkeypatch: pytest.MonkeyPatch) -> Iterator[Roles]:
    evict = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lfu")
    with own_server() as state, own_server(*evict) as cache:
        monkeypatch.setenv("AIRFLOW__NEXUS_REDIS__STATE_CONN_ID", "nexus_redis_state")
        for name, server in (("STATE", state), ("DEFAULT", cache)):
            uri = connection_uri("nexus-redis", server.endpoint)
            monkeypatch.setenv(f"AIRFLOW_CONN_NEXUS_REDIS_{name}", uri)
        with state.endpoint.client() as state_client, cache.endpoint.client() as cache_client:
            yield Roles(state_client, cache_client)


def test_one_server_plays_both_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    assert conf.get("nexus_redis", "state_conn_id") == "nexus_redis_default"
    assert state_conn_id() == "nexus_redis_default"
    monkeypatch.setenv("AIRFLOW__NEXUS_REDIS__STATE_CONN_ID", "")
    assert state_conn_id() == "nexus_redis_default"


@pytest.mark.usefixtures("roles")
def test_every_way_to_a_lock_goes_to_the_state() -> None:
    with DAG("d", schedule=None):
        with dag_lock() as lock:
            pass
        chosen = DagLockOperator(task_id="chosen", redis_conn_id="mine")
    assert lock.redis_conn_id == "nexus_redis_state"
    (unlock,) = lock.downstream_list
    assert isinstance(unlock, DagUnlockOperator)
    assert unlock.redis_conn_id == "nexus_redis_state"
    assert chosen.redis_conn_id == "mine"


def test_a_lock_here_protects_a_dataset_there(roles: Roles, capsys: Any, monkeypatch: Any) -> None:
    with DAG("d", schedule=None):
        lock = DagLockOperator(task_id="lock", name="a")
        unlock = DagUnlockOperator(task_id="unlock", name="a")
    context = context_of("d", "r")
    instance = SimpleNamespace(dag_id="d", run_id="r", task_id="publish")
    publishing: Any = {"ti": instance, "outlet_events": OutletEventAccessors()}

    def publish(fence: int) -> None:
        options = {"task_id": "publish", "dataset": "sales", "key": "k", "rows": [{"k": 1}]}
        GoldPublishOperator(**options, fence=fence).execute(publishing)

    older = lock.execute(context)
    assert run(roles.state, who_holds("a")).token == older
    assert roles.cache.keys() == []
    assert call(monkeypatch, "locks", "list") == 0
    assert "airflow/d/r" in capsys.readouterr().out
    assert call(monkeypatch, "gold", "list") == 0
    assert unlock.execute(context) is True
    newer = lock.execute(context)
    publish(newer)
    assert GoldDataset(roles.cache, "sales").get(1) == {"k": 1}
    with pytest.raises(StaleFenceError):
        publish(older)
    assert roles.state.keys("*gold*") == []
