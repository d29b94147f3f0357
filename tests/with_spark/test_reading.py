"""`spark.read.format("nexus_redis")`: what was published, all of one version."""

from __future__ import annotations

import math
from datetime import date

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import Row
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql import types as T  # noqa: N812

from nexus_redis_provider.core.gold.history import versions
from nexus_redis_provider.spark import publish
from nexus_redis_provider.spark.failures import SPARK_ERRORS
from tests.kinds import unspread
from tests.urls import url_of
from tests.with_spark.test_publish_types import VALUES, exactly

pytestmark = pytest.mark.spark


@pytest.fixture
def load(spark, endpoint, namespace):
    where = url_of(endpoint)

    def read(schema=None, **options):
        reader = spark.read.format("nexus_redis").options(dataset="sales", url=where)
        reader = reader.options(namespace=namespace, **options)
        return (reader if schema is None else reader.schema(schema)).load()

    return read


@pytest.fixture
def store(endpoint, namespace):
    def store(df, key="id", **options):
        return publish(df, "sales", key=key, endpoint=endpoint, namespace=namespace, **options)

    return store


@pytest.fixture
def pushdown(spark):
    spark.conf.set("spark.sql.python.filterPushdown.enabled", "true")
    yield
    spark.conf.unset("spark.sql.python.filterPushdown.enabled")


@pytest.fixture
def numbered(spark):
    """100 rows in four partitions, hence on four index pages."""
    return spark.range(0, 100, 1, 4).select(
        F.concat(F.lit("k%|"), "id").alias("shop"),
        F.date_add(F.lit(date(2024, 1, 1)), F.col("id").cast("int") % 10).alias("day"),
        (F.col("id") % 2 == 0).alias("even"),
        F.col("id").alias("n"),
    )


def same(found, expected):
    def rows(frame):
        return sorted(repr(exactly(row, frame.schema)) for row in frame.collect())

    assert [(f.name, f.dataType) for f in found.schema] == [
        (f.name, f.dataType) for f in expected.schema
    ]
    assert rows(found) == rows(expected)


def every_type(spark, nested):
    """A row for each value of each type, null otherwise; in three partitions."""
    schema = T.StructType([T.StructField("id", T.LongType())])
    for number, type_ in enumerate(VALUES):
        if nested:
            field = T.StructType([T.StructField("x y", T.ArrayType(type_))])
            schema.add(f"m{number}", T.MapType(T.StringType(), field))
        schema.add(f"c{number}", T.ArrayType(type_) if nested else type_)
    data = []
    for value in range(8):
        line: list[object] = [value]
        for values in VALUES.values():
            one = values[value] if value < len(values) else None
            line += [{"a": ([one],), "": None}, [one, None]] if nested else [one]
        data.append(line)
    return spark.createDataFrame(data, schema).repartition(3)


@pytest.mark.parametrize(
    ("nested", "layout"), [(False, "json"), (True, "json"), (False, "packed"), (True, "packed")]
)
def test_every_type_comes_back(spark, load, store, nested, layout):
    df = every_type(spark, nested)
    store(df, layout=layout)
    same(load(), df)
    assert load(partitions="2").rdd.getNumPartitions() == 2


def test_columns_of_one_kind_come_back_as_they_went(spark, load, store):
    """The rows go the fast way, where a mistake would stay unseen, but for those around a NaN."""
    df = spark.range(200).select(
        "id",
        F.when(F.col("id") == 77, F.lit(math.nan)).otherwise(F.col("id") / 3).alias("d"),
        (F.col("id") / 3).cast("float").alias("f"),
        (F.col("id") / 3).cast("decimal(20,7)").alias("m"),
        F.timestamp_seconds(F.col("id") * 1e8 + 0.25).alias("t"),
        F.array(F.struct(F.col("id").alias("x"), F.lit('\u2028\0"').alias("y"))).alias("s"),
        F.when(F.col("id") > 2, F.lit("x")).alias("o"),
    )
    store(df)
    same(load(), df)
    columns = "m decimal(20,7), id long"
    same(load(columns), df.select("m", "id"))
    assert load().select(F.lit(1)).count() == 200


def test_types_that_python_has_not(spark, load, store):
    point = "X'0101000000000000000000F03F0000000000000040'"
    df = spark.sql(
        "select id, parse_json('[1]') as v, array(parse_json('{}')) as a, time'01:02:03' as t,"
        f" map(date'2024-01-01', ST_GeomFromWKB({point})) as m,"
        f" named_struct('g', ST_GeogFromWKB({point})) as g,"
        " interval '1 02:03:04.5' day to second as i, null as n, 'x' collate UNICODE_CI as c,"
        " map(array(named_struct('x', 1)), 2) as k, date'+12345-01-01' as d"
        " from range(2)"
    )
    store(df)
    texts = [
        "to_json(v)",
        "to_json(a)",
        "hex(ST_AsBinary(m[date'2024-01-01']))",
        "t",
        "i",
        "n",
        "c",
    ]
    texts += ["hex(ST_AsBinary(g.g))", "id"]
    assert load().schema["m"].dataType.simpleString() == df.schema["m"].dataType.simpleString()
    same(load().selectExpr(*texts), df.selectExpr(*texts))
    store(df.withColumn("c", F.expr("interval '1' month")))
    with pytest.raises(PySparkException, match=r"\.schema\("):
        load()
    assert sorted(load("id long").collect()) == [Row(id=0), Row(id=1)]


