"""Aggregate files or tables to Gold datasets and publish them to Redis, as a JSON file says.

spark-submit spark_jobs/gold_to_redis.py sales.json --input orders=orders.parquet --fence 42
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name every Spark user knows

from nexus_redis_provider.core import errors
from nexus_redis_provider.core.endpoint import Endpoint, translated_errors
from nexus_redis_provider.core.gold.manifests import Layout, Mode
from nexus_redis_provider.core.gold.publications import Spec
from nexus_redis_provider.core.gold.templates import KeyTemplate
from nexus_redis_provider.spark import publish

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
  mode       snapshot (default: a new version) or upsert (rows replaced in place)
  layout     json (default)
  ttl        seconds until the rows vanish; without it they stay
  keep       previous versions that stay readable, default 1
  min_rows   rows below which the gate of the DAG stays shut; not used here
dag          settings of the DAG that runs this file; not used here

Columns with equal names in two sources are told apart as source.column. Timestamps are in UTC,
unless spark.sql.session.timeZone says otherwise. Every expression is checked before anything is
published; datasets are published one after the other, up to the first error.

Progress goes to stderr. Each published dataset is one line of JSON on stdout: dataset, version,
rows, bytes, seconds (reading and aggregating included), rows_per_s.

exit codes:
  0  all published
  1  anything else, such as a failed Spark job
  2  the configuration or an argument is wrong, or names what is not there
  3  the rows were refused: null or repeated keys, or a type that cannot be published
  4  a newer holder of the lock has published, or a version begun later
  5  Redis cannot be reached, or denied access, or refused writes
After any of them but 0, readers see of the dataset named in the error what they saw before.
"""

_REDIS_HELP = """redis[s]://[user@]host[:port][/db][?password_env=NAME or ?password_file=PATH],
without a password in it; default: the NEXUS_REDIS_URL of the environment"""
_Kinds = dict[str, tuple[type, ...]]


def _kinds(kind: type, *keys: str) -> _Kinds:
    return dict.fromkeys(keys, (kind,))


_SOURCE = _kinds(str, "path", "table", "query", "format", "schema") | {"options": (dict,)}
_DATASET = _kinds(str, "from", "where", "mode", "layout") | _kinds(int, "ttl", "keep", "min_rows")
_DATASET |= {"joins": (list,), "group_by": (dict, list), "measures": (dict,), "key": (str, list)}
_PUBLISH = ("mode", "layout", "ttl", "keep")
_TIME_ZONE = "spark.sql.session.timeZone"
_JOINS = ("inner", "left", "right", "full", "semi", "anti", "cross")
_WORDS = {str: "a text", int: "a whole number", dict: "an object", list: "a list"}


@dataclass(frozen=True, slots=True)
class Source:
    """What to read, and how."""

    path: str | None
    table: str | None
    query: str | None
    format: str | None
    options: Mapping[str, Any] | None
    schema: str | None

    @classmethod
    def parse(cls, where: str, body: Any) -> Self:
        source = cls(**_object(where, body, _SOURCE))
        if sum(map(bool, (source.path, source.table, source.query))) != 1:
            raise _wrong(where, "needs exactly one of path, table and query")
        if bool(source.path) != bool(source.format):
            raise _wrong(where, "needs a format with a path, and only there")
        return source

    def read(self, spark: SparkSession) -> DataFrame:
        if self.table:
            return spark.table(self.table)
        if self.query:
            return spark.sql(self.query)
        reader = spark.read.options(**self.options or {})
        return reader.load(self.path, self.format, self.schema)


