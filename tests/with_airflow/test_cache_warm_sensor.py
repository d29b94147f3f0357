"""Waiting for a warm cache, and filling a cold one, by Airflow itself."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException, TaskDeferred

from nexus_redis_provider.core.errors import ConfigurationError, FillError
from nexus_redis_provider.core.fills import fill_lock
from nexus_redis_provider.core.gold.manifests import Layout, Manifest, Mode
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.core.locks import Lock
from nexus_redis_provider.core.requirements import Requirement
from nexus_redis_provider.sensors.cache_warm import CacheWarmSensor
from tests.servers import calls_of

MODES = ["poke", "reschedule", "deferrable"]


def looks(client: redis.Redis) -> int:
    return calls_of(client, "pttl", "scan")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", ["keys", "pattern"])
def test_waits_until_it_is_warm(
    *, target: str, mode: str, run_dag: Any, client: redis.Redis, namespace: str, wait_until: Any
) -> None:
    before = looks(client)

    def warm_when_looked_at() -> None:
        wait_until(lambda: looks(client) >= before + 4, timeout=20)
        client.set(f"{namespace}:a", 1, ex=60)
        client.set(f"{namespace}:b", 1, ex=60)

    thread = threading.Thread(target=warm_when_looked_at)
    thread.start()
    outcome = run_dag(f"warm_{target}_{mode}")
    thread.join()
    assert set(outcome["states"].values()) == {"success"}
    found = outcome["trail"][0]["found"]
    assert found["rows"] == 2
    assert 0 < found["ttl"] <= 60


@pytest.mark.parametrize("mode", MODES)
def test_gives_up_in_time(mode: str, run_dag: Any) -> None:
    assert run_dag(f"warm_briefly_{mode}")["states"] == {
        "warm": "failed",
        "report": "upstream_failed",
    }
    assert run_dag(f"warm_softly_{mode}")["states"] == {"warm": "skipped", "report": "skipped"}


@pytest.mark.parametrize("mode", MODES)
def test_fills(mode: str, run_dag: Any, client: redis.Redis, namespace: str) -> None:
    client.set(f"{namespace}:a", 1, ex=60)
    outcome = run_dag(f"warm_filled_{mode}")
    assert set(outcome["states"].values()) == {"success"}
    asked, found = outcome["trail"]
    assert asked == {"missing": [f"{namespace}:b"]}
    assert found["found"]["filled"] == 1
    assert json.loads(client.get(f"{namespace}:b")) == {"filled": True}
    assert 0 < client.ttl(f"{namespace}:b") <= 60


@pytest.mark.parametrize("mode", MODES)
def test_a_dataset_newer_than(mode: str, run_dag: Any, client: redis.Redis, namespace: str) -> None:
    published_at = put_manifest(client, namespace)
    earlier, later = published_at - timedelta(seconds=1), published_at + timedelta(seconds=1)
    outcome = run_dag(f"warm_dataset_{mode}", newer_than=earlier.isoformat())
    assert outcome["trail"][0]["found"]["version"] == "v1"
    outcome = run_dag(f"warm_dataset_{mode}", newer_than=later.isoformat())
    assert outcome["states"]["warm"] == "failed"


def put_manifest(client: redis.Redis, namespace: str) -> datetime:
    now_ms = int(client.time()[0]) * 1000
    manifest = Manifest(
        dataset="d",
        version="v1",
        mode=Mode.SNAPSHOT,
        layout=Layout.JSON,
        columns=(),
        key="{k}",
        rows=1,
        bytes=1,
        checksum=0,
        partitions=1,
        created_ms=now_ms,
        published_ms=now_ms,
    )
    keys = GoldKeys("d", namespace)
    client.hset(keys.head, "live", "v1")
    body = {"body": manifest.to_json(), "published_ms": now_ms}
    client.hset(keys.manifest("v1"), mapping=body)
    return manifest.published_at


def sensor_of(namespace: str, **options: Any) -> CacheWarmSensor:
    defaults = {"keys": [f"{namespace}:a", f"{namespace}:b"], "timeout": 0.2, "poke_interval": 0.02}
    return CacheWarmSensor(task_id="warm", **defaults | options)


@pytest.mark.parametrize("deferrable", [False, True])
def test_the_timeout_says_what_is_missing(deferrable: bool, namespace: str) -> None:
    sensor = sensor_of(namespace, deferrable=deferrable)
    missing = f"2 of 2 keys missing: {namespace}:a, {namespace}:b"
    with pytest.raises(AirflowSensorTimeout, match=missing):
        resume_late(sensor) if deferrable else sensor.execute({})


def test_soft_fail_skips_and_says_what_is_missing(namespace: str) -> None:
    with pytest.raises(AirflowSkipException, match="keys missing"):
        resume_late(sensor_of(namespace, deferrable=True, soft_fail=True))


def resume_late(sensor: CacheWarmSensor) -> Any:
    return sensor.resume({}, {"until": datetime.now(UTC).timestamp() - 1})


def test_who_defers_while_another_one_fills_waits_for_its_lock(
    endpoint: Any, client: redis.Redis, namespace: str
) -> None:
    patient = {"deferrable": True, "timeout": 60}
    sensor = sensor_of(namespace, fill=lambda _: pytest.fail("two fillers"), **patient)
    requirement = Requirement(keys=tuple(sensor.keys))
    with Lock(endpoint, fill_lock(requirement)), pytest.raises(TaskDeferred) as deferred:
        sensor.execute({})
    trigger = deferred.value.trigger
    assert trigger.filler == fill_lock(requirement)
    classpath, arguments = trigger.serialize()
    assert classpath == "nexus_redis_provider.triggers.cache_warm.CacheWarmTrigger"
    assert json.loads(json.dumps(arguments)) == arguments
    assert "127.0.0.1" not in str(arguments), "a trigger knows the connection by name alone"


def wait_and_fill(namespace: str, log: str, deferrable: bool, ready: Any) -> None:
    import asyncio

    def load(missing: list[str]) -> dict[str, int]:
        with Path(log).open("a") as file:
            file.write(f"{len(missing)}\n")
        return dict.fromkeys(missing, 1)

    sensor = sensor_of(namespace, fill=load, fill_ttl=60, deferrable=deferrable, timeout=30)
    ready.wait()
    try:
        found = sensor.execute({})
    except TaskDeferred as deferred:
        event = asyncio.run(anext(deferred.trigger.run()))
        found = sensor.resume({}, event.payload)
    assert found["rows"] == 2


def test_sensors_at_the_same_time_fill_once(
    namespace: str, client: redis.Redis, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(4)
    processes = [
        context.Process(
            target=wait_and_fill, args=(namespace, str(tmp_path / "log"), deferrable, ready)
        )
        for deferrable in (False, True, False, True)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "log").read_text() == "2\n"
    assert client.get(f"{namespace}:a") == b"1"


def test_a_version_that_is_not_there_is_no_version_at_all(namespace: str) -> None:
    sensor = sensor_of(namespace, keys=None, dataset="d", min_version="m1")
    sensor.min_version = None  # As an XCom that nobody pushed is rendered.
    with pytest.raises(ConfigurationError, match="min_version is None: the task upstream"):
        sensor.execute({})


@pytest.fixture
def database_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("airflow.providers.sqlite")
    file = tmp_path / "source.db"
    connection = {"conn_type": "sqlite", "host": str(file)}
    monkeypatch.setenv("AIRFLOW_CONN_SOURCE", json.dumps(connection))
    return file


def test_fills_by_sql(database_file: Path, namespace: str, client: redis.Redis) -> None:
    with closing(sqlite3.connect(database_file)) as source, source:
        source.execute("create table t (k text, v real)")
        source.executemany(
            "insert into t values (?, ?)", ((f"{namespace}:{i}", i / 2) for i in range(2500))
        )
    sensor = CacheWarmSensor(
        task_id="warm",
        pattern=f"{namespace}:*",
        min_rows=2500,
        fill="select k, v from t",
        fill_conn_id="source",
        fill_ttl=60,
    )
    assert sensor.execute({})["filled"] == 2500
    assert client.get(f"{namespace}:3") == b"1.5"
    sensor.fill_sql = "select k, v, 1 from t"
    sensor.conditions["min_rows"] = 2501
    with pytest.raises(FillError, match="pairs of key and value"):
        sensor.execute({})


def test_sql_needs_a_database(namespace: str) -> None:
    sensor = sensor_of(namespace, fill="select 1", fill_conn_id="nexus_redis_default")
    with pytest.raises(ConfigurationError, match="'nexus_redis_default' is no SQL database"):
        sensor.execute({})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "d"}, "not dataset and keys"),
        ({"max_age": 60}, "max_age does not go with keys"),
        ({"keys": None, "dataset": "d", "fill": len}, "publish"),
        ({"fill": "select 1"}, "needs fill_conn_id"),
        ({"fill": len, "fill_conn_id": "db"}, "needs fill_conn_id"),
        ({"fill": len, "fill_ttl": 0}, "fill_ttl"),
    ],
)
def test_what_a_sensor_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        sensor_of("x", **options)
