"""Frames of any schema: what readers give is what was in the frame."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql import types as T  # noqa: N812

from nexus_redis_provider.core.gold.manifests import Layout
from nexus_redis_provider.core.gold.schemas import ColumnType
from nexus_redis_provider.core.gold.templates import KeyTemplate
from nexus_redis_provider.core.gold.values import CalendarInterval, Spatial, Variant
from nexus_redis_provider.spark import publish
from nexus_redis_provider.spark.rows import prepared
from tests.core.gold_types import (
    FLAT,
    NOT_IN_ARROW,
    SPATIAL,
    exactly,
    fields,
    struct_,
    types,
    values,
)
from tests.urls import url_of

pytestmark = pytest.mark.spark
ROWS = 3
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)
VARIANTS = DOCUMENTS.map(lambda one: T.VariantVal.parseJson(json.dumps(one))).map(
    lambda one: Variant(bytes(one.value), bytes(one.metadata))
)
IN_ARROW = FLAT | SPATIAL | {"variant": VARIANTS}
# Python makes no such values for a frame: they are cast from others, which no time can be inside.
ALSO_CAST = {name: of for name, of in (FLAT | NOT_IN_ARROW).items() if name != "time(6)"}
CAST_FROM = {"interval year to month": "integer", "interval month": "integer", "interval": "string"}


def spark_type(type_: ColumnType) -> T.DataType:
    return T.StructType.fromJson(struct_({"x": type_})).fields[0].dataType


def replaced(type_: ColumnType, leaves) -> ColumnType:
    """A type with some of its leaves being others."""
    if isinstance(type_, str):
        return leaves.get(type_, type_)
    match type_["type"]:
        case "array":
            return type_ | {"elementType": replaced(type_["elementType"], leaves)}
        case "map":
            return type_ | {"valueType": replaced(type_["valueType"], leaves)}
        case _:
            return struct_({name: replaced(of, leaves) for name, of in fields(type_).items()})


def as_spark(value: object, type_: ColumnType) -> object:
    """What a frame is made of."""
    if value is None:
        return None
    if isinstance(type_, str):
        match value:
            case Spatial():
                return (T.Geometry if type_.startswith("geometry") else T.Geography)(*value)
            case Variant():
                return T.VariantVal(*value)
            case CalendarInterval(months, days, microseconds):
                return f"{months} months {days} days {microseconds} microseconds"
        return value
    match type_["type"]:
        case "array":
            return [as_spark(item, type_["elementType"]) for item in value]
        case "map":
            return {key: as_spark(item, type_["valueType"]) for key, item in value.items()}
        case _:
            kinds = fields(type_)
            return tuple(as_spark(item, kinds[name]) for name, item in value.items())


@dataclass
class Frame:
    columns: list[ColumnType]
    rows: list[list[object]]

    def of(self, spark):
        cast = [replaced(type_, CAST_FROM) for type_ in self.columns]
        schema = T.StructType().add("id", T.LongType())
        for number, type_ in enumerate(cast):
            schema.add(f"c{number}", spark_type(type_))
        data = [(number, *map(as_spark, row, self.columns)) for number, row in enumerate(self.rows)]
        frame = spark.createDataFrame(data, schema)
        for number, (type_, source) in enumerate(zip(self.columns, cast, strict=True)):
            if type_ != source:
                # Months, not years, are what a number is cast to.
                months = replaced(type_, {"interval year to month": "interval month"})
                column = F.col(f"c{number}").cast(spark_type(months)).cast(spark_type(type_))
                frame = frame.withColumn(f"c{number}", column)
        return frame


@st.composite
def frames(draw, leaves, size):
    """Frames of columns of some leaves, of which each is there."""
    columns = draw(st.lists(types(leaves), min_size=size, max_size=size))
    columns += [leaf for leaf in leaves if leaf not in columns]
    row = st.tuples(*(values(type_, leaves) for type_ in columns))
    return Frame(columns, draw(st.lists(row, min_size=ROWS, max_size=ROWS)))


slowly = settings(
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def check(rows, frame):
    """What readers give is what the frame was made of."""
    scanned = sorted(rows.scan(), key=lambda row: row["id"])
    read = rows.get_many(range(ROWS))
    assert exactly(read) == exactly(scanned)
    for number, type_ in enumerate(frame.columns):
        found = [exactly(row[f"c{number}"]) for row in scanned]
        assert (type_, found) == (type_, [exactly(row[number]) for row in frame.rows])


@pytest.mark.parametrize("layout", Layout)
def test_published_frames_come_back(spark, rows, endpoint, namespace, layout):
    options = {"endpoint": endpoint, "namespace": namespace, "layout": layout, "ttl": 600}

    @settings(slowly, max_examples=4)
    @given(frames(IN_ARROW, 5))
    def come_back(frame):
        df = frame.of(spark)
        publish(df, "sales", key="id", **options)
        check(rows, frame)
        read = spark.read.format("nexus_redis").options(**of_format(endpoint, namespace)).load()
        assert read.schema == df.schema
        # Compared by the JVM's own text of all values.
        assert texts(read) == texts(df)

    come_back()


@pytest.mark.parametrize("layout", Layout)
def test_published_frames_that_python_cannot_make_come_back(
    spark, rows, endpoint, namespace, layout
):
    options = {"endpoint": endpoint, "namespace": namespace, "layout": layout, "ttl": 600}

    @settings(slowly, max_examples=3)
    @given(frames(ALSO_CAST, 5))
    def come_back(frame):
        publish(frame.of(spark), "sales", key="id", **options)
        check(rows, frame)

    come_back()


def test_frames_written_by_the_format_come_back(spark, rows, endpoint, namespace):
    @settings(slowly, max_examples=3)
    @given(frames(IN_ARROW, 5))
    def come_back(frame):
        writer = frame.of(spark).write.format("nexus_redis").mode("overwrite")
        writer.options(**of_format(endpoint, namespace), key="id", ttl=600).save()
        check(rows, frame)

    come_back()


def of_format(endpoint, namespace):
    return {"dataset": "sales", "namespace": namespace, "url": url_of(endpoint)}


def texts(df):
    return sorted(prepared(df, KeyTemplate.parse("{id}")).select("key", "value").collect())