@dataclass(frozen=True, slots=True)
class Dataset:
    """What to publish: how its rows are made, and how they go to Redis."""

    source: str
    joins: Sequence[Mapping[str, str]]
    where: str | None
    group_by: Mapping[str, str]
    measures: Mapping[str, str]
    options: Mapping[str, Any]

    @classmethod
    def parse(cls, name: str, where: str, body: Any, sources: Collection[str]) -> Self:
        given = _object(where, body, _DATASET, ("from", "group_by", "measures", "key"))
        group_by = _expressions(f"{where}.group_by", given["group_by"])
        measures = _expressions(f"{where}.measures", given["measures"])
        if doubles := set(group_by) & set(measures):
            raise _wrong(where, f"both group_by and measures name {', '.join(doubles)}")
        key = _key(where, given["key"], [*group_by, *measures])
        for option, known in (("mode", list(Mode)), ("layout", list(Layout))):
            _one_of(f"{where}.{option}", given[option] or known[0], known)
        options = {name: given[name] for name in _PUBLISH if given[name] is not None}
        Spec(dataset=name, columns=(), key=key, **options)
        return cls(
            source=_one_of(f"{where}.from", given["from"], sources),
            joins=[
                _join(f"{where}.joins[{number}]", join, sources)
                for number, join in enumerate(given["joins"] or [])
            ],
            where=given["where"],
            group_by=group_by,
            measures=measures,
            options=options | {"key": key.text},
        )

    def rows(self, at: str, sources: Mapping[str, DataFrame]) -> DataFrame:
        """The aggregate; each expression is analysed by itself too, so that an error names it."""
        frame = sources[self.source].alias(self.source)
        for join in self.joins:
            other = sources[join["source"]].alias(join["source"])
            with _analysis(f"{at}: join with {join['source']}"):
                frame = frame.join(other, F.expr(join["on"]), join["how"] or "left")
        if self.where:
            with _analysis(f"{at}.where"):
                frame = frame.where(F.expr(self.where))
        for part, expressions, use in (
            ("group_by", self.group_by, frame.select),
            ("measures", self.measures, frame.agg),
        ):
            for name, expression in expressions.items():
                with _analysis(f"{at}.{part}.{name}"):
                    use(F.expr(expression))
        with _analysis(at):
            return frame.groupBy(*_columns(self.group_by)).agg(*_columns(self.measures))


@dataclass(frozen=True, slots=True)
class Job:
    """All that a configuration says."""

    sources: Mapping[str, Source]
    datasets: Mapping[str, Dataset]

    @classmethod
    def load(cls, path: Path) -> Self:
        try:
            body = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
        except (OSError, ValueError) as error:
            raise errors.ConfigurationError(f"{path}: {error}") from error
        kinds = _kinds(dict, "sources", "datasets", "dag")
        top = _object("the configuration", body, kinds, ("sources", "datasets"))
        sources = {
            name: Source.parse(f"sources.{name}", source) for name, source in top["sources"].items()
        }
        datasets = {
            name: Dataset.parse(name, f"datasets.{name}", dataset, sources)
            for name, dataset in top["datasets"].items()
        }
        return cls(sources, datasets)

    def narrowed(self, inputs: Mapping[str, str], only: Collection[str]) -> Self:
        """The same job with other files, and for some of its datasets (none named: all)."""
        files = [name for name, source in self.sources.items() if source.path]
        for name in inputs:
            _one_of("--input", name, files)
        for name in only:
            _one_of("--only", name, self.datasets)
        replaced = {name: replace(self.sources[name], path=path) for name, path in inputs.items()}
        chosen = {name: self.datasets[name] for name in only or self.datasets}
        return replace(self, sources={**self.sources, **replaced}, datasets=chosen)

    def rows(self, spark: SparkSession) -> dict[str, DataFrame]:
        """A frame per dataset, all of them analysed and none of them computed."""
        sources = {}
        for name, source in self.sources.items():
            with _analysis(f"sources.{name}"):
                sources[name] = source.read(spark)
                sources[name].createOrReplaceTempView(name)
        return {
            name: dataset.rows(f"datasets.{name}", sources)
            for name, dataset in self.datasets.items()
        }


