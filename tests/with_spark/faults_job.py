"""A driver that publishes what it is told, all at once: see `faults.Driver`.

python -m tests.with_spark.faults_job CONFIGURATION

Each line of its input is a publish, and each line of its output tells what has come of one.
"""

from __future__ import annotations

import base64
import json
import pickle
import sys
import threading
from typing import Any

from pyspark import inheritable_thread_target
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from nexus_redis_provider.spark import publish
from tests.gold_faults import Shape

PARTITIONS = 2
_output = threading.Lock()


def frame(spark: SparkSession, shape: Shape, version: int) -> DataFrame:
    """The rows of a version of a shape."""
    number = F.when(F.col("id") % shape.every == 0, version).otherwise(0).cast("long")
    rows = spark.range(0, shape.count, 1, PARTITIONS)
    return rows.select(F.concat(F.lit("k"), "id").alias("id"), number.alias("n"))


def options_of(shape: Shape) -> dict[str, Any]:
    """Those of `publish` that make its layout and mode."""
    return {"key": "id", "layout": shape.layout, "mode": shape.mode}


def main(configuration: str) -> None:
    spark = SparkSession.builder.config(map=json.loads(configuration)).getOrCreate()
    tell("ready")
    for line in sys.stdin:
        work = inheritable_thread_target(spark)(published)
        threading.Thread(target=work, args=(spark, *decoded(line)), daemon=True).start()


def published(
    spark: SparkSession, number: int, shape: Shape, version: int, options: dict[str, Any]
) -> None:
    # So that tasks of all publishes run side by side.
    spark.sparkContext.setLocalProperty("spark.scheduler.pool", str(number))
    try:
        tell((number, publish(frame(spark, shape, version), **options_of(shape), **options)))
    except Exception as error:  # noqa: BLE001 - whoever asked for it is told
        tell((number, error))


def tell(what: Any) -> None:
    with _output:
        print(encoded(what), flush=True)  # noqa: T201


def encoded(what: Any) -> str:
    """An object on a line."""
    return base64.b64encode(pickle.dumps(what)).decode()


def decoded(line: str) -> Any:
    return pickle.loads(base64.b64decode(line))


if __name__ == "__main__":
    main(*sys.argv[1:])
