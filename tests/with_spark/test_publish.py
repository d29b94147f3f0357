"""`publish()`: all or nothing, and one clear error before readers see anything."""

from __future__ import annotations

import logging
import os
import pickle
import threading
import zlib
from dataclasses import replace

import pytest
from pyspark.sql import functions as F  # noqa: N812

from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import (
    AccessDeniedError,
    ConfigurationError,
    DuplicateKeyError,
    NullKeyError,
    PublishError,
    SchemaError,
    StaleFenceError,
    UnreachableError,
)
from nexus_redis_provider.core.gold import publications
from nexus_redis_provider.core.gold.row_commands import ROWS_AT_ONCE
from nexus_redis_provider.spark import publish, publishing
from nexus_redis_provider.spark.rows import prepared
from tests.core.gold_datasets import dataset_keys, keyspace, user
from tests.guarded import own_server
from tests.kinds import single_server
from tests.proxies import FaultyProxy
from tests.with_spark.conftest import PASSWORD, PASSWORD_VARIABLE

pytestmark = pytest.mark.spark
NOWHERE = Endpoint.from_url("redis://127.0.0.1:1?retries=0")


@pytest.fixture
def df(spark):
    return spark.range(100).select(F.col("id").cast("string").alias("id"), F.lit(1).alias("n"))


@pytest.fixture
def options(endpoint, namespace):
    return {"dataset": "sales", "key": "id", "endpoint": endpoint, "namespace": namespace}


@pytest.fixture
def published(df, options):
    """A version that readers see."""
    return publish(df, **options)


def bad_frames(df):
    return {
        "missing": df.select("n"),
        "null": df.withColumn("id", F.when(F.col("id") > 5, F.col("id"))),
        "repeated": df.union(df.where("id = '7'")),
        "repeated at once": df.unionAll(df).coalesce(1),
        "doubled": df.withColumn("m", F.lit(1)).toDF("id", "n", "n"),
        "nested": df.withColumn("id", F.array("id")),
        "no text": df.withColumn("n", F.expr("if(id = '7', cast(X'FF41' as string), '')")),
        "failing": df.withColumn("n", F.raise_error(F.lit("boom")).cast("int")),
    }


@pytest.mark.parametrize("mode", ["snapshot", "upsert"])
@pytest.mark.parametrize(
    ("frame", "error", "text"),
    [
        ("missing", SchemaError, "'id'"),
        ("null", NullKeyError, "column\\(s\\) id"),
        ("repeated", DuplicateKeyError, "'(ns:)?7'"),
        ("repeated at once", DuplicateKeyError, "repeat a key"),
        ("doubled", SchemaError, "'n'"),
        ("nested", SchemaError, "'id'"),
        ("no text", PublishError, "INVALID_UTF8"),
        ("failing", PublishError, "boom"),
    ],
)
def test_bad_rows_change_nothing(  # noqa: PLR0917
    df, options, published, rows, snapshot, mode, frame, error, text
):
    before = snapshot()
    if mode == "upsert":
        options = options | {"mode": "upsert", "key": f"{options['namespace']}:ns:{{id}}"}
        text = text.replace("(ns:)?7", f"{options['namespace']}:ns:7")
    with pytest.raises(error, match=text) as caught:
        publish(bad_frames(df)[frame], **options)
    assert "sales" in str(caught.value)
    assert snapshot() == before
    assert rows.verify() == published


@pytest.mark.parametrize(
    ("option", "error", "text"),
    [
        ({"endpoint": NOWHERE}, UnreachableError, "127.0.0.1:1/0"),
        ({"endpoint": "redis://:pw-1234@127.0.0.1:1"}, ConfigurationError, "literal"),
        ({"endpoint": "http://x"}, ConfigurationError, "redis://"),
        ({"mode": "append"}, ConfigurationError, "'append'"),
        ({"layout": "csv"}, ConfigurationError, "'csv'"),
        ({"key": []}, ConfigurationError, "key"),
        ({"key": "{id}{n}"}, ConfigurationError, "between"),
        ({"key": ["id", "id"]}, ConfigurationError, "once"),
        ({"key": "ID"}, SchemaError, "'ID'"),
        ({"key": ["id", "other"]}, SchemaError, "'other'"),
        ({"ttl": -1}, ConfigurationError, "ttl"),
        ({"ttl": 5, "ttl_jitter": 5}, ConfigurationError, "ttl_jitter"),
        ({"keep": -1}, ConfigurationError, "keep"),
        ({"fence": 0}, ConfigurationError, "fencing"),
        ({"dataset": "a b"}, ConfigurationError, "'a b'"),
    ],
)
def test_bad_options_change_nothing(  # noqa: PLR0917
    df, options, published, rows, snapshot, option, error, text
):
    before = snapshot()
    with pytest.raises(error, match=text) as caught:
        publish(df, **options | option)
    assert "pw-1234" not in str(caught.value)
    assert snapshot() == before
    assert rows.verify() == published


