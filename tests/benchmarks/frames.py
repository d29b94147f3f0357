"""The frame that is published, and the Spark that does it."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

KEY = ["metric_name", "id"]


def session() -> SparkSession:
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "2g")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def frame(spark: SparkSession, rows: int, *, changed: int = 0) -> DataFrame:
    """Five columns, as a Gold aggregate has them.

    Args:
        spark: what makes it.
        rows: how many.
        changed: how often one row in a hundred has changed, others each time.
    """
    number = F.col("id")
    touched = F.lit(0)
    for time in range(1, changed + 1):
        is_hit = F.xxhash64(number, F.lit(time)) % 100 == 0
        touched += F.when(is_hit, time).otherwise(0)
    return spark.range(rows, numPartitions=2).select(
        number,
        F.format_string("metric_%03d", number % 500).alias("metric_name"),
        F.expr("date_add(date'2026-01-01', cast(id % 365 as int))").alias("day"),
        (number * 1.25 + touched).alias("value"),
        (number % 977).alias("samples"),
    )
