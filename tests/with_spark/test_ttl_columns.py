"""Rows of frames and streams that say themselves when they expire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pyspark.errors import PySparkException, StreamingQueryException
from pyspark.sql import functions as F  # noqa: N812

from nexus_redis_provider.core.errors import ConfigurationError, RowTtlError, SchemaError
from nexus_redis_provider.core.gold.history import history
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.spark import publish
from tests.core.gold_datasets import keyspace
from tests.urls import url_of

pytestmark = pytest.mark.spark
SOON = datetime.now(UTC).replace(microsecond=123_000) + timedelta(hours=1)
PAST = datetime(2020, 1, 1, tzinfo=UTC)
LAYOUTS = ["json", "hash"]


@pytest.fixture
def permanent(permanent):
    return [*permanent, "*:row:*"]


@pytest.fixture
def options(endpoint, namespace):
    return {"dataset": "sales", "key": "id", "endpoint": endpoint, "namespace": namespace}


@pytest.fixture
def timed(spark):
    """`a` expires soon, `b` never, `c` has expired."""
    return spark.createDataFrame([("a", SOON), ("b", None), ("c", PAST)], "id string, u timestamp")


@pytest.fixture
def counted(spark):
    """`a` expires in a minute, `b` in an hour."""
    return spark.createDataFrame([("a", 60), ("b", 3600)], "id string, u int")


def expiries(client, prefix):
    names = [key.decode() for key in client.scan_iter(f"{prefix}*", count=1000)]
    return {name.removeprefix(prefix): client.pexpiretime(name) for name in names}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("way", ["publish", "format"])
def test_a_timestamp_is_the_moment(*, timed, options, endpoint, client, rows, layout, way):
    more = {"layout": layout, "ttl_column": "u"}
    if way == "publish":
        publish(timed, **options, **more)
    else:
        url = url_of(endpoint)
        more |= {"dataset": "sales", "key": "id", "namespace": options["namespace"], "url": url}
        timed.write.format("nexus_redis").options(**more).mode("overwrite").save()
    manifest, soon_ms = rows.manifest(), round(SOON.timestamp() * 1000)
    prefix = GoldKeys("sales", options["namespace"]).row_prefix(manifest.version)
    assert expiries(client, prefix) == {"a": soon_ms, "b": -1}
    assert (manifest.rows, rows.verification().expired) == (3, 1)
    assert manifest.expires_from_ms == round(PAST.timestamp() * 1000)
    assert (manifest.expires_ms, manifest.ttl_column) == (None, "u")
    assert rows.get("a") == {"id": "a", "u": SOON}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whole_numbers_are_seconds_from_the_publish(counted, options, client, namespace, layout):
    options |= {"layout": layout, "mode": "upsert", "key": f"{namespace}:row:{{id}}"}
    manifest = publish(counted, **options, ttl_column="u")
    begun = manifest.created_ms
    expected = {"a": begun + 60_000, "b": begun + 3_600_000}
    assert expiries(client, f"{namespace}:row:") == expected
    assert manifest.expires_ms is None


@pytest.mark.parametrize("mode", ["snapshot", "upsert"])
@pytest.mark.parametrize("value", [0, 10**10])
def test_what_is_no_lifetime_changes_nothing(*, counted, options, client, namespace, mode, value):
    if mode == "upsert":
        options |= {"mode": "upsert", "key": f"{namespace}:row:{{id}}"}
    publish(counted, **options, ttl_column="u")
    before = {key: client.dump(key) for key in keyspace(client, namespace) if ":head" not in key}
    bad = counted.withColumn("u", F.expr(f"if(id = 'b', {value}L, u)"))
    with pytest.raises(RowTtlError, match=f"'u' of the row with key '.*b' is {value}, "):
        publish(bad, **options, ttl_column="u")
    after = {key: client.dump(key) for key in keyspace(client, namespace) if ":head" not in key}
    assert after == before
    assert run(client, history("sales", namespace=namespace)).staged == ()


@pytest.mark.parametrize(
    ("column", "more", "error", "message"),
    [
        ("date'2030-01-01'", {}, SchemaError, "'u' has type date.*cast it to timestamp"),
        ("timestamp_ntz'2030-01-01'", {}, SchemaError, "timestamp_ntz.*cast it to timestamp"),
        ("1.5D", {}, SchemaError, "'u' has type double"),
        ("60", {"ttl_column": "until"}, SchemaError, "'until' of ttl_column is not there"),
        ("60", {"layout": "packed"}, ConfigurationError, "'packed' does not go with ttl_column"),
    ],
)
def test_what_cannot_say_when_rows_expire_is_refused(
    *, counted, options, client, namespace, column, more, error, message
):
    frame = counted.withColumn("u", F.expr(column))
    with pytest.raises(error, match=message):
        publish(frame, **options, **{"ttl_column": "u"} | more)
    assert keyspace(client, namespace) == set()


def test_rows_of_a_stream(spark, tmp_path, endpoint, client, namespace):
    options = {
        "dataset": "sales",
        "namespace": namespace,
        "url": url_of(endpoint),
        "key": f"{namespace}:row:{{id}}",
        "ttl_column": "u",
        "checkpointLocation": f"{tmp_path}/checkpoint",
    }
    (tmp_path / "rows").mkdir()
    file = tmp_path / "rows" / "some.csv"

    def stream():
        rows = spark.readStream.schema("id string, u int").csv(f"{tmp_path}/rows")
        writer = rows.writeStream.format("nexus_redis").options(**options)
        writer.trigger(availableNow=True).start().awaitTermination()

    file.write_text("a,60\nb,0\n")
    with pytest.raises((StreamingQueryException, PySparkException), match=r"key '.*b' is 0"):
        stream()
    assert not expiries(client, f"{namespace}:row:")
    file.write_text("a,60\nb,\n")
    stream()
    begun = run(client, history("sales", namespace=namespace)).live_version.manifest.created_ms
    assert expiries(client, f"{namespace}:row:") == {"a": begun + 60_000, "b": -1}