@pytest.mark.parametrize("layout", ["json", "hash", "packed"])
def test_rows_expire_each_at_its_moment(df, options, client, namespace, layout):
    manifest = publish(df, **options, layout=layout, ttl=600, ttl_jitter=300)
    end = manifest.expires_ms
    keys = [key.decode() for key in client.scan_iter(f"{namespace}:gold:sales:*")]
    assert keys
    for key in keys:
        # The row's key; of a bucket, its share and number.
        name = key.partition("{")[2].partition("}")[0] or key.rpartition(":")[2]
        assert client.pexpiretime(key) == end - zlib.crc32(name.encode()) % 300_001


def test_a_stale_fence_changes_nothing(df, options, rows, snapshot):
    manifest = publish(df, **options, fence=7)
    before = snapshot()
    for fence in (6, None):
        with pytest.raises(StaleFenceError):
            publish(df, **options, fence=fence)
    assert snapshot() == before
    assert rows.verify() == manifest


def test_a_password_travels_as_a_reference_only(  # noqa: PLR0917
    df, options, client, endpoint, rows, caplog
):
    name = f"user-{options['namespace']}"
    caplog.set_level(logging.DEBUG)
    with user(client, endpoint, name, f">{PASSWORD}", "~*", "+@all") as limited:
        secret = Secret(SecretSource.ENV, PASSWORD_VARIABLE)
        allowed = replace(limited, password=secret)
        manifest = publish(df, **options | {"endpoint": allowed})
        assert rows.verify() == manifest
        publication = publications.Publication.begin(
            allowed, publications.Spec(**_spec_of(manifest, options["namespace"]))
        )
        assert PASSWORD.encode() not in pickle.dumps(publication)
        assert PASSWORD not in repr(publication)
        keyed = prepared(df, publication.spec.key)
        write = keyed.mapInArrow(
            publishing.functools.partial(publishing._write_partition, publication),
            publishing._REPORT_SCHEMA,
        )
        assert PASSWORD not in write._jdf.queryExecution().toString()
        publication.abort()
        wrong = replace(limited, password=Secret(SecretSource.ENV, "HOME"))
        with pytest.raises(AccessDeniedError) as caught:
            publish(df, **options | {"endpoint": wrong})
        assert os.environ["HOME"] not in str(caught.value)
    assert rows.verify() == manifest
    assert PASSWORD not in caplog.text


def _spec_of(manifest, namespace):
    return {
        "dataset": manifest.dataset,
        "columns": manifest.columns,
        "key": publishing.key_template("id", "sales"),
        "namespace": namespace,
    }


@pytest.mark.parametrize("mode", ["snapshot", "delta"])
@pytest.mark.parametrize("kind", ["known", "found out"])
def test_an_empty_frame_is_an_empty_version_of_packed_rows(df, options, rows, kind, mode):
    """Also where Spark knows it, and runs no task."""
    packed = options | {"layout": "packed", "mode": mode}
    publish(df, **packed)
    manifest = publish(df.limit(0) if kind == "known" else df.where("rand() > 2"), **packed)
    assert manifest.rows == 0
    assert rows.get("1") is None
    assert list(rows.scan()) == []
    assert rows.verify() == manifest
    publish(df, **packed)
    assert rows.get("1") == {"id": "1", "n": 1}


@pytest.mark.parametrize("partitions", [0, 1, 2])
def test_an_empty_frame_is_an_empty_version(df, options, published, rows, partitions):
    empty = df.where("n = 2").repartition(partitions) if partitions else df.limit(0)
    manifest = publish(empty, **options)
    assert manifest.rows == 0
    assert rows.get("1") is None
    assert list(rows.scan()) == []
    assert rows.verify() == manifest


def test_a_frame_of_its_key_alone(df, options, rows):
    publish(df.select("id"), **options)
    assert rows.get("7") == {"id": "7"}


def test_many_tiny_partitions(df, options, rows, client):
    manifest = publish(df.repartition(200), **options)
    assert (manifest.partitions, manifest.rows) == (200, 100)
    assert sorted(int(row["id"]) for row in rows.scan()) == list(range(100))
    assert rows.verify() == manifest


