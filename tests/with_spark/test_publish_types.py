"""What Spark holds is read back as `df.collect()` shows it, or refused by name."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from pyspark.sql import Row
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql import types as T  # noqa: N812

from nexus_redis_provider.core.errors import SchemaError
from nexus_redis_provider.spark import publish
from tests.urls import url_of

pytestmark = pytest.mark.spark
TEXT = "".join(map(chr, range(0x250))) + "\u2028\ufeff\U0001f600\\\"'{}"
NAIVE = [datetime(1, 1, 2), datetime(1969, 12, 31, 23, 59, 59, 999999), datetime(9999, 12, 30)]  # noqa: DTZ001
DECIMALS = ["0", "1E-18", "-1E-18", "99999999999999999999.999999999999999999"]

VALUES = {
    T.BooleanType(): [True, False],
    T.ByteType(): [-(2**7), 2**7 - 1],
    T.ShortType(): [-(2**15), 2**15 - 1],
    T.IntegerType(): [-(2**31), 2**31 - 1],
    T.LongType(): [-(2**63), 2**63 - 1, 2**53 + 1],
    T.FloatType(): [math.nan, math.inf, -math.inf, -0.0, 2.0**-149, 3.4028234663852886e38, 0.1],
    T.DoubleType(): [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1],
    T.DecimalType(38, 18): [Decimal(text) for text in DECIMALS],
    T.DecimalType(38, 38): [Decimal("1E-38"), Decimal(f"-0.{'9' * 38}")],
    T.DecimalType(38, 0): [Decimal(10**38 - 1), Decimal(-(10**38) + 1)],
    T.StringType(): ["", TEXT, "NaN", "null"],
    T.DateType(): [date(1, 1, 1), date(1969, 12, 31), date(9999, 12, 31)],
    T.TimestampType(): [moment.replace(tzinfo=UTC) for moment in NAIVE[:2]]
    + [datetime(2024, 11, 3, 5, 30, tzinfo=UTC), datetime(2024, 11, 3, 6, 30, tzinfo=UTC)],
    T.TimestampNTZType(): [*NAIVE, datetime(2024, 3, 10, 2, 30)],  # noqa: DTZ001 - never was in New York
    T.BinaryType(): [b"", bytes(range(256)), b"x" * 1000],
}


def exactly(value: object, type_: T.DataType) -> object:
    """Comparable, and telling apart what a user can tell apart."""
    if value is None:
        return None
    match type_:
        case T.ArrayType():
            return [exactly(item, type_.elementType) for item in value]
        case T.MapType():
            return {key: exactly(item, type_.valueType) for key, item in value.items()}
        case T.StructType():
            fields = value.asDict() if isinstance(value, Row) else value
            return {f.name: exactly(fields[f.name], f.dataType) for f in type_.fields}
        case T.FloatType() | T.DoubleType():
            return "NaN" if math.isnan(value) else (value, math.copysign(1, value))
        case T.TimestampType():
            return value.astimezone(UTC)
        case T.BinaryType():
            return bytes(value)
    return type(value), value


def check(df, rows, namespace, endpoint):
    manifest = publish(df, "sales", key="id", endpoint=endpoint, namespace=namespace, ttl=600)
    collected = df.collect()
    assert manifest.rows == len(collected)
    for expected in collected:
        found = rows.get(expected["id"])
        assert exactly(found, df.schema) == exactly(expected, df.schema)
        assert list(found) == df.columns
    assert rows.verify() == manifest


def test_every_type_and_null(spark, rows, namespace, endpoint):
    schema = T.StructType([T.StructField("id", T.LongType())])
    for number, type_ in enumerate(VALUES):
        schema.add(f"c{number}", type_)
    longest = max(map(len, VALUES.values()))
    columns = [values + [None] * (longest + 1 - len(values)) for values in VALUES.values()]
    data = [(number, *line) for number, line in enumerate(zip(*columns, strict=True))]
    check(spark.createDataFrame(data, schema), rows, namespace, endpoint)


def test_every_type_inside_arrays_maps_and_structs(spark, rows, namespace, endpoint):
    schema = T.StructType([T.StructField("id", T.LongType())])
    line: list[object] = [1]
    for number, (type_, values) in enumerate(VALUES.items()):
        field = T.StructType([T.StructField("x y", T.ArrayType(type_)), T.StructField("z", type_)])
        schema.add(f"s{number}", field)
        schema.add(f"m{number}", T.MapType(T.StringType(), T.ArrayType(field)))
        line += [([*values, None], None), {TEXT: [(values, values[0]), None], "": []}]
    nothing = [2, *[None] * (len(line) - 1)]
    check(spark.createDataFrame([line, nothing], schema), rows, namespace, endpoint)


@pytest.mark.parametrize(
    "expression",
    ["array(1)", "struct(1)", "map('a', 1)", "1.5", "1.5D", "current_timestamp()", "X'01'"],
)
def test_what_a_key_cannot_be_is_refused_by_column(spark, namespace, endpoint, client, expression):
    df = spark.range(3).select(F.expr(expression).alias("k"), F.lit(1).alias("n"))
    with pytest.raises(SchemaError, match="cast it to a string") as caught:
        publish(df, "sales", key="k", endpoint=endpoint, namespace=namespace)
    assert caught.value.column == "k"
    assert client.keys(f"{namespace}*") == []


KEYS = {
    "string": ["", "a|b", "50%", "%7C", TEXT],
    "boolean": [True, False],
    "tinyint": [-(2**7), 5],
    "bigint": [-(2**63), 0],
    "date": [date(1, 1, 1), date(2024, 2, 29)],
}


@pytest.mark.parametrize("kind", KEYS)
def test_every_type_of_key(spark, rows, namespace, endpoint, kind):
    data = [(value, text) for value in KEYS[kind] for text in KEYS["string"]]
    df = spark.createDataFrame(data, f"k {kind}, t string")
    publish(df, "sales", key="x%{k}|:{t}", endpoint=endpoint, namespace=namespace, ttl=600)
    assert rows.get_many(data) == [{"k": value, "t": text} for value, text in data]


NAMES = ["a.b", "a b", "a`b", 'a"b', "a'b", "naïve 漢\U0001f600", "a|b", "a\\n\n", "c1", "KEY"]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_a_column(spark, rows, namespace, endpoint, name):
    df = spark.createDataFrame([("x", 1, 2, 3)], ["id", "c0", "a", "B"])
    df = df.withColumnRenamed("id", name).select("a", f"`{name.replace('`', '``')}`", "B", "c0")
    publish(df, "sales", key=name, endpoint=endpoint, namespace=namespace, ttl=600)
    assert rows.get("x") == {"a": 2, name: "x", "B": 3, "c0": 1}
    assert rows.get({name: "x"})


def test_names_that_differ_in_case_alone(spark, rows, namespace, endpoint):
    df = spark.createDataFrame([("x", 1, "y")], ["id", "n", "ID"]).toDF("id", "N", "n")
    publish(df, "sales", key=["id", "n"], endpoint=endpoint, namespace=namespace, ttl=600)
    assert rows.get(("x", "y")) == {"id": "x", "N": 1, "n": "y"}


@pytest.mark.parametrize("way", ["publish", "format"])
def test_large_arrow_types(spark, rows, namespace, endpoint, way):
    df = spark.createDataFrame([("x", "y"), ("z", None)], "id string, t string").repartition(1)
    spark.conf.set("spark.sql.execution.arrow.useLargeVarTypes", "true")
    try:
        if way == "publish":
            publish(df, "sales", key="id", endpoint=endpoint, namespace=namespace, ttl=600)
        else:
            options = {"dataset": "sales", "key": "id", "namespace": namespace, "ttl": 600}
            where = url_of(endpoint)
            df.write.format("nexus_redis").options(**options, url=where).mode("overwrite").save()
    finally:
        spark.conf.unset("spark.sql.execution.arrow.useLargeVarTypes")
    assert rows.get_many(["x", "z"]) == [{"id": "x", "t": "y"}, {"id": "z", "t": None}]


def test_the_data_source_holds_every_flat_type(spark, rows, namespace, endpoint):
    flat = {type_: values for type_, values in VALUES.items() if type_ != T.BinaryType()}
    schema = T.StructType([T.StructField("id", T.LongType())])
    for number, type_ in enumerate(flat):
        schema.add(f"c{number}", type_)
    longest = max(map(len, flat.values()))
    columns = [values + [None] * (longest + 1 - len(values)) for values in flat.values()]
    data = [(number, *line) for number, line in enumerate(zip(*columns, strict=True))]
    df = spark.createDataFrame(data, schema)
    options = {"dataset": "sales", "key": "id", "namespace": namespace, "ttl": 600}
    where = url_of(endpoint)
    df.write.format("nexus_redis").options(**options, url=where).mode("overwrite").save()
    for expected in df.collect():
        assert exactly(rows.get(expected["id"]), schema) == exactly(expected, schema)
