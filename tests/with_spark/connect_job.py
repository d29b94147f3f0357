"""What a client of Spark Connect does; says what it saw as JSON on its last line.

python -m tests.with_spark.connect_job URL NAMESPACE
"""

from __future__ import annotations

import json
import sys

from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812

from nexus_redis_provider.core.errors import DuplicateKeyError, PublishError
from nexus_redis_provider.spark import NexusRedisDataSource, publish


def from_nowhere(batches):
    import nowhere

    yield from nowhere.changed(batches)


def main(url: str, namespace: str) -> None:
    spark = (
        SparkSession.builder.remote("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", "2")
        .getOrCreate()
    )
    spark.dataSource.register(NexusRedisDataSource)
    df = spark.range(0, 100, 1, 2).select(F.col("id").cast("string").alias("id"), F.array("id"))
    where = {"endpoint": url, "namespace": namespace}
    options = {"dataset": "sales", "url": url, "namespace": namespace}
    seen: dict[str, object] = {"session": type(spark).__module__}

    seen["published"] = publish(df, "sales", key="id", **where).rows
    key = f"{namespace}:gold:sales:{{id}}"
    seen["upserted"] = publish(df, "upserted", key=key, mode="upsert", **where).rows
    for name, bad in (
        ("repeated", df.union(df)),
        ("failed in Python", df.mapInArrow(from_nowhere, df.schema)),
        ("failed", df.withColumn("n", F.raise_error(F.lit("boom")))),
    ):
        try:
            publish(bad, "sales", key="id", **where)
        except (DuplicateKeyError, PublishError) as error:
            seen[name] = [type(error).__name__, str(error)]
    df.write.format("nexus_redis").options(**options, key="id").mode("overwrite").save()
    frame = spark.read.format("nexus_redis").options(**options).load()
    seen["read"] = frame.where("id = '7'").toArrow().to_pylist()
    spark.stop()
    print(json.dumps(seen))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
