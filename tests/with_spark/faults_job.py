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

from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.specs import Report
from nexus_redis_provider.spark import publish, publishing
from tests.gold_faults import Shape

PARTITIONS = 2
TICKETS = 5_000
_output = threading.Lock()
_write = publishing._write


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
    publishing._write = write_a_part
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


def write_a_part(rows: DataFrame, publication: Publication) -> list[Report]:
    """Where writers are limited, let each attempt at the first partition write one batch.

    An attempt that is among those whose turn it is writes, and is none of them any more then. All
    others wait until nobody has the turn.
    """
    if publication.spec.limits.max_writers is not None:
        turns = publication.spec.keys.writers(publication.version)
        with publication.endpoint.client() as client:
            client.zadd(turns, {f"0.{task}": "+inf" for task in range(TICKETS)})
            client.expire(turns, 300)
    return _write(rows, publication)


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
