"""Two streams over the same files, run once for each line on stdin until there is nothing new.

python -m tests.with_spark.streaming_job FOLDER URL NAMESPACE
"""

from __future__ import annotations

import sys

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql.streaming import StreamingQuery

from nexus_redis_provider.spark import NexusRedisDataSource

SCHEMA = "k int, v long"


def totals(rows: DataFrame) -> DataFrame:
    return rows.groupBy("k").agg(F.count("v").alias("n"), F.sum("v").alias("total"))


def newest_key(namespace: str) -> str:
    return f"{namespace}:gold:sales:{{k}}"


def main(folder: str, url: str, namespace: str) -> None:
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.log.level", "ERROR")
        .getOrCreate()
    )
    spark.dataSource.register(NexusRedisDataSource)
    rows = spark.readStream.schema(SCHEMA).option("maxFilesPerTrigger", 1).csv(f"{folder}/rows")

    def start(frame: DataFrame, dataset: str, key: str, mode: str) -> StreamingQuery:
        options = {"dataset": dataset, "key": key, "url": url, "namespace": namespace}
        options["checkpointLocation"] = f"{folder}/{dataset}"
        writer = frame.writeStream.format("nexus_redis").options(**options).outputMode(mode)
        return writer.trigger(availableNow=True).start()

    for _ in sys.stdin:
        # Several tasks for each batch, all rows of a key in one of them.
        newest = start(rows.repartition(3, "k"), "newest", newest_key(namespace), "append")
        complete = start(totals(rows), "totals", "k", "complete")
        newest.awaitTermination()
        complete.awaitTermination()
        print("done", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
