"""The Gold rows once more, computed from the CSV files by pyarrow, and compared with Redis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from nexus_redis_provider.core.gold.readers import GoldDataset

Row = dict[str, Any]
Rows = dict[tuple[Any, ...], Row]
_TOLERANCE = 1e-9


class CheckError(Exception):
    """Redis holds something else than the CSV files say."""


def expected(files: Mapping[str, Path]) -> dict[str, Rows]:
    """Every row of every dataset by its key."""
    tables = {name: _read(path) for name, path in files.items()}
    weather = tables["weather"].select(["origin", "time_hour", "temp", "precip", "visib"])
    flights = tables["flights"].join(weather, ["origin", "time_hour"], join_type="left outer")
    airports = _names(tables["airports"], "faa")
    airlines = _names(tables["airlines"], "carrier")
    by_day, by_carrier = {}, {}
    for dest, year, month, day, facts in _groups(flights, ["dest", "year", "month", "day"]):
        key = (dest, date(year, month, day))
        named = {"dest": dest, "day": key[1], "airport": airports.get(dest)}
        by_day[key] = named | _delays(facts) | _weather(facts)
    for carrier, dest, facts in _groups(flights, ["carrier", "dest"]):
        named = {"carrier": carrier, "dest": dest}
        named |= {"airline": airlines.get(carrier), "airport": airports.get(dest)}
        by_carrier[carrier, dest] = named | _delays(facts)
    return {
        "flights_by_destination_day": by_day,
        "flights_by_carrier_destination": by_carrier,
    }


def check(gold: GoldDataset, rows: Rows) -> int:
    """Compare every row of the live version; returns how many values are equal.

    Raises:
        CheckError: names the first rows that differ, are missing, or should not be there.
    """
    key = next(iter(rows.values())).keys()
    columns = list(key)[: len(next(iter(rows)))]
    found = {tuple(row[column] for column in columns): row for row in gold.scan()}
    if wrong := list(_differences(rows, found)):
        more = f"\n  and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        lines = "".join(f"\n  {line}" for line in wrong[:5])
        raise CheckError(f"{gold.dataset} differs from the CSV files:{lines}{more}")
    return sum(map(len, rows.values()))


def _differences(rows: Rows, found: Rows) -> Iterator[str]:
    for key in rows.keys() - found.keys():
        yield f"{key}: not in Redis"
    for key in found.keys() - rows.keys():
        yield f"{key}: in Redis only"
    for key in rows.keys() & found.keys():
        for column in rows[key].keys() | found[key].keys():
            ours, theirs = rows[key].get(column), found[key].get(column)
            if not _equal(ours, theirs):
                yield f"{key}: {column} is {theirs!r} in Redis, {ours!r} by the CSV files"


def _equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return type(ours) is type(theirs) and ours == theirs


def _read(path: Path) -> pa.Table:
    nulls = pyarrow.csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)
    return pyarrow.csv.read_csv(path, convert_options=nulls)


def _names(table: pa.Table, key: str) -> dict[str, str]:
    return dict(zip(table[key].to_pylist(), table["name"].to_pylist(), strict=True))


def _groups(flights: pa.Table, keys: list[str]) -> Iterator[tuple[Any, ...]]:
    """The values of the keys, and a dict of aggregates."""
    grouped = flights.group_by(keys).aggregate(
        [
            ([], "count_all"),
            ("dep_time", "count", pc.CountOptions(mode="only_null")),
            *(("arr_delay", function) for function in ("count", "sum", "mean", "list")),
            *((column, "mean") for column in ("temp", "precip", "visib")),
        ]
    )
    delays = grouped["arr_delay_list"]
    for number, facts in enumerate(grouped.drop_columns(["arr_delay_list"]).to_pylist()):
        p90 = pc.quantile(delays[number].values, 0.9, interpolation="linear")[0].as_py()
        yield *(facts[key] for key in keys), facts | {"p90": p90}


def _delays(facts: Row) -> Row:
    return {
        "flights": facts["count_all"],
        "cancelled": facts["dep_time_count"],
        "arrived": facts["arr_delay_count"],
        "arr_delay_sum": facts["arr_delay_sum"],
        "arr_delay_mean": facts["arr_delay_mean"],
        "arr_delay_p90": facts["p90"],
    }


def _weather(facts: Row) -> Row:
    return {
        "departure_temp_f": facts["temp_mean"],
        "departure_precip_in": facts["precip_mean"],
        "departure_visib_miles": facts["visib_mean"],
    }