def run(job: Job, **guard: Any) -> None:
    """Publish every dataset, with endpoint, fence and lineage; one line of JSON for each."""
    with SparkSession.builder.getOrCreate() as spark:
        if not spark.sparkContext.getConf().contains(_TIME_ZONE):
            spark.conf.set(_TIME_ZONE, "UTC")
        for name, rows in job.rows(spark).items():
            _say(f"{name}: aggregating and publishing")
            began_at, options = time.monotonic(), job.datasets[name].options
            manifest = publish(rows, name, **options, **guard, on_progress=_progress(name))
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
    return 0


def exit_code(error: errors.NexusRedisError) -> int:
    match error:
        case errors.ConfigurationError():
            return 2
        case errors.SchemaError() | errors.NullKeyError() | errors.DuplicateKeyError():
            return 3
        case errors.StaleFenceError() | errors.SupersededError():
            return 4
        case errors.ServerError() | errors.WriteError():
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


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if doubles := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"one object has a key twice: {', '.join(doubles)}")
    return dict(pairs)


def _object(where: str, body: Any, kinds: _Kinds, required: Collection[str] = ()) -> dict[str, Any]:
    """A checked object with every key that it can have; None is for what it has not."""
    if not isinstance(body, dict):
        raise _wrong(where, f"must be an object, not {body!r}")
    for key, value in body.items():
        if key not in kinds:
            near = difflib.get_close_matches(key, kinds, 1)
            hint = f"did you mean {near[0]}" if near else f"known are {', '.join(kinds)}"
            raise _wrong(where, f"has an unknown key {key!r} ({hint})")
        if value is not None and (not isinstance(value, kinds[key]) or isinstance(value, bool)):
            words = " or ".join(_WORDS[kind] for kind in kinds[key])
            raise _wrong(where, f"{key} must be {words}, not {value!r}")
    for key in required:
        if not body.get(key):
            raise _wrong(where, f"needs {key}")
    return dict.fromkeys(kinds) | body


def _expressions(where: str, body: Any) -> dict[str, str]:
    """SQL by name; a list of names is each name by itself."""
    named = {str(name): name for name in body} if isinstance(body, list) else body
    return _object(where, named, dict.fromkeys(named, (str,)), required=list(named))


def _key(where: str, given: str | list[str], columns: Collection[str]) -> KeyTemplate:
    names = [str(name) for name in given] if isinstance(given, list) else [given]
    template = KeyTemplate.parse(str(given)) if "{" in given else KeyTemplate.of_columns(names)
    for column in template.columns:
        _one_of(f"{where}.key", column, columns)
    return template


def _join(where: str, body: Any, sources: Collection[str]) -> dict[str, str]:
    join = _object(where, body, _kinds(str, "source", "on", "how"), ("source", "on"))
    _one_of(f"{where}.source", join["source"], sources)
    _one_of(f"{where}.how", join["how"] or "left", _JOINS)
    return join


def _one_of(where: str, value: str, known: Collection[str]) -> str:
    if value not in known:
        raise _wrong(where, f"must be one of {', '.join(known)}, not {value!r}")
    return value


def _wrong(where: str, what: str) -> errors.ConfigurationError:
    return errors.ConfigurationError(f"{where}: {what}.")


def _columns(expressions: Mapping[str, str]) -> list[Column]:
    return [F.expr(expression).alias(name) for name, expression in expressions.items()]


@contextmanager
def _analysis(where: str) -> Iterator[None]:
    try:
        yield
    except AnalysisException as error:
        raise errors.ConfigurationError(f"{where}: {str(error).strip().splitlines()[0]}") from error


def _progress(dataset: str) -> Callable[[int, float], None]:
    staged = 0

    def report(rows: int, seconds: float) -> None:
        nonlocal staged
        if rows > staged:
            _say(f"{dataset}: {rows:,} rows staged, {rows / seconds:,.0f} rows/s")
        staged = rows

    return report


def _say(text: str) -> None:
    print(f"gold_to_redis: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
