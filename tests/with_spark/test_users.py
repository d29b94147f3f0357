"""Spark publishes, streams and reads with the rights of its role, on an encrypted line."""

from __future__ import annotations

import pytest

from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.spark import publish
from tests.deploy.conftest import binaries, secrets  # noqa: F401
from tests.deploy.services import Service
from tests.deploy.test_users import DONE_WITHOUT
from tests.urls import url_of

pytestmark = pytest.mark.spark

LAYOUTS = {"json": "snapshot", "hash": "snapshot", "packed": "delta"}


@pytest.fixture
def service(secrets, binaries, tmp_path):  # noqa: F811
    with Service(("state",), secrets, tmp_path / "data", tls="yes") as service:
        yield service


def test_the_role_of_spark_suffices(spark, service, tmp_path):
    spark.range(0, 50, 1, 2).selectExpr("id AS k", "id * 2 AS n").write.parquet(f"{tmp_path}/in")
    df = spark.read.parquet(f"{tmp_path}/in")
    endpoint = service.endpoint("spark")
    where = {"url": url_of(endpoint)}
    for layout, mode in LAYOUTS.items():
        for rows in (df, df.where("k > 0")):
            publish(rows, layout, key="k", layout=layout, mode=mode, endpoint=endpoint)
        read = spark.read.format("nexus_redis").options(dataset=layout, **where).load()
        assert sorted(read.collect()) == sorted(df.where("k > 0").collect())
    options = {"dataset": "streamed", "key": "nexus:gold:streamed:{k}", **where}
    stream = spark.readStream.schema(df.schema).parquet(f"{tmp_path}/in").writeStream
    stream = stream.format("nexus_redis").options(**options)
    stream.option("checkpointLocation", f"{tmp_path}/check").trigger(availableNow=True).start()
    (query,) = spark.streams.active
    assert query.awaitTermination(60)
    with service.endpoint("api").client() as client, service.client() as admin:
        assert GoldDataset(client, "streamed").get(49) == {"k": 49, "n": 98}
        assert GoldDataset(client, "packed").get(49) == {"k": 49, "n": 98}
        assert {entry["object"] for entry in admin.acl_log()} == DONE_WITHOUT["spark"]
