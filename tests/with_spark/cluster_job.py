"""What a user submits to a cluster; says what it saw as JSON on its last line.

spark-submit --py-files PACKAGE.zip cluster_job.py URL NAMESPACE
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import urllib.request

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812

import nexus_redis_provider
from nexus_redis_provider.spark import NexusRedisDataSource, publish


def main(url: str, namespace: str) -> None:
    spark = SparkSession.builder.getOrCreate()
    spark.dataSource.register(NexusRedisDataSource)
    df = spark.range(0, 1000, 1, 8).select(
        F.col("id").cast("string").alias("id"), F.lit(1).alias("n")
    )
    published = publish(df, "sales", key="id", endpoint=url, namespace=namespace)

    options = {"dataset": "sales", "key": "id", "url": url, "namespace": namespace}
    df.write.format("nexus_redis").options(**options).mode("overwrite").save()
    del options["key"]
    found = spark.read.format("nexus_redis").options(**options, partitions="8").load()
    plan = io.StringIO()
    with contextlib.redirect_stdout(plan):
        found.explain(extended=True)
        df.explain(extended=True)
    try:
        literal = options | {"key": "id", "url": "redis://:pw-literal@127.0.0.1:1"}
        df.write.format("nexus_redis").options(**literal).mode("overwrite").save()
    except PySparkException as error:
        refusal = str(error)
    seen = {
        "package": nexus_redis_provider.__file__,
        "rows": published.rows,
        "found": found.distinct().count(),
        "plan": plan.getvalue(),
        "refusal": refusal,
        "ui": ui_of(spark),
    }
    spark.stop()
    print(json.dumps(seen))  # noqa: T201


def ui_of(spark: SparkSession) -> str:
    """All that the UI's REST interface tells of the application."""
    context = spark.sparkContext
    root = f"{context.uiWebUrl}/api/v1/applications/{context.applicationId}"
    pages = ("environment", "sql?details=true", "jobs", "stages", "executors")
    return "".join(urllib.request.urlopen(f"{root}/{page}").read().decode() for page in pages)


if __name__ == "__main__":
    main(*sys.argv[1:])
