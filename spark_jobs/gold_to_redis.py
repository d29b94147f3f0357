"""Aggregate files or tables to Gold datasets and publish them to Redis, as a JSON file says.

spark-submit spark_jobs/gold_to_redis.py sales.json --input orders=orders.parquet --fence 42
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from nexus_redis_provider.core import errors
from nexus_redis_provider.core.endpoint import Endpoint, translated_errors
from nexus_redis_provider.core.gold.progress import ProgressLine
from nexus_redis_provider.spark import publish
from nexus_redis_provider.spark.configurations import Job
from nexus_redis_provider.spark.failures import SPARK_ERRORS, reason

_HELP = """
The configuration is one JSON object. JSON, because Airflow's parameters and Spark's options speak
it as well; a key that is unknown or stands twice is refused.

  {
    "sources": {
      "orders": {"path": "orders/*.parquet", "format": "parquet"},
      "shops":  {"path": "shops.csv", "format": "csv", "schema": "id INT, name STRING",
                 "options": {"header": true, "enforceSchema": false, "nullValue": "NA"}},
      "paid":   {"query": "SELECT * FROM orders WHERE paid"}
    },
    "datasets": {
      "sales_by_shop_day": {
        "from": "paid",
        "joins": [{"source": "shops", "on": "paid.shop = shops.id", "how": "left"}],
        "where": "amount > 0",
        "group_by": {"shop": "shops.name", "day": "to_date(ordered_at)"},
        "measures": {"orders": "count(*)", "revenue": "sum(amount)"},
        "key": ["shop", "day"],
        "ttl": 604800
      }
    }
  }

sources      what to read. `path` (a file, folder or glob, wherever Spark can read) with `format`
             and, if need be, `options` of Spark's reader and a `schema`; or `table`, a table or
             view; or `query`, SQL over the sources above it.
datasets     what to publish, each with
  from       the source whose rows are aggregated
  joins      further sources: `source`, `on` (SQL), `how` (default left)
  where      SQL condition on the rows, optional
  group_by   columns, as a list of names or as names with SQL expressions
  measures   names with SQL expressions that aggregate
  key        columns, or a template such as "sales:{shop}:{day}"
  mode       snapshot (default: a new version), delta (the same, only changed rows are sent;
             packed) or upsert (rows replaced in place; json)
  layout     json (default) or packed (a quarter of the memory; for GoldDataset and Spark)
  ttl        seconds until the rows vanish; without it they stay
  ttl_column that says when its row vanishes, a timestamp or seconds from the publish; rows that
             have null there take the ttl (not packed)
  ttl_jitter seconds by which rows vanish earlier, at most, each at a moment of its own
  keep       previous versions that stay readable, default 1
  min_rows   fewer rows than these are refused; so does the gate of the DAG
  max_rows_per_second, max_writers
             of all tasks together, and how many of them write at once; default no limit
  max_value_bytes
             a row with a larger value is refused; default 1000000
  expected_rows
             for the time left, and to refuse what would not fit into Redis before it is written;
             default as many as the live version has
  memory_margin
             share of Redis's maxmemory that must stay free, default 0.05
dag          settings of the DAG that runs this file; not used here

Columns with equal names in two sources are told apart as source.column. Timestamps are in UTC,
unless spark.sql.session.timeZone says otherwise. Every expression is checked before anything is
published; datasets are published one after the other, up to the first error.

Progress goes to stderr, once a second: rows written, which share that is, rows/s, time left; on a
terminal as a bar. Each published dataset is one line of JSON on stdout: dataset, version, rows,
bytes, seconds (reading and aggregating included), rows_per_s. spark-submit joins the two on its
stdout; the results are the lines that begin with {.

exit codes:
  0  all published
  1  anything else, such as a failed Spark job
  2  the configuration or an argument is wrong, or names what is not there
  3  the rows were refused: null or repeated keys, too few of them, a value too large, or a type
     that does not fit
  4  a newer holder of the lock has published, or a version begun later
  5  Redis cannot be reached, or denied access, or refused writes, or has no room for the rows
After any of them but 0, readers see of the dataset named in the error what they saw before; of an
upsert that failed on the way, some rows may be new.
"""

_REDIS_HELP = """redis[s]://[user@]host[:port][/db][?password_env=NAME or ?password_file=PATH],
without a password in it; default: the NEXUS_REDIS_URL of the environment"""
_TIME_ZONE = "spark.sql.session.timeZone"


def run(job: Job, **guard: Any) -> None:
    """Publish every dataset, with endpoint, fence and lineage; one line of JSON for each."""
    with SparkSession.builder.getOrCreate() as spark:
        if not spark.sparkContext.getConf().contains(_TIME_ZONE):
            spark.conf.set(_TIME_ZONE, "UTC")
        for name, rows in job.rows(spark).items():
            _say(f"{name}: aggregating and publishing")
            began_at, options = time.monotonic(), job.datasets[name].options
            progress = ProgressLine(name, _say)
            try:
                manifest = publish(rows, name, **options, **guard, on_progress=progress)
            finally:
                progress.close()
            seconds = time.monotonic() - began_at
            facts = {fact: getattr(manifest, fact) for fact in ("version", "rows", "bytes")}
            speed = {"seconds": round(seconds, 3), "rows_per_s": round(manifest.rows / seconds)}
            print(json.dumps({"dataset": name, **facts, **speed}), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        job = Job.load(arguments.config).narrowed(dict(arguments.input), arguments.only)
        endpoint = _answering(Endpoint.of(arguments.redis))
        run(job, endpoint=endpoint, fence=arguments.fence, lineage=dict(arguments.lineage))
    except errors.NexusRedisError as error:
        _say(f"error: {error}")
        return exit_code(error)
    except SPARK_ERRORS as error:
        _say(f"error: the Spark job failed: {reason(error)}")
        return 1
    return 0


def exit_code(error: errors.NexusRedisError) -> int:
    match error:
        case errors.ConfigurationError():
            return 2
        case (
            errors.SchemaError()
            | errors.NullKeyError()
            | errors.DuplicateKeyError()
            | errors.TooFewRowsError()
            | errors.ValueTooLargeError()
        ):
            return 3
        case errors.StaleFenceError() | errors.SupersededError():
            return 4
        case errors.ServerError() | errors.WriteError() | errors.NoRoomError():
            return 5
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arg: Callable[..., Any] = parser.add_argument
    many = {"action": "append", "default": []}
    pairs = {**many, "type": _pair}
    arg("config", type=Path, help="the configuration, a JSON file: see below")
    arg("--redis", metavar="URL", help=_REDIS_HELP)
    arg("--fence", metavar="TOKEN", type=int, help="of the lock that guards this job")
    arg("--input", metavar="NAME=PATH", **pairs, help="read source NAME from PATH; repeatable")
    arg("--lineage", metavar="KEY=VALUE", **pairs, help="a fact for the manifest; repeatable")
    arg("--only", metavar="DATASET", **many, help="publish it alone; repeatable")
    return parser


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator and value):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, not {text!r}")
    return name, value


def _answering(endpoint: Endpoint) -> Endpoint:
    """The endpoint, found good before Spark starts to work."""
    if endpoint.password and not endpoint.password.is_reference:
        raise errors.ConfigurationError(
            "--redis: no password in a command line; use ?password_env=NAME or ?password_file=PATH."
        )
    with endpoint.client() as client, translated_errors(client):
        client.ping()
    return endpoint


def _say(text: str) -> None:
    print(f"gold_to_redis: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
