"""`gold`: which datasets there are, what they hold, and the way back."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
import redis

from nexus_redis_provider.cli.gold_documents import row_document
from nexus_redis_provider.cli.gold_tables import _size, _type
from nexus_redis_provider.core.gold.manifests import Layout, Manifest, Mode
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.row_commands import row_encoder
from nexus_redis_provider.core.gold.schemas import Column
from nexus_redis_provider.core.gold.tables import publish_table
from nexus_redis_provider.core.gold.templates import KeyTemplate
from nexus_redis_provider.core.gold.writers import PartitionWriter
from nexus_redis_provider.core.keys import GoldKeys
from tests.cli.conftest import Call
from tests.conftest import PERMANENT
from tests.core.gold_datasets import PERMANENT_ROWS, batch, publish, spec, write

TYPES = ("string", "date", "integer", "boolean")
TYPED = (
    *(Column(type_, type_) for type_ in TYPES),
    Column("price", "decimal(10,2)"),
    Column("tags", {"type": "array", "elementType": "string", "containsNull": True}),
)
ROW = pa.record_batch(
    {
        "string": ["a|b"],
        "date": [date(2026, 11, 23)],
        "integer": pa.array([-5], pa.int32()),
        "boolean": [True],
        "price": pa.array([Decimal("1.50")], pa.decimal128(10, 2)),
        "tags": [["x"]],
    }
)
KEY = ("a|b", "2026-11-23", "-5", "true")


@pytest.fixture
def permanent() -> list[str]:
    return [*PERMANENT, PERMANENT_ROWS, "*:gold:typed:*"]


Publish = Callable[..., Manifest]


@pytest.fixture
def put(endpoint, namespace: str) -> Publish:
    """Publishes a version of `sales`, in which `a` is the number."""

    def put(number: int = 1, **options: Any) -> Manifest:
        return publish(endpoint, {"a": number, "b": 0}, spec(namespace, **{"keep": 9} | options))

    return put


Begin = Callable[..., Publication]


@pytest.fixture
def begin(endpoint, namespace: str) -> Begin:
    return lambda **options: Publication.begin(endpoint, spec(namespace, **options))


LAYOUTS = pytest.mark.parametrize("layout", [Layout.JSON, Layout.HASH])


@pytest.fixture
def layout() -> Layout:
    return Layout.JSON


@pytest.fixture
def typed(endpoint, namespace: str, layout: Layout) -> Manifest:
    """A dataset whose key is of four types."""
    typed = spec(
        namespace,
        KeyTemplate.of_columns(TYPES).text,
        dataset="typed",
        columns=TYPED,
        layout=layout,
        lineage={"dag_id": "sales"},
        ttl=3600,
        fence=7,
    )
    publication = Publication.begin(endpoint, typed)
    with PartitionWriter(publication, 0, "a") as writer:
        writer.write(*row_encoder(typed)(ROW))
        return publication.commit([writer.finish()])


def test_an_empty_server(call: Call, namespace: str) -> None:
    ran = call("gold", "list")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("No Gold datasets at ")
    assert ran.out.endswith(f" in namespace '{namespace}'.\n")
    assert call("gold", "list", "--json").json == []
    assert call("gold", "sweep").out.startswith("Nothing to sweep at ")
    assert call("gold", "sweep", "--json").json == []


@pytest.mark.parametrize(
    "words", [("show", "x"), ("rollback", "x"), ("sweep", "x"), ("get", "x", "y"), ("verify", "x")]
)
def test_what_is_not_there(call: Call, words: tuple[str, ...]) -> None:
    ran = call("gold", *words)
    assert (ran.code, ran.out) == (1, "")
    assert "Gold dataset 'x'" in ran.err
    assert call("gold", words[0], "no spaces", *words[2:]).code == 2


def test_list(call: Call, put: Publish, typed: Manifest, endpoint, namespace: str) -> None:
    put()
    live = put(2)
    write(Publication.begin(endpoint, spec(namespace)), {"c": 1})
    Publication.begin(endpoint, spec(namespace)).abandon()
    Publication.begin(endpoint, spec(namespace, dataset="never")).abort()
    ran = call("gold", "list")
    assert (ran.code, ran.err) == (0, "")
    rows = [line.split() for line in ran.out.splitlines()[2:]]
    assert rows[0] == ["never", "-", "-", "-", "-", "-", "-", "0", "0", "0"]
    assert rows[1][:5] == ["sales", live.version, "2", str(live.bytes), "B"]
    assert f"{live.published_at:%Y-%m-%d %H:%M:%S}" in ran.out
    assert rows[1][-4:] == ["never", "2", "1", "1"]
    assert rows[2][:2] == ["typed", typed.version]
    assert " in 59 min " in ran.out or " in 1 h " in ran.out
    never, sales, other = call("gold", "list", "--json").json
    assert never == {"dataset": "never", "live": None, "kept": 0, "staged": 0, "to_sweep": 0}
    assert 0 <= sales["live"].pop("age") < 60
    assert sales == {
        "dataset": "sales",
        "live": {
            "version": live.version,
            "state": "live",
            "published": live.published_at.isoformat(),
            "expires_from": None,
            "expires": None,
            "mode": "snapshot",
            "rows": 2,
            "bytes": live.bytes,
        },
        "kept": 2,
        "staged": 1,
        "to_sweep": 1,
    }
    assert other["live"]["expires"] == typed.expires_at.isoformat()


def test_what_cannot_be_read_does_not_hide_the_others(
    client: redis.Redis, call: Call, put: Publish, namespace: str
) -> None:
    put()
    bad = GoldKeys("bad", namespace)
    client.hset(bad.head, "live", "x")
    client.set(bad.versions, "of another program")
    for words in (("list", "--json"), ("sweep", "--json")):
        client.set(bad.staging, "of another program")
        ran = call("gold", *words)
        assert ran.code == 1
        assert ran.err.startswith("nexus-redis: Gold dataset 'bad' cannot be ")
        assert len(ran.err.splitlines()) == 1
        assert ('"dataset": "sales"' in ran.out) is (words[0] == "list")


def test_many_datasets(client: redis.Redis, call: Call, namespace: str) -> None:
    names = [f"d{number:03}" for number in range(250)]
    for name in names:
        client.hset(GoldKeys(name, namespace).head, "minted_ms", 1)
    assert [one["dataset"] for one in call("gold", "list", "--json").json] == names


@LAYOUTS
def test_show(call: Call, typed: Manifest, layout: Layout) -> None:
    out = call("gold", "show", "typed").out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for line in (
        "dataset typed",
        f"live version {typed.version}",
        "key {string}|{date}|{integer}|{boolean}",
        "mode snapshot",
        f"layout {layout}",
        "rows 1",
        f"bytes {typed.bytes}",
        f"checksum {typed.checksum}",
        "fencing token 7",
        "newest token 7",
        "dag_id sales",
        "integer integer",
        "price decimal(10,2)",
        "tags array<string>",
    ):
        assert line in lines
    assert f"{typed.published_at:%Y-%m-%d %H:%M:%S} UTC, " in out
    assert "Kept, newest first" in out
    assert "Being written" not in out
    found = call("gold", "show", "typed", "--json").json
    assert found["fence"] == 7
    assert found["live"]["columns"][4:] == [
        {"name": "price", "type": "decimal(10,2)"},
        {"name": "tags", "type": dict(TYPED[5].type)},
    ]
    assert found["live"]["lineage"] == {"dag_id": "sales"}
    assert [one["state"] for one in found["versions"]] == ["live"]
    assert found["staged"] == []


def test_show_versions_and_staging_areas(
    client: redis.Redis, namespace: str, call: Call, put: Publish, begin: Begin
) -> None:
    expired = put(1)
    put(2)
    put(3)
    writing = begin(staging_lease=60)
    write(writing, {"a": 1, "b": 1, "c": 1})
    over = begin()
    over.abandon()
    assert call("gold", "rollback", "sales").code == 0
    # What a ttl does.
    client.delete(GoldKeys("sales", namespace).manifest(expired.version))
    found = call("gold", "show", "sales", "--json").json
    states = ["rolled back", "live", "expired"]
    assert [one["state"] for one in found["versions"]] == states
    first, second = found["staged"]
    assert 0 < first["lease_left"] <= 60
    assert (first["version"], first["rows"], first["to_sweep"]) == (writing.version, 3, False)
    assert (second["version"], second["lease_left"], second["to_sweep"]) == (
        over.version,
        None,
        True,
    )
    assert abs(datetime.fromisoformat(first["begun"]).timestamp() * 1000 - writing.created_ms) < 1
    out = call("gold", "show", "sales").out
    rows = [line for line in out.splitlines() if line.startswith(tuple(expired.version[:3]))]
    assert [state for row in rows for state in states if f"  {state}  " in row] == states
    assert f"{writing.version}  {writing_time(writing)}     3  " in out
    assert out.splitlines()[-1].rstrip().endswith("over, to be swept")


def writing_time(publication: Publication) -> str:
    return f"{datetime.fromtimestamp(publication.created_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def test_rollback(call: Call, put: Publish, endpoint, namespace: str) -> None:
    one, two, three = put(1), put(2), put(3)
    ran = call("gold", "rollback", "sales")
    assert (ran.code, ran.err) == (0, "")
    first, before, now, last = ran.out.splitlines()
    assert first == "Readers of sales see another version now."
    assert before.startswith(f"before  {three.version}, published ")
    assert now.startswith(f"now     {two.version}, published {two.published_at:%Y-%m-%d %H:%M:%S} ")
    assert "mend first what was wrong" in last
    assert call("gold", "get", "sales", "a", "--json").json == {"id": "a", "n": 2}
    moved = call("gold", "rollback", "sales", "--to", one.version, "--json").json
    assert moved["dataset"] == "sales"
    assert (moved["from"]["version"], moved["to"]["version"]) == (two.version, one.version)
    assert call("gold", "get", "sales", "a", "--json").json == {"id": "a", "n": 1}
    ran = call("gold", "rollback", "sales")
    assert (ran.code, ran.out) == (1, "")
    assert f"Others that can be read: {three.version}, {two.version}." in ran.err
    for version, said in (("nope", "is not kept"), ("", "is not kept"), (one.version, "is live")):
        ran = call("gold", "rollback", "sales", "--to", version)
        assert (ran.code, ran.out) == (1, "")
        assert said in ran.err
    writing = Publication.begin(endpoint, spec(namespace))
    out = call("gold", "rollback", "sales", "--to", three.version).out
    assert f"A publish is under way, and moves readers when it commits: {writing.version}." in out


def test_rollback_to_what_expires(call: Call, put: Publish) -> None:
    expiring = put(1, ttl=299, ttl_jitter=200)
    put(2)
    assert re.search(
        r"It expires in 1 min [0-9s ]+ to 4 min", call("gold", "rollback", "sales").out
    )
    assert re.search(r"expires +in 1 min [0-9s ]+ to 4 min", call("gold", "show", "sales").out)
    live = call("gold", "show", "sales", "--json").json["live"]
    assert live["expires_from"] == expiring.expires_from.isoformat()
    assert live["expires"] == expiring.expires_at.isoformat()


def test_sweep(call: Call, put: Publish, endpoint, namespace: str, client: redis.Redis) -> None:
    live = put()
    left = []
    for dataset in ("sales", "typed"):
        publication = Publication.begin(endpoint, spec(namespace, dataset=dataset))
        write(publication, {"x": 1})
        publication.abandon()
        left.append(publication.version)
    ran = call("gold", "sweep", "sales")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[2].split() == ["sales", left[0]]
    assert call("gold", "sweep", "--json").json == [{"dataset": "typed", "removed": [left[1]]}]
    assert call("gold", "sweep", "--json").json == []
    assert call("gold", "verify", "sales", "--json").json["version"] == live.version
    assert not list(client.scan_iter(f"{namespace}*{left[0]}*", count=1000))


@LAYOUTS
def test_get(call: Call, typed: Manifest) -> None:
    ran = call("gold", "get", "typed", *KEY)
    assert (ran.code, ran.err) == (0, "")
    lines = [line.split() for line in ran.out.splitlines()[2:]]
    assert lines == [
        ["string", "a|b"],
        ["date", "2026-11-23"],
        ["integer", "-5"],
        ["boolean", "true"],
        ["price", "1.50"],
        ["tags", '["x"]'],
    ]
    assert call("gold", "get", "typed", *KEY, "--json").json == {
        "string": "a|b",
        "date": "2026-11-23",
        "integer": -5,
        "boolean": True,
        "price": "1.50",
        "tags": ["x"],
    }


@pytest.mark.parametrize(
    ("key", "code", "said"),
    [
        (("a", *KEY[1:]), 1, "has no row with the key 'a', '2026-11-23', '-5', 'true'."),
        (KEY[:3], 2, "string (string), date (date), integer (integer), boolean (boolean), in this"),
        ((*KEY, "x"), 2, "5 value(s) were given"),
        (("a", "today", "1", "true"), 2, "Key column 'date' has type date, which 'today' is not."),
        (("a", KEY[1], "1_0", "true"), 2, "has type integer, which '1_0' is not."),
        (("a", KEY[1], "1.0", "true"), 2, "has type integer"),
        (("a", KEY[1], "1", "yes"), 2, "has type boolean"),
        (("\udcff", *KEY[1:]), 2, "Key column 'string' has type string"),
    ],
)
def test_get_what_is_not_there_or_no_key(call: Call, typed, key, code: int, said: str) -> None:
    ran = call("gold", "get", "typed", *key)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1


def test_text_of_a_row_is_shown_as_it_is(call: Call, endpoint, namespace: str) -> None:
    publication = Publication.begin(endpoint, spec(namespace))
    with PartitionWriter(publication, 0, "a") as writer:
        writer.write(*batch({"[red]x[/] \u202e": 1}))
        publication.commit([writer.finish()])
    out = call("gold", "get", "sales", "[red]x[/] \u202e").out
    assert "[red]x[/] \\u202e" in out


def test_values_that_json_has_not() -> None:
    inf = float("inf")
    row = {"a": [float("nan"), inf, -inf], "b": b"\xff", "c": {"d": Decimal("1E+2")}, "e": None}
    assert row_document(row) == {
        "a": ["NaN", "Infinity", "-Infinity"],
        "b": "/w==",
        "c": {"d": "100"},
        "e": None,
    }


def test_verify(call: Call, put: Publish, client: redis.Redis, namespace: str) -> None:
    live = put()
    assert call("gold", "verify", "sales").out == (
        f"Gold dataset sales, version {live.version}: all 2 rows are as they were published, "
        f"with checksum {live.checksum}.\n"
    )
    assert call("gold", "verify", "sales", "--json").json == {
        "dataset": "sales",
        "version": live.version,
        "rows": 2,
        "expired": 0,
        "checksum": live.checksum,
    }
    client.delete(f"{GoldKeys('sales', namespace).row_prefix(live.version)}a")
    ran = call("gold", "verify", "sales")
    assert (ran.code, ran.out) == (1, "")
    assert "1 rows with checksum" in ran.err


def test_rows_that_say_when_they_expire(call: Call, endpoint, namespace: str) -> None:
    past, soon = datetime(2020, 1, 1, tzinfo=UTC), datetime.now(UTC) + timedelta(hours=2)
    table = pa.table({"id": ["a", "b"], "until": [past, soon]})
    options = {"key": "id", "endpoint": endpoint, "namespace": namespace, "ttl_column": "until"}
    live = publish_table(table, "sales", **options)
    assert call("gold", "verify", "sales").out == (
        f"Gold dataset sales, version {live.version}: 1 of 2 rows have expired, so that no "
        "checksum can tell whether the others are as they were published.\n"
    )
    assert call("gold", "verify", "sales", "--json").json["expired"] == 1
    out = call("gold", "show", "sales").out
    assert re.search(r"expires +in 0 s to (2 h|1 h 59 min) *\nexpires by +until *\n", out)
    assert call("gold", "show", "sales", "--json").json["live"]["ttl_column"] == "until"
    publish_table(pa.table({"id": ["a", "b"], "until": [past, None]}), "sales", **options)
    assert re.search(r"expires +in 0 s, some rows never *\n", call("gold", "show", "sales").out)


def test_upserted(call: Call, endpoint, namespace: str) -> None:
    upsert = spec(namespace, f"{namespace}:{{id}}", mode=Mode.UPSERT, ttl=60, keep=9)
    for number in (1, 2):
        publish(endpoint, {"a": number}, upsert)
    assert call("gold", "get", "sales", "a", "--json").json == {"id": "a", "n": 2}
    for words, code in (("rollback", 1), ("verify", 2)):
        ran = call("gold", words, "sales")
        assert (ran.code, ran.out) == (code, "")
        assert "upserted in place" in ran.err


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB")],
)
def test_sizes(count: int, text: str) -> None:
    assert _size(count) == text


def test_nested_types() -> None:
    inner = {"type": "map", "keyType": "string", "valueType": "long", "valueContainsNull": True}
    field = {"name": "m", "type": inner, "nullable": True, "metadata": {}}
    outer = {"type": "array", "elementType": {"type": "struct", "fields": [field]}}
    assert _type(outer) == "array<struct<m:map<string,long>>>"
