"""`df.write.format("nexus_redis")`: the same promises, told through Spark's own errors."""

from __future__ import annotations

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import functions as F  # noqa: N812

from nexus_redis_provider.spark import NexusRedisDataSource, publish
from tests.core.gold_datasets import user
from tests.urls import url_of
from tests.with_spark.conftest import PASSWORD, PASSWORD_VARIABLE

pytestmark = pytest.mark.spark


@pytest.fixture
def df(spark):
    return spark.range(100).select(F.col("id").cast("string").alias("id"), F.lit(1).alias("n"))


@pytest.fixture
def options(endpoint, namespace):
    where = url_of(endpoint)
    return {"dataset": "sales", "key": "id", "url": where, "namespace": namespace}


@pytest.fixture
def published(df, options, endpoint, namespace):
    return publish(df, "sales", key="id", endpoint=endpoint, namespace=namespace)


def save(df, options, mode="overwrite"):
    df.write.format("nexus_redis").options(**options).mode(mode).save()


def test_it_publishes_what_publish_publishes(df, options, published, rows):
    save(df.withColumn("n", F.lit(2)), options)
    manifest = rows.verify()
    assert rows.get("7") == {"id": "7", "n": 2}
    assert (manifest.rows, manifest.columns) == (100, published.columns)
    save(df, options)
    assert (rows.verify().checksum, rows.verify().bytes) == (published.checksum, published.bytes)


@pytest.mark.parametrize("key", ["id,n", " id , n ", "{id}|{n}"])
def test_keys_of_several_columns(df, options, rows, key):
    chosen = {"ttl": "600", "ttl_jitter": "9.5", "keep": "0", "fence": "5", "min_rows": "100"}
    save(df, options | {"key": key, "lineage": '{"dag": "sales"}'} | chosen)
    assert rows.get(("7", 1)) == {"id": "7", "n": 1}
    manifest = rows.verify()
    assert (manifest.fence, manifest.lineage["dag"]) == (5, "sales")
    assert manifest.expires_ms == manifest.created_ms + 600_000
    assert manifest.expires_from_ms == manifest.expires_ms - 9500


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"ttl": "x"}, "'ttl'"),
        ({"ttl": "0"}, "ttl"),
        ({"ttl": "nan"}, "ttl"),
        ({"ttl_jitter": "x"}, "'ttl_jitter'"),
        ({"ttl_jitter": "1"}, "ttl_jitter"),
        ({"keep": "1.5"}, "'keep' of nexus_redis must be a whole number"),
        ({"keep": "-1"}, "keep"),
        ({"min_rows": "1e3"}, "'min_rows'"),
        ({"min_rows": "-1"}, "min_rows"),
        ({"min_rows": "101"}, "101"),
        ({"lineage": "by hand"}, "'by hand'"),
        ({"lineage": "[]"}, "'lineage' of nexus_redis must be a JSON object"),
        ({"fence": "x"}, "'fence'"),
        ({"fence": "0"}, "fencing token"),
        ({"staging_lease": "0"}, "staging_lease"),
        ({"layout": "csv"}, "'csv'"),
        ({"colour": "red"}, "colour"),
        ({"dataset": ""}, "'dataset'"),
        ({"key": ""}, "'key'"),
        ({"key": "ID"}, "'ID'"),
        ({"url": "redis://127.0.0.1:1?retries=0"}, "127.0.0.1:1/0"),
        ({"url": "redis://:pw-1234@127.0.0.1:1"}, "literal Redis password"),
    ],
)
def test_bad_options_change_nothing(df, options, published, rows, snapshot, option, text):  # noqa: PLR0917
    before = snapshot()
    with pytest.raises(PySparkException) as caught:
        save(df, options | option)
    assert text in str(caught.value)
    assert "pw-1234" not in str(caught.value)
    assert snapshot() == before
    assert rows.verify() == published


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (lambda df: df.select("n"), "'id'"),
        (lambda df: df.withColumn("id", F.when(F.col("id") > 5, F.col("id"))), "NullKeyError"),
        (lambda df: df.union(df.where("id = '7'")), "DuplicateKeyError"),
        (lambda df: df.withColumn("s", F.array(F.expr("interval 1 year"))), "'s'"),
        (lambda df: df.withColumn("n", F.raise_error(F.lit("boom")).cast("int")), "boom"),
    ],
    ids=["missing", "null", "repeated", "interval", "failing"],
)
def test_bad_rows_change_nothing(df, options, published, rows, snapshot, frame, text):  # noqa: PLR0917
    before = snapshot()
    with pytest.raises(PySparkException, match=text):
        save(frame(df), options)
    assert snapshot() == before
    assert rows.verify() == published


@pytest.mark.parametrize("mode", ["append", "error", "ignore"])
def test_other_save_modes_are_refused(df, options, snapshot, mode):
    with pytest.raises(PySparkException, match=r"overwrite|SAVE_MODE"):
        save(df, options, mode)
    assert snapshot() == {}


def test_text_that_is_none_changes_nothing(df, options, published, rows):
    with pytest.raises(PySparkException, match="column 'n' has no valid values: Invalid UTF8"):
        save(df.withColumn("n", F.expr("cast(X'FF41' as string)")), options)
    assert rows.verify() == published


def test_an_empty_frame(df, options, published, rows):
    save(df.where("n = 2"), options)
    assert rows.verify().rows == 0
    assert rows.get("7") is None


def test_the_password_is_a_reference(df, options, client, endpoint, rows):
    name = f"user-{options['namespace']}"
    with user(client, endpoint, name, f">{PASSWORD}", "~*", "+@all"):

        def where(variable: str) -> str:
            return url_of(endpoint, name, password_env=variable)

        save(df, options | {"url": where(PASSWORD_VARIABLE)})
        manifest = rows.verify()
        with pytest.raises(PySparkException, match="denied access"):
            save(df, options | {"url": where("HOME")})
        with pytest.raises(PySparkException, match="NEXUS_NOT_SET"):
            save(df, options | {"url": where("NEXUS_NOT_SET")})
    assert rows.verify() == manifest


def test_it_is_named_as_documented():
    assert NexusRedisDataSource.name() == "nexus_redis"
