"""Publishes two partitions of rows that name their run; the second waits until it is told to go on.

spark-submit held_up_publish.py RUN TOKEN
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pyarrow as pa
import redis
from pyspark import TaskContext
from pyspark.sql import SparkSession
from pyspark.sql.functions import lit

from nexus_redis_provider.spark import publish

ROWS = 1000
PATIENCE = 240


def main(run: str, token: str) -> None:
    signals = os.environ["E2E_SIGNALS_URL"]

    def hold_up(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        if TaskContext.get().partitionId() == 1:
            with redis.Redis.from_url(signals, socket_timeout=None) as client:
                assert client.blpop([f"go on {run}"], PATIENCE)
        yield from batches

    with SparkSession.builder.getOrCreate() as spark:
        rows = spark.range(0, ROWS, 1, 2).mapInArrow(hold_up, "id long")
        publish(rows.select("id", lit(run).alias("run")), "fenced", key="id", fence=int(token))


if __name__ == "__main__":
    main(*sys.argv[1:])