def test_rows_are_exactly_those_of_the_frame(spark, options, rows, client, namespace):
    df = spark.range(25_000).select("id", (F.col("id") * 2).alias("n")).repartition(3)
    manifest = publish(df, **options | {"key": "row {id}"}, ttl=600, lineage={"dag_id": "d"})
    assert manifest.lineage["dag_id"] == "d"
    assert manifest.lineage["spark_application_id"] == spark.sparkContext.applicationId
    assert {row["id"]: row["n"] for row in rows.scan()} == {n: 2 * n for n in range(25_000)}
    assert rows.verify() == manifest


def test_an_upsert_replaces_in_place(df, options, client, namespace, rows):
    upsert = options | {"mode": "upsert", "key": f"{namespace}:analytics:{{id}}", "ttl": 600}
    publish(df, **upsert, fence=3)
    publish(df.where("id in ('1', '2')").withColumn("n", F.lit(2)), **upsert, fence=3)
    assert client.get(f"{namespace}:analytics:1") == b'{"id":"1","n":2}'
    assert client.get(f"{namespace}:analytics:3") == b'{"id":"3","n":1}'
    assert rows.get_many(["2", "4", "x"]) == [{"id": "2", "n": 2}, {"id": "4", "n": 1}, None]
    with pytest.raises(StaleFenceError):
        publish(df, **upsert, fence=2)


@single_server
@pytest.mark.parametrize("count", [5_000, 600_000])
def test_a_task_that_fails_is_tried_again_and_published_exactly(
    spark, options, endpoint, rows, count
):
    df = spark.range(30_000).select("id", F.lit(1).alias("n"))
    with FaultyProxy(endpoint) as proxy:
        proxy.cut_after(count)
        manifest = publish(df, **options | {"endpoint": proxy.endpoint}, ttl=600)
    assert proxy.cuts == 1
    assert rows.verify() == manifest
    assert {row["id"] for row in rows.scan()} == set(range(30_000))
    assert manifest.rows == 30_000


def test_an_error_in_one_partition_stops_the_others(spark, options, client, snapshot):
    """The first partition repeats a key at once; none of the later ones writes its rows."""
    df = spark.range(0, 12_000, 1, 12).select(
        F.when(F.col("id") < 1_000, F.lit("same")).otherwise(F.col("id").cast("string")).alias("id")
    )

    def sent_rows() -> int:
        stats = client.info("commandstats")
        rows_of = {"cmdstat_set": 1, "cmdstat_msetnx": ROWS_AT_ONCE}
        return sum(stats[name]["calls"] * rows for name, rows in rows_of.items() if name in stats)

    before = sent_rows()
    with pytest.raises(DuplicateKeyError, match="'same'"):
        publish(df, **options)
    assert sent_rows() - before < 6_000
    assert keyspace(client, options["namespace"]) == dataset_keys(options["namespace"], "head")


def test_a_progress_function_that_fails_costs_neither_the_lease_nor_the_publish(
    df, options, rows, monkeypatch
):
    called = threading.Event()
    write = publishing._write

    def progress(told):
        called.set()
        raise RuntimeError("in the caller's function")

    def slow_write(prepared, publication):
        assert called.wait(10)
        called.clear()
        assert called.wait(10), "the heart beats on"
        return write(prepared, publication)

    monkeypatch.setattr(publishing, "_write", slow_write)
    manifest = publish(df, **options, on_progress=progress)
    assert rows.verify() == manifest


def test_progress_tells_the_rows_that_are_staged(df, options, monkeypatch, wait_until):
    told: list[int] = []
    write = publishing._write

    def write_then_wait(prepared, publication):
        reports = write(prepared, publication)
        wait_until(lambda: 100 in told)
        return reports

    monkeypatch.setattr(publishing, "_write", write_then_wait)
    publish(df, **options, on_progress=lambda progress: told.append(progress.rows))


def test_a_server_that_dies_in_mid_load_is_told(spark, df, options):
    with own_server() as own:
        patience = replace(own.endpoint, retries=0)
        slow = spark.range(3_000_000).select("id", F.lit("x" * 100).alias("n"))

        def stop_when_staged():
            with own.endpoint.client() as client:
                while not client.keys("*:page:*"):
                    pass
            own.stop()

        killer = threading.Thread(target=stop_when_staged)
        killer.start()
        with pytest.raises(PublishError, match="cannot be reached"):
            publish(slow, **options | {"endpoint": patience})
        killer.join()
