"""Limits of a publish by Spark: what is refused, how fast it writes, what it tells meanwhile."""

from __future__ import annotations

import json
import logging
import re

import pytest
from pyspark.sql import functions as F  # noqa: N812

from nexus_redis_provider.core.errors import (
    ConfigurationError,
    NoRoomError,
    ValueTooLargeError,
    WriteError,
)
from nexus_redis_provider.core.gold.progress import Progress
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.spark import publish, publishing
from nexus_redis_provider.spark.configurations import Job
from tests.guarded import own_server
from tests.urls import url_of

pytestmark = pytest.mark.spark


@pytest.fixture
def df(spark):
    return spark.range(3000).select(F.col("id").cast("string").alias("id"), F.lit(1).alias("n"))


@pytest.fixture
def options(endpoint, namespace):
    return {"dataset": "sales", "key": "id", "endpoint": endpoint, "namespace": namespace}


@pytest.mark.parametrize("more", [{}, {"mode": "upsert", "key": "ns:{id}"}, {"layout": "packed"}])
def test_too_large_a_value_is_refused_and_readers_see_what_they_saw(df, options, snapshot, more):
    more = {**more, "key": f"{options['namespace']}:{{id}}"} if "mode" in more else more
    published = publish(df, **options | more | {"ttl": 60})
    before = snapshot()
    large = F.when(F.col("id") == "7", F.lit("x" * 3000)).otherwise("small")
    with pytest.raises(ValueTooLargeError, match=r"7' has 3,0\d\d bytes.*max_value_bytes=3,000"):
        publish(df.withColumn("n", large), **options | more, max_value_bytes=3000)
    after = snapshot()
    assert {name: after[name] for name in before} == before
    assert published.rows == 3000


def test_a_frame_that_does_not_fit_is_refused_with_the_figures(spark, options):
    wide = spark.range(200_000).select("id", F.lit("x" * 100).alias("n"))
    with own_server("--maxmemory", "20mb", "--maxmemory-policy", "allkeys-lru") as own:
        there = options | {"endpoint": own.endpoint}
        manifest = publish(wide.limit(1000), **there)
        with pytest.raises(NoRoomError, match=r"200,000 rows of \d+ bytes need .*maxmemory 20,971"):
            publish(wide, **there, expected_rows=200_000)
        with own.endpoint.client() as client:
            rows = GoldDataset(client, "sales", namespace=options["namespace"])
            assert rows.verify() == manifest
            assert client.info("stats")["evicted_keys"] == 0
        # A publish that only seems too large goes on.
        assert publish(wide.limit(2000), **there, expected_rows=2000).rows == 2000


def test_a_server_that_is_full_is_told_where_rows_a_second_are_limited(df, options, monkeypatch):
    with own_server() as own, own.endpoint.client() as client:
        write = publishing._write

        def write_to_a_full_server(rows, publication):
            client.config_set("maxmemory", 1)
            return write(rows, publication)

        monkeypatch.setattr(publishing, "_write", write_to_a_full_server)
        there = options | {"endpoint": own.endpoint, "max_rows_per_second": 1_000_000}
        with pytest.raises(WriteError, match="> 'maxmemory'"):
            publish(df, **there, memory_margin=None)


def test_all_limits_go_to_the_tasks(df, options, rows):
    limits = {"max_rows_per_second": 1_000_000, "max_writers": 1, "expected_rows": 3000}
    manifest = publish(df, **options, **limits, memory_margin=None)
    assert rows.verify() == manifest
    with pytest.raises(ConfigurationError, match="max_writers"):
        publish(df, **options, max_writers=0)


@pytest.mark.parametrize("mode", ["snapshot", "upsert"])
def test_the_log_tells_share_and_time_left(df, options, caplog, mode):
    caplog.set_level(logging.INFO, "nexus_redis_provider")
    key = f"{options['namespace']}:{{id}}"
    limits = {"max_rows_per_second": 1500, "expected_rows": 4000, "ttl": 60}
    told: list[Progress] = []
    publish(df, **options | {"key": key, "mode": mode}, **limits, on_progress=told.append)
    seen = [progress for progress in told if progress.rows]
    assert seen
    assert all(progress.share == progress.rows / 4000 for progress in seen)
    publish(df, **options | {"key": key, "mode": mode}, **limits)
    assert re.search(
        r"sales version \w+: [\d,]+ rows written, \d+% of 4,000, [\d,]+ rows/s, .* left",
        caplog.text,
    )


def test_the_data_source_takes_limits(df, endpoint, namespace, rows):
    url = url_of(endpoint)
    write = df.write.format("nexus_redis").mode("overwrite")
    write = write.options(dataset="sales", key="id", url=url, namespace=namespace)
    with pytest.raises(Exception, match=r"has \d+ bytes, more than max_value_bytes=10"):
        write.option("max_value_bytes", 10).save()
    with pytest.raises(Exception, match="Option 'max_writers' of nexus_redis must be a whole"):
        write.option("max_value_bytes", 1000).option("max_writers", "few").save()
    write.option("max_writers", 1).option("memory_margin", 0.1).save()
    assert rows.verify().rows == 3000


def test_a_configuration_names_limits(tmp_path):
    dataset = {"from": "a", "group_by": ["id"], "measures": {"n": "count(*)"}, "key": "id"}
    body = {"sources": {"a": {"table": "a"}}, "datasets": {"sales": dataset}}
    path = tmp_path / "gold.json"
    dataset |= {"max_rows_per_second": 5, "memory_margin": 0.5}
    path.write_text(json.dumps(body))
    options = Job.load(path).datasets["sales"].options
    assert (options["max_rows_per_second"], options["memory_margin"]) == (5, 0.5)
    for name, value, text in (
        ("max_writers", "two", "datasets.sales: max_writers must be a whole number, not 'two'"),
        ("max_writers", 0, "max_writers is a positive whole number, not 0"),
    ):
        path.write_text(json.dumps(body | {"datasets": {"sales": dataset | {name: value}}}))
        with pytest.raises(ConfigurationError, match=text):
            Job.load(path)
