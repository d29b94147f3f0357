"""The demo's check of itself: pyarrow's rows are right, and a changed row in Redis is found."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
import redis

from demo.checks import CheckError, Rows, check, expected
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.gold.rows import encode_rows
from nexus_redis_provider.core.gold.schemas import Column
from nexus_redis_provider.core.gold.specs import Spec
from nexus_redis_provider.core.gold.templates import KeyTemplate
from nexus_redis_provider.core.gold.writers import PartitionWriter

DATASET = "flights_by_destination_day"
FILES = {
    "flights": """\
year,month,day,dep_time,arr_delay,carrier,origin,dest,time_hour
2013,1,1,517,10,UA,EWR,ATL,2013-01-01T10:00:00Z
2013,1,1,533,20,UA,EWR,ATL,2013-01-01T11:00:00Z
2013,1,1,NA,NA,AA,JFK,ATL,2013-01-01T10:00:00Z
2013,1,2,NA,NA,AA,JFK,ZZZ,2013-01-02T10:00:00Z
""",
    "weather": """\
origin,temp,precip,visib,time_hour
EWR,30,0,10,2013-01-01T10:00:00Z
EWR,40,NA,5,2013-01-01T11:00:00Z
""",
    "airports": "faa,name\nATL,Hartsfield\n",
    "airlines": "carrier,name\nUA,United\nAA,American\n",
}
TYPES = {
    **dict.fromkeys(("dest", "airport"), ("string", pa.string())),
    "day": ("date", pa.date32()),
    **dict.fromkeys(("flights", "cancelled", "arrived", "arr_delay_sum"), ("long", pa.int64())),
}


@pytest.fixture
def permanent(permanent: list[str]) -> list[str]:
    return [*permanent, f"*:gold:{DATASET}:*"]


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    for name, text in FILES.items():
        (tmp_path / f"{name}.csv").write_text(text)
    return expected({name: tmp_path / f"{name}.csv" for name in FILES})[DATASET]


@pytest.fixture
def gold(client: redis.Redis, endpoint: Endpoint, namespace: str, rows: Rows) -> GoldDataset:
    """The very rows, published."""
    names = list(next(iter(rows.values())))
    types = {name: TYPES.get(name, ("double", pa.float64())) for name in names}
    columns = tuple(Column(name, types[name][0]) for name in names)
    key = KeyTemplate.of_columns(["dest", "day"])
    schema = pa.schema([(name, types[name][1]) for name in names])
    batch = pa.RecordBatch.from_pylist(list(rows.values()), schema)
    spec = Spec(dataset=DATASET, columns=columns, key=key, namespace=namespace)
    publication = Publication.begin(endpoint, spec)
    with PartitionWriter(publication, 0, "only") as writer:
        writer.write(*encode_rows(batch, columns, key))
        publication.commit([writer.finish()])
    return GoldDataset(client, DATASET, namespace=namespace)


def test_rows_are_what_the_files_say(rows: Rows):
    assert rows == {
        ("ATL", date(2013, 1, 1)): {
            "dest": "ATL",
            "day": date(2013, 1, 1),
            "airport": "Hartsfield",
            "flights": 3,
            "cancelled": 1,
            "arrived": 2,
            "arr_delay_sum": 30,
            "arr_delay_mean": 15.0,
            "arr_delay_p90": 19.0,
            "departure_temp_f": 35.0,
            "departure_precip_in": 0.0,
            "departure_visib_miles": 7.5,
        },
        ("ZZZ", date(2013, 1, 2)): {
            "dest": "ZZZ",
            "day": date(2013, 1, 2),
            "airport": None,
            "flights": 1,
            "cancelled": 1,
            "arrived": 0,
            "arr_delay_sum": None,
            "arr_delay_mean": None,
            "arr_delay_p90": None,
            "departure_temp_f": None,
            "departure_precip_in": None,
            "departure_visib_miles": None,
        },
    }


def test_rows_that_are_equal_pass(gold: GoldDataset, rows: Rows):
    assert check(gold, rows) == 24


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"flights": 4}, "flights is 4 in Redis, 3 by"),
        ({"arr_delay_mean": 15.0001}, "arr_delay_mean is 15.0001 in Redis, 15.0 by"),
        ({"arr_delay_p90": None}, "arr_delay_p90 is None in Redis, 19.0 by"),
        ({"airport": "Elsewhere"}, "airport is 'Elsewhere' in Redis, 'Hartsfield' by"),
        ({"dest": "ATX"}, "not in Redis"),
    ],
)
def test_a_changed_row_is_found(
    client: redis.Redis, gold: GoldDataset, rows: Rows, change: dict, told: str
):
    (key,) = client.keys(f"*:gold:{DATASET}:*ATL|2013-01-01")
    row = json.loads(client.get(key))
    client.set(key, json.dumps(row | change))
    with pytest.raises(CheckError, match=f"'ATL'.*2013, 1, 1.*{told}"):
        check(gold, rows)


def test_a_row_too_many_is_found(gold: GoldDataset, rows: Rows):
    del rows["ZZZ", date(2013, 1, 2)]
    with pytest.raises(CheckError, match=r"'ZZZ'.*in Redis only"):
        check(gold, rows)
