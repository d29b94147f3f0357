"""What rows cannot hold without loss is refused by name, before anything is sent."""

from __future__ import annotations

import pytest
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql import types as T  # noqa: N812

from nexus_redis_provider.core.errors import SchemaError
from nexus_redis_provider.spark import publish

pytestmark = pytest.mark.spark


@pytest.fixture
def refusal(endpoint, namespace, client):
    """The text of the error for a frame, of which nothing came to the server."""

    def refusal(df):
        with pytest.raises(SchemaError) as caught:
            publish(df, "sales", key="id", endpoint=endpoint, namespace=namespace)
        assert (caught.value.column, caught.value.dataset) == ("a column", "sales")
        assert client.keys(f"{namespace}*") == []
        return str(caught.value)

    return refusal


@pytest.mark.parametrize(
    ("expression", "path"),
    [
        ("named_struct('x', 1, 'x', 2)", None),
        ("array(named_struct('x', 1, 'x', 2))", "[]"),
        ("map('a', array(named_struct('b', named_struct('x', 1, 'x', 2))))", "{}[].b"),
        ("map(named_struct('x', 1, 'x', 2), 3)", "{key}"),
    ],
)
def test_repeated_fields(spark, refusal, expression, path):
    text = refusal(spark.range(3).select(F.col("id"), F.expr(expression).alias("a column")))
    what = "has type struct with the repeated field 'x'"
    where = "" if path is None else f" at {path}"
    assert f"'a column' {what}{where}, which rows cannot hold without loss; rename" in text


@pytest.mark.parametrize("nested", [False, True])
def test_user_defined_types(spark, refusal, nested):
    schema = T.StructType().add("id", T.LongType())
    value: object = Vectors.dense([1.0])
    if nested:
        schema.add("a column", T.StructType().add("v", VectorUDT()))
        value = (value,)
    else:
        schema.add("a column", VectorUDT())
    text = refusal(spark.createDataFrame([(1, value)], schema))
    where = " at .v" if nested else ""
    assert f"user-defined type pyspark.ml.linalg.VectorUDT{where}," in text
    assert "convert it to the SQL type behind it" in text
