"""A Cluster whose slots move while Spark publishes to it, and reads from it."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.spark import publish
from tests.topologies import ClusterDeployment

pytestmark = pytest.mark.spark
ROWS = 20_000


def save(df: DataFrame, deployment: ClusterDeployment, dataset: str) -> None:
    options = {"dataset": dataset, "key": "id", "url": deployment.url}
    df.write.format("nexus_redis").options(**options).mode("overwrite").save()


WAYS = {
    "json": lambda df, deployment, dataset: publish(
        df, dataset, key="id", endpoint=deployment.endpoint
    ),
    "packed": lambda df, deployment, dataset: publish(
        df, dataset, key="id", endpoint=deployment.endpoint, layout="packed"
    ),
    "delta": lambda df, deployment, dataset: publish(
        df, dataset, key="id", endpoint=deployment.endpoint, layout="packed", mode="delta"
    ),
    "format": save,
}


@pytest.mark.parametrize("way", WAYS)
def test_slots_move_while_spark_writes_and_reads(
    spark: SparkSession, deployment: ClusterDeployment, way: str
) -> None:
    buckets = [f"{{{share}.{number}}}" for share in range(4) for number in range(4)]
    with deployment.moving_on([GoldKeys(way).head, *buckets]) as moved:
        for version in (1, 2):
            df = spark.range(0, ROWS, 1, 4).select(
                F.concat(F.lit("k"), "id").alias("id"), (F.col("id") * version).alias("n")
            )
            before = moved()
            WAYS[way](df, deployment, way)
            assert moved() > before
            reader = spark.read.format("nexus_redis").options(dataset=way, url=deployment.url)
            found = reader.load().agg(F.count("*"), F.sum("n"), F.countDistinct("id")).first()
            assert found is not None
            assert tuple(found) == (ROWS, version * ROWS * (ROWS - 1) // 2, ROWS)
    with deployment.endpoint.client() as client:
        assert GoldDataset(client, way).verify().rows == ROWS
