"""What a Gold configuration says: sources to read, and datasets to aggregate and publish.

The grammar stands in the help of `spark_jobs/gold_to_redis.py`. Everything is checked before
anything is read, and every expression before anything is published.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name every Spark user knows

from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.gold.columns import key_template
from nexus_redis_provider.core.gold.limits import Limits
from nexus_redis_provider.core.gold.manifests import Layout, Mode
from nexus_redis_provider.core.gold.schemas import Column
from nexus_redis_provider.core.gold.specs import Spec
from nexus_redis_provider.spark.failures import SPARK_ERRORS, reason

_Kinds = dict[str, tuple[type, ...]]


def _kinds(kind: type, *keys: str) -> _Kinds:
    return dict.fromkeys(keys, (kind,))


_SOURCE = _kinds(str, "path", "table", "query", "format", "schema") | {"options": (dict,)}
_DATASET = _kinds(str, "from", "where", "mode", "layout", "ttl_column")
_DATASET |= _kinds(int, "ttl", "ttl_jitter", "keep", "min_rows")
_DATASET |= _kinds(int, "max_rows_per_second", "max_writers", "max_value_bytes", "expected_rows")
_DATASET |= {
    "memory_margin": (int, float),
    "joins": (list,),
    "group_by": (dict, list),
    "measures": (dict,),
    "key": (str, list),
}
_PUBLISH = ("mode", "layout", "ttl", "ttl_jitter", "ttl_column", "keep", "min_rows")
_CHOICES: dict[str, type[StrEnum]] = {"mode": Mode, "layout": Layout}
_LIMITS = tuple(field.name for field in fields(Limits))
_JOINS = ("inner", "left", "right", "full", "semi", "anti", "cross")
_WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a fraction",
    dict: "an object",
    list: "a list",
}


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
        """The source that stands at `where`.

        Raises:
            ConfigurationError: names the place and what is wrong with it.
        """
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
        key = key_template(given["key"], name)
        for column in key.columns:
            _one_of(f"{where}.key", column, [*group_by, *measures])
        timed: tuple[Column, ...] = ()
        if (ttl_column := given["ttl_column"]) is not None:
            _one_of(f"{where}.ttl_column", ttl_column, [*group_by, *measures])
            timed = (Column(ttl_column, "timestamp"),)  # Its type is known when the rows are.
        options = {name: given[name] for name in _PUBLISH if given[name] is not None}
        for option, kind in _CHOICES.items():
            if option in options:
                choice = _one_of(f"{where}.{option}", options[option], list(kind))
                options[option] = kind(choice)
        limits = {name: given[name] for name in _LIMITS if given[name] is not None}
        Spec(dataset=name, columns=timed, key=key, **options, limits=Limits(**limits))
        return cls(
            source=_one_of(f"{where}.from", given["from"], sources),
            joins=[
                _join(f"{where}.joins[{number}]", join, sources)
                for number, join in enumerate(given["joins"] or [])
            ],
            where=given["where"],
            group_by=group_by,
            measures=measures,
            options=options | limits | {"key": key.text},
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
            raise ConfigurationError(f"{path}: {error}") from error
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


def _join(where: str, body: Any, sources: Collection[str]) -> dict[str, str]:
    join = _object(where, body, _kinds(str, "source", "on", "how"), ("source", "on"))
    _one_of(f"{where}.source", join["source"], sources)
    _one_of(f"{where}.how", join["how"] or "left", _JOINS)
    return join


def _one_of(where: str, value: str, known: Collection[str]) -> str:
    if value not in known:
        raise _wrong(where, f"must be one of {', '.join(known)}, not {value!r}")
    return value


def _wrong(where: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"{where}: {what}.")


def _columns(expressions: Mapping[str, str]) -> list[SparkColumn]:
    return [F.expr(expression).alias(name) for name, expression in expressions.items()]


@contextmanager
def _analysis(where: str) -> Iterator[None]:
    try:
        yield
    except SPARK_ERRORS as error:
        raise ConfigurationError(f"{where}: {reason(error)}") from error
