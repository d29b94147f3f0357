"""Publishing from a worker: a query, or a task's rows, by Airflow itself."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import date, timedelta
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import redis
from airflow.sdk import Asset
from airflow.sdk.execution_time.context import OutletEventAccessors
from sqlalchemy import select

from nexus_redis_provider.core.errors import (
    ConfigurationError,
    DuplicateKeyError,
    NullKeyError,
    SchemaError,
    StaleFenceError,
    TooFewRowsError,
    UnreachableError,
    ValueTooLargeError,
)
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.operators.gold_publish import GoldPublishOperator
from tests.core.gold_datasets import keyspace
from tests.kinds import unspread

SALES = [{"id": "a", "n": 1}, {"id": "b", "n": 2}]


@pytest.fixture(autouse=True)
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """A database with a connection of its own."""
    pytest.importorskip("airflow.providers.sqlite")
    file = tmp_path / "source.db"
    monkeypatch.setenv(
        "AIRFLOW_CONN_SOURCE", json.dumps({"conn_type": "sqlite", "host": str(file)})
    )
    with closing(sqlite3.connect(file)) as source:
        source.execute("create table orders (shop text, day text, amount real)")
        orders = [("x", "2024-02-28", 1.5), ("x", "2024-02-28", 2), ("y", "2024-02-29", 7)]
        source.executemany("insert into orders values (?, ?, ?)", orders)
        source.commit()
        yield source


def context_of(**facts: Any) -> Any:
    instance = SimpleNamespace(**{"dag_id": "d", "run_id": "r", "task_id": "t"} | facts)
    return {"ti": instance, "outlet_events": OutletEventAccessors()}


@pytest.fixture
def publish(namespace: str) -> Any:
    def publish(**options: Any) -> dict[str, Any]:
        defaults = {"dataset": "sales", "key": "id", "ttl": 60, "namespace": namespace}
        operator = GoldPublishOperator(task_id="publish", **defaults | options)
        return operator.execute(context_of())

    return publish


@pytest.fixture
def dataset(client: redis.Redis, namespace: str) -> GoldDataset:
    return GoldDataset(client, "sales", namespace=namespace)


def asset_events(uri: str) -> list[Any]:
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session

    with create_session() as session:
        events = select(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        return [event.extra for event in session.scalars(events.where(AssetModel.uri == uri))]


def test_a_query_under_a_lock(
    run_dag: Any, namespace: str, dataset: GoldDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOLD_NAMESPACE", namespace)
    outcome = run_dag("gold_by_sql", least=3)
    assert set(outcome["states"].values()) == {"success"}
    (told,) = outcome["trail"]
    assert list(dataset.scan()) == [
        {"shop": "x", "day": date(2024, 2, 28), "orders": 2, "revenue": 3.5},
        {"shop": "y", "day": date(2024, 2, 29), "orders": 1, "revenue": 7.0},
    ]
    manifest = dataset.manifest()
    published = told["published"]
    assert published == {
        "dataset": "sales",
        "version": manifest.version,
        "rows": 2,
        "bytes": manifest.bytes,
        "published_at": manifest.published_at.isoformat(),
    }
    assert (manifest.fence, told["found"]["version"]) == (told["token"], manifest.version)
    assert manifest.expires_ms == manifest.created_ms + 60_000
    assert manifest.expires_from_ms == manifest.created_ms + 50_000
    assert manifest.lineage == {
        "dag_id": "gold_by_sql",
        "run_id": outcome["run_id"],
        "task_id": "publish",
        "source_conn_id": "source",
        "by": "publish",
    }
    uri = f"nexus-redis://nexus_redis_default/gold/sales?namespace={namespace}"
    assert asset_events(uri) == [published]

    outcome = run_dag("gold_by_sql", least=100)
    assert outcome["states"]["publish"] == "failed", "fewer than min_rows"
    assert dataset.manifest().version == manifest.version
    assert asset_events(uri) == [published]


def test_rows_of_a_task(run_dag: Any, dataset: GoldDataset) -> None:
    outcome = run_dag("gold_by_rows", dataset="sales")
    assert set(outcome["states"].values()) == {"success"}
    assert outcome["trail"][0]["published"]["rows"] == 2
    assert {row["id"]: row for row in dataset.scan()} == {
        "a": {"id": "a", "n": 1, "share": None},
        "b": {"id": "b", "n": None, "share": 0.5},
    }


@pytest.mark.parametrize(
    "rows",
    [SALES, tuple(SALES), pa.Table.from_pylist(SALES), pa.Table.from_pylist(SALES).to_pandas()],
    ids=["dicts", "tuple", "arrow", "pandas"],
)
@pytest.mark.parametrize("layout", ["json", "hash"])
def test_forms_of_rows(rows: Any, layout: str, publish: Any, dataset: GoldDataset) -> None:
    assert publish(rows=rows, layout=layout)["rows"] == 2
    assert dataset.get("b") == {"id": "b", "n": 2}
    assert dataset.verify().layout == layout


def test_a_query_of_many_rows(source: Any, publish: Any, dataset: GoldDataset) -> None:
    source.execute("create table many as select 0 as id, null as n")
    source.executemany("insert into many values (?, ?)", ((n, n / 2) for n in range(1, 25_000)))
    source.commit()
    options = {"sql": "select id, n from many order by id", "conn_id": "source"}
    assert publish(**options)["rows"] == 25_000
    assert [column.type for column in dataset.manifest().columns] == ["long", "double"]
    assert dataset.get(24_999) == {"id": 24_999, "n": 12_499.5}
    with pytest.raises(ConfigurationError, match=r"more than max_rows=24,999 rows.*Spark"):
        publish(**options, max_rows=24_999)


def test_an_empty_result_is_a_version(publish: Any, dataset: GoldDataset) -> None:
    sql = "select shop as id, amount from orders where 1 = 0"
    assert publish(sql=sql, conn_id="source", ttl=timedelta(minutes=1))["rows"] == 0
    assert list(dataset.scan()) == []
    assert [column.name for column in dataset.manifest().columns] == ["id", "amount"]


def test_rows_say_when_they_expire(publish: Any, client: redis.Redis, namespace: str) -> None:
    rows = [{"id": "a", "lives": 600}, {"id": "b", "lives": None}]
    publish(rows=rows, key=f"{namespace}:{{id}}", mode="upsert", ttl_column="lives", ttl=60)
    assert 60 < client.ttl(f"{namespace}:a") <= 600
    assert 0 < client.ttl(f"{namespace}:b") <= 60


def test_upsert(publish: Any, client: redis.Redis, namespace: str) -> None:
    jitter = timedelta(seconds=10)
    publish(rows=SALES, key=f"{namespace}:{{id}}", mode="upsert", ttl="60", ttl_jitter=jitter)
    assert client.get(f"{namespace}:a") == b'{"id":"a","n":1}'


@pytest.mark.parametrize(
    ("sql", "error", "message"),
    [
        ("select 1 as n", SchemaError, "'id' of the key is not there; the columns are n"),
        ("select 1 as id, 2 as id", SchemaError, "'id' stands there more than once"),
        ("select 1 as id union select 'a'", SchemaError, "different types: int and str"),
        ("select x'ff' as id", SchemaError, "type binary, which a key cannot be"),
        ("select 0.5 as id", SchemaError, "type double, which a key cannot be"),
        ("select null as id", NullKeyError, "null in key column"),
        ("select 1 as id union all select 1", DuplicateKeyError, "repeat a key, such as '1'"),
        ("select 1 as id where 1 = 0", TooFewRowsError, "fewer than min_rows=1"),
        ("create table t (id)", ConfigurationError, "returns no rows: give one SELECT"),
        ("select * from missing", sqlite3.OperationalError, "no such table"),
    ],
)
def test_a_query_that_is_refused_asks_nothing_of_redis(
    sql: str, error: type[Exception], message: str, publish: Any
) -> None:
    options = {"conn_id": "source", "redis_conn_id": "nowhere", "min_rows": 1}
    with pytest.raises(error, match=message):
        publish(sql=sql, **options)
    with pytest.raises(UnreachableError):
        publish(sql="select 1 as id", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": None}, "Give sql or rows"),
        ({"sql": "select 1", "conn_id": "source"}, "Give sql or rows"),
        ({"conn_id": "source"}, "sql needs conn_id"),
        ({"rows": None, "sql": "select 1"}, "sql needs conn_id"),
        ({"dataset": "{{ ds }}"}, r"dataset is known when the task runs.*emit=False"),
        ({"namespace": "{{ ds }}"}, "namespace is known when the task runs"),
        ({"rows": "text"}, "rows are dicts or an Arrow table, not str"),
        ({"rows": {"id": 1}}, "rows are dicts or an Arrow table, not dict"),
        ({"rows": 7}, "rows are dicts or an Arrow table, not int"),
        ({"rows": [1]}, "a row is a dict of values by column, not 1"),
        ({"fence": ""}, "fence is '': the task that takes the lock"),
        ({"fence": "None"}, "fence is 'None': the task that takes the lock"),
        ({"fence": "abc"}, "fence must be a number, not 'abc'"),
        ({"ttl": "soon"}, "ttl must be a number, not 'soon'"),
        ({"expected_rows": "many"}, "expected_rows must be a number, not 'many'"),
        ({"max_writers": "0"}, "max_writers is a positive whole number, not 0"),
        ({"memory_margin": 1}, "memory_margin is a share of maxmemory"),
        ({"mode": "append"}, "append"),
        (
            {"rows": None, "sql": "select 1 as id", "conn_id": "nexus_redis_default"},
            "'nexus_redis_default' is no SQL database: NexusRedisHook is no DbApiHook",
        ),
    ],
)
def test_what_an_operator_cannot_do(
    options: dict[str, Any], message: str, publish: Any, client: redis.Redis, namespace: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        publish(**{"rows": SALES} | options)
    assert keyspace(client, namespace) == set()


def test_an_xcom_that_is_gone_is_no_value(namespace: str) -> None:
    operator = GoldPublishOperator(
        task_id="publish", dataset="d", key="id", rows=SALES, fence=1, namespace=namespace
    )
    operator.fence = None  # As it is rendered then.
    with pytest.raises(ConfigurationError, match="fence is None"):
        operator.execute(context_of())
    operator.fence, operator.rows = 1, None
    with pytest.raises(ConfigurationError, match="rows is None: the task upstream"):
        operator.execute(context_of())


def test_an_older_token_publishes_nothing(publish: Any, dataset: GoldDataset) -> None:
    version = publish(rows=SALES, fence="8")["version"]
    with pytest.raises(StaleFenceError):
        publish(rows=SALES[:1], fence=7)
    assert dataset.manifest().version == version
    assert dataset.manifest().fence == 8


@pytest.mark.parametrize("most", [12, "12", "{{ params.most }}"])
def test_too_large_a_value_is_refused(most: Any, namespace: str) -> None:
    operator = GoldPublishOperator(
        task_id="publish",
        dataset="d",
        key="id",
        rows=SALES,
        namespace=namespace,
        redis_conn_id="nowhere",
        max_value_bytes=most,
    )
    context = context_of() | {"params": {"most": "12"}}
    operator.render_template_fields(context)
    with pytest.raises(ValueTooLargeError, match=r"has 16 bytes, more than max_value_bytes=12"):
        operator.execute(context)


@unspread
def test_limits_are_those_of_the_load(
    publish: Any, dataset: GoldDataset, client: redis.Redis, namespace: str
) -> None:
    limits = {"max_rows_per_second": "1000", "max_writers": "1", "expected_rows": "2"}
    with client.monitor() as heard:
        version = publish(rows=SALES, **limits, max_value_bytes=None, memory_margin="0.5")[
            "version"
        ]
        client.publish(namespace, "the end")
        said = [
            told["command"]
            for told in takewhile(lambda told: "the end" not in told["command"], heard.listen())
        ]
    keys = GoldKeys("sales", namespace)
    for name in (keys.pace(version), keys.writers(version), keys.expected(version)):
        assert any(name in command for command in said), name
    assert dataset.verify().rows == 2


def test_outlets() -> None:
    other = Asset("other")
    options = {"task_id": "t", "dataset": "d", "key": "id", "rows": SALES, "outlets": [other]}
    with_its_own = GoldPublishOperator(**options).outlets
    assert [asset.uri for asset in with_its_own] == [
        "other",
        "nexus-redis://nexus_redis_default/gold/d",
    ]
    assert GoldPublishOperator(**options, emit=False).outlets == [other]