def test_a_flip_in_the_middle_mixes_nothing(load, store, numbered):
    old = store(numbered, key=["shop"])
    reading = load(partitions="4").toLocalIterator()
    found = [next(reading)]
    new = store(numbered.withColumn("n", F.lit(-1)), key=["shop"])
    found += reading
    assert sorted(row["n"] for row in found) == list(range(100))
    assert {row["n"] for row in load().collect()} == {-1}
    assert load(version=old.version).agg(F.sum("n")).first()[0] == 4950
    assert load(version=new.version, partitions="1").count() == 100


@pytest.mark.parametrize("layout", ["json", "packed"])
def test_a_version_removed_in_the_middle_is_an_error(  # noqa: PLR0917
    client, load, store, numbered, namespace, layout
):
    store(numbered, key=["shop"], keep=0, layout=layout)
    reading = load(partitions="4").toLocalIterator()
    next(reading)
    store(numbered, key=["shop"], keep=0)
    assert len(versions(client, "sales", namespace=namespace)) == 1
    with pytest.raises(SPARK_ERRORS, match="larger keep"):
        list(reading)


FILTERS = [
    "shop = 'k%|7' and day = date'2024-01-08' and even = false",
    "shop in ('k%|7', 'k%|8', null) and day in (date'2024-01-08', date'2024-01-09') and even",
    "shop in ('k%|7', 'k%|8') and day > '2024-01-01' and day = '2024-01-08' and not even",
    "shop = 'k%|7' and shop = 'k%|8' and day = date'2024-01-08' and even",
    "shop <=> 'k%|8' and day = date'2024-01-09' and even and n = 8",
    "shop = 'k%|8' and day = date'2024-01-09' and even and n = 9",
    "shop = 'none' and day = date'2024-01-09' and even",
]


@unspread
def test_filters_on_all_key_columns_read_their_rows_alone(client, load, store, numbered, pushdown):
    store(numbered, key=["shop", "day", "even"], layout="packed")
    client.config_resetstat()
    same(load().where(FILTERS[0]), numbered.where(FILTERS[0]))
    assert "cmdstat_hgetall" not in client.info("commandstats")  # no whole bucket
    store(numbered, key=["shop", "day", "even"])
    client.config_resetstat()
    for where in FILTERS:
        same(load().where(where), numbered.where(where))
    assert "cmdstat_get" not in client.info("commandstats")  # no index page
    where = "shop in ('k%|7', 'k%|8') and even"
    same(load().where(where), numbered.where(where))
    assert "cmdstat_get" in client.info("commandstats")


def test_a_delta_is_read_as_a_whole(load, store, numbered, pushdown):
    store(numbered, key=["shop"], layout="packed")
    changed = numbered.where("n <> 7").withColumn("n", F.expr("if(n = 8, -8, n)"))
    assert store(changed, key=["shop"], layout="packed", mode="delta").mode == "delta"
    same(load(partitions="3"), changed)
    where = "shop in ('k%|6', 'k%|7', 'k%|8')"
    same(load().where(where), changed.where(where))


def test_an_upserted_dataset_is_read_by_key(load, store, numbered, namespace, pushdown):
    store(numbered, key=f"{namespace}:gold:sales:{{n}}", mode="upsert")
    found = load().where("n in (3, 5, 1000)").collect()
    assert sorted(row["shop"] for row in found) == ["k%|3", "k%|5"]
    with pytest.raises(PySparkException, match="= or IN"):
        load().collect()


MISTAKES = [
    ({"version": "none"}, "no version 'none'"),
    ({"partitions": "0"}, "positive number, not 0"),
    ({"partitions": "x"}, "'partitions' of nexus_redis must be a whole number"),
    ({"keep": "1"}, "Unknown option(s) of nexus_redis: keep"),
    ({"dataset": "unknown"}, "'unknown' has no live version"),
    ({"url": "redis://:pw-1234@127.0.0.1:1"}, "literal Redis password"),
    ({"schema": "n int"}, "has it as long, not as integer"),
    ({"schema": "m long"}, "has no such column"),
]


def test_mistakes_are_named(load, store, numbered):
    store(numbered, key=["shop"])
    for options, text in MISTAKES:
        with pytest.raises(PySparkException) as caught:
            load(**options).collect()
        assert text in str(caught.value)
        assert "pw-1234" not in str(caught.value)


def test_without_rows(load, store, numbered):
    store(numbered.where("n < 0"), key=["shop"])
    assert load().collect() == []
