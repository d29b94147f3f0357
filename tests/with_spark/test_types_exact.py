"""Values at the edge of a type, and types that no frame at random has."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pytest
from pyspark.sql import functions as F  # noqa: N812

from nexus_redis_provider.core.gold.manifests import Layout
from nexus_redis_provider.core.gold.values import CalendarInterval, Spatial
from nexus_redis_provider.spark import publish
from tests.core.gold_types import exactly

pytestmark = pytest.mark.spark
POINT = "0101000000000000000000F03F0000000000000040"
PLACE = Spatial(bytes.fromhex(POINT), 3857)
MICROSECOND = timedelta(microseconds=1)

VALUES: dict[str, object] = {
    "interval '-106751991 04:00:54.775808' day to second": -(2**63) * MICROSECOND,
    "interval '106751991 04:00:54.775807' day to second": (2**63 - 1) * MICROSECOND,
    "interval '3' day": timedelta(3),
    "interval '3 4' day to hour": timedelta(3, hours=4),
    "interval '3 4:05' day to minute": timedelta(3, hours=4, minutes=5),
    "interval '-4' hour": timedelta(hours=-4),
    "interval '4:05' hour to minute": timedelta(hours=4, minutes=5),
    "interval '4:05:06' hour to second": timedelta(hours=4, minutes=5, seconds=6),
    "interval '5' minute": timedelta(minutes=5),
    "interval '5:06.7' minute to second": timedelta(minutes=5, seconds=6.7),
    "interval '-0.000001' second": -MICROSECOND,
    "interval '-178956970-8' year to month": -(2**31),
    "interval '178956970-7' year to month": 2**31 - 1,
    "interval '-3' year": -36,
    "interval '7' month": 7,
    "make_interval(-1, 2, 3, 4, 5, 6, -7.000001)": CalendarInterval(-10, 25, 18352999999),
    "make_interval(0, 0, 0, 1, 48)": CalendarInterval(0, 1, 172_800_000_000),
    "make_interval(0)": CalendarInterval(0, 0, 0),
    "date'+12345-01-01'": "+12345-01-01",
    "date'0000-12-31'": "0000-12-31",
    "date'1582-10-10'": date(1582, 10, 10),
    "timestamp'+294247-01-10 04:00:54.775807Z'": "+294247-01-10T04:00:54.775807Z",
    "timestamp'-290308-12-21 19:59:06Z'": "-290308-12-21T19:59:06.000000Z",
    "timestamp'1582-10-10 00:00:00.000001Z'": datetime(1582, 10, 10, 0, 0, 0, 1, UTC),
    "timestamp_ntz'-0004-01-01 00:00:00'": "-0004-01-01T00:00:00.000000",
    "time'23:59:59.999999'": time(23, 59, 59, 999999),
    "cast(7.0385307e-26 as float)": 7.038530691851209e-26,
    "cast('1.00' as decimal(38,2))": Decimal("1.00"),
    "cast('x' as char(3))": "x",
    "'x' collate UNICODE_CI": "x",
    "map('x' collate UNICODE_CI, 'y' collate UNICODE_CI)": {"x": "y"},
    f"array(st_geomfromwkb(X'{POINT}', 3857), null)": [PLACE, None],
    f"map(st_geomfromwkb(X'{POINT}', 3857), 1)": {PLACE: 1},
    "map(array(named_struct('a', 1, 'b', array(2))), 3)": {((1, (2,)),): 3},
    "map(cast('NaN' as double), 1, double('Infinity'), 2)": {float("nan"): 1, float("inf"): 2},
    "map(timestamp'2024-11-03 05:30:00Z', 1, timestamp'2024-11-03 06:30:00Z', 2)": {
        datetime(2024, 11, 3, 5, 30, tzinfo=UTC): 1,
        datetime(2024, 11, 3, 6, 30, tzinfo=UTC): 2,
    },
    "map(make_interval(1), interval '1' month)": {CalendarInterval(12, 0, 0): 1},
    "map(1.50BD, map(X'00ff', map(true, null)))": {Decimal("1.50"): {b"\0\xff": {True: None}}},
    "named_struct('x', 1, 'X', interval '1' day)": {"x": 1, "X": timedelta(1)},
    "named_struct('a.b', interval '1' month, 'c`d', null)": {"a.b": 1, "c`d": None},
    "cast(null as struct<a: array<interval day>>)": None,
    "array(cast(null as struct<a: map<int, interval>>))": [None],
    "struct()": {},
    "array(null, null)": [None, None],
    "array(array())": [[]],
    "X''": b"",
    r"'\0\u2028\U0001F600'": "\0\u2028\U0001f600",
}


@pytest.mark.parametrize("layout", Layout)
def test_values_at_the_edge_come_back(spark, rows, endpoint, namespace, layout):
    columns = [F.expr(text).alias(f"c{number}") for number, text in enumerate(VALUES)]
    df = spark.range(1).select("id", *columns)
    options = {"endpoint": endpoint, "namespace": namespace, "layout": layout, "ttl": 600}
    publish(df, "sales", key="id", **options)
    row = rows.get(0)
    found = {text: exactly(row[f"c{number}"]) for number, text in enumerate(VALUES)}
    assert found == {text: exactly(value) for text, value in VALUES.items()}


def test_years_of_dates_in_keys_that_python_has_not(spark, rows, endpoint, namespace):
    df = spark.sql("select date'+12345-01-01' as id, 1 as n union all select date'2024-01-01', 2")
    publish(df, "sales", key="id", endpoint=endpoint, namespace=namespace, ttl=600)
    assert rows.get(date(2024, 1, 1))["n"] == 2
    assert sorted(str(row["id"]) for row in rows.scan()) == ["+12345-01-01", "2024-01-01"]
