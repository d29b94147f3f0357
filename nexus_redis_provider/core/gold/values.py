"""Values of Spark's types that Python has no type for; all of them tuples, hence comparable."""

from __future__ import annotations

from typing import NamedTuple


class CalendarInterval(NamedTuple):
    """Months, days and microseconds, which have no common length."""

    months: int
    days: int
    microseconds: int


class Variant(NamedTuple):
    """A variant in Spark's binary form; `pyspark.sql.types.VariantVal(*variant)` reads it."""

    value: bytes
    metadata: bytes


class Spatial(NamedTuple):
    """A geometry or geography; `pyspark.sql.types.Geometry(*spatial)` is Spark's own form of it."""

    wkb: bytes
    srid: int
