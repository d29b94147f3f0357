"""Values as readers give them, in the form in which Spark takes them from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyspark.sql.types import Geography, Geometry, VariantVal

from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.gold.schemas import Column, ColumnType

Converter = Callable[[Any], Any]


def struct_converter(columns: Sequence[Column]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from a row as readers give it to one with Spark's own values."""
    return _struct({column.name: column.type for column in columns}) or (lambda row: row)


def _converter(type_: ColumnType) -> Converter | None:
    """None where nothing is to be done."""
    inner = _scalar(type_) if isinstance(type_, str) else _nested(type_)
    return inner and (lambda value: None if value is None else inner(value))


def _scalar(type_: str) -> Converter | None:
    match type_.partition("(")[0]:
        case "variant":
            return lambda parts: VariantVal(*parts)
        case "geometry":
            return lambda parts: Geometry(*parts)
        case "geography":
            return lambda parts: Geography(*parts)
        case "date" | "timestamp" | "timestamp_ntz":
            return _within_years
    return None


def _within_years(value: Any) -> Any:
    if isinstance(value, str):
        raise ConfigurationError(
            f"{value} is beyond the years 1 to 9999, and Spark takes none of those from Python. "
            "Name the other columns by .schema(...), or publish it as a string."
        )
    return value


def _nested(type_: Mapping[str, Any]) -> Converter | None:
    match type_["type"]:
        case "array":
            item = _converter(type_["elementType"])
            return item and (lambda values: list(map(item, values)))
        case "map":
            value = _converter(type_["valueType"])
            return value and (
                lambda pairs: dict(zip(pairs, map(value, pairs.values()), strict=True))
            )
        case _:
            return _struct({field["name"]: field["type"] for field in type_["fields"]})


def _struct(types: Mapping[str, ColumnType]) -> Converter | None:
    found = {name: made for name, type_ in types.items() if (made := _converter(type_))}
    if not found:
        return None
    return lambda row: row | {name: make(row[name]) for name, make in found.items()}
