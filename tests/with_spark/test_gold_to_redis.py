"""The job of `spark_jobs/`: what it publishes, what it refuses, and how it exits."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.embedded import EmbeddedServer
from nexus_redis_provider.spark import configurations
from tests.guarded import own_server
from tests.urls import url_of

pytestmark = pytest.mark.spark
JOB = Path(__file__).parents[2] / "spark_jobs" / "gold_to_redis.py"
QUIET = (
    "--master local[1] --conf spark.ui.enabled=false --conf spark.log.level=ERROR "
    "--conf spark.sql.shuffle.partitions=1 --conf spark.driver.bindAddress=127.0.0.1"
)
ORDERS = """\
shop,day,price
Hanoi,2026-11-22,1.50
Hanoi,2026-11-23,2.00
Hanoi,2026-11-23,NA
Hue,2026-11-23,4.00
NA,2026-11-23,1.00
"""
CONFIG: dict[str, Any] = {
    "dag": {"schedule": "@daily"},
    "sources": {
        "orders": {
            "path": "nowhere.csv",
            "format": "csv",
            "schema": "shop STRING, day DATE, price DECIMAL(9,2)",
            "options": {"header": True, "enforceSchema": False, "nullValue": "NA"},
        },
        "shops": {"path": "nowhere.parquet", "format": "parquet"},
        "known": {"query": "SELECT * FROM orders WHERE shop IS NOT NULL"},
    },
    "datasets": {
        "sales": {
            "from": "known",
            "joins": [{"source": "shops", "on": "known.shop = shops.name", "how": "inner"}],
            "where": "day >= DATE '2026-11-23'",
            "group_by": {"shop": "known.shop", "day": "day"},
            "measures": {"city": "any_value(city)", "orders": "count(*)", "sum": "sum(price)"},
            "key": ["shop", "day"],
            "ttl": 3600,
            "ttl_jitter": 600,
            "keep": 0,
            "min_rows": 2,
        },
        "by_day": {
            "from": "orders",
            "group_by": ["day"],
            "measures": {"orders": "count(price)", "lives": "7200"},
            "key": "by_day:{day}",
            "mode": "upsert",
            "ttl_column": "lives",
        },
    },
}


@dataclass
class Result:
    code: int
    stdout: str
    stderr: str

    @property
    def published(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines() if line[0] == "{"]


@dataclass
class Case:
    """What is wrong: something in the configuration, or an argument."""

    code: int
    words: str
    path: tuple[str | int, ...] = ()
    value: Any = None
    arguments: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def job_server() -> Iterator[EmbeddedServer]:
    """The job publishes to the default namespace."""
    with own_server() as server:
        yield server


@pytest.fixture
def client(job_server: EmbeddedServer) -> Iterator[redis.Redis]:
    with job_server.endpoint.client() as client:
        client.flushall()
        yield client


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "orders.csv").write_text(ORDERS)
    shops = pa.table({"name": ["Hanoi", "Hue"], "city": ["Hà Nội", "Huế"]})
    pyarrow.parquet.write_table(shops, folder / "shops.parquet")
    return folder


def write(file: Path, case: Case) -> str:
    """The configuration with the case's change, as a file."""
    inside: Any = (body := deepcopy(CONFIG))
    for name in case.path[:-1]:
        inside = inside[name]
    if case.path:
        inside[case.path[-1]] = case.value
    file.write_text(json.dumps(body))
    return str(file)


def inputs(data: Path) -> list[str]:
    return [f"--input=orders={data / 'orders.csv'}", f"--input=shops={data / 'shops.parquet'}"]


def submit(*arguments: str, **environment: str) -> Result:
    command = ["spark-submit", *QUIET.split(), str(JOB), *arguments]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {"PATH": path, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    done = subprocess.run(
        command, env=os.environ | own | environment, capture_output=True, text=True, check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)


def test_publishes_from_csv_and_parquet(
    job_server: EmbeddedServer, client: redis.Redis, data: Path, tmp_path: Path
):
    done = submit(
        write(tmp_path / "config.json", Case(0, "")),
        *(*inputs(data), "--fence", "7", "--lineage", "run_id=manual__1"),
        NEXUS_REDIS_URL=job_server.url,
    )
    assert done.code == 0, done.stderr
    sales, by_day = done.published
    gold = GoldDataset(client, "sales")
    assert {row["shop"]: row for row in gold.scan()} == {
        "Hanoi": {
            "shop": "Hanoi",
            "day": date(2026, 11, 23),
            "city": "Hà Nội",
            "orders": 2,
            "sum": pytest.approx(2),
        },
        "Hue": {
            "shop": "Hue",
            "day": date(2026, 11, 23),
            "city": "Huế",
            "orders": 1,
            "sum": pytest.approx(4),
        },
    }
    manifest = gold.manifest()
    assert manifest.expires_ms - manifest.expires_from_ms == 600_000
    assert (manifest.fence, manifest.lineage["run_id"]) == (7, "manual__1")
    assert sales["version"] == manifest.version
    assert (sales["rows"], sales["bytes"]) == (2, manifest.bytes)
    assert sales["seconds"] > 0
    # The other dataset stands under keys that any client reads.
    row = {"day": "2026-11-23", "orders": 3, "lives": 7200}
    assert json.loads(client.get("by_day:2026-11-23")) == row
    assert 3600 < client.ttl("by_day:2026-11-23") <= 7200
    assert by_day["rows"] == 2


SALES, ORDERS_SOURCE = ("datasets", "sales"), ("sources", "orders")
REFUSED_BY_SPARK = {
    "slow": Case(
        0,
        r"gold_to_redis: sales: [12] rows written, (25|50)% of 4, \d rows/s, .* left\n",
        SALES,
        {**CONFIG["datasets"]["sales"], "where": "true", "max_rows_per_second": 1}
        | {"expected_rows": 4},
    ),
    "good": Case(0, "", arguments=("--fence=9",)),
    "measure": Case(2, "sales.measures.sum: .*prize", (*SALES, "measures", "sum"), "sum(prize)"),
    "group": Case(2, "sales.group_by.shop: .*chop", (*SALES, "group_by", "shop"), "chop"),
    "where": Case(2, "sales.where: .*Syntax error", (*SALES, "where"), "day >"),
    "join": Case(2, "join with shops: .*nome", (*SALES, "joins", 0, "on"), "known.shop = nome"),
    "no aggregate": Case(2, "measures.sum: .*GROUP BY", (*SALES, "measures", "sum"), "price"),
    "file": Case(2, "sources.orders: .*gone.csv", arguments=("--input=orders=gone.csv",)),
    "table": Case(2, "sources.known: .*gone", ("sources", "known"), {"table": "gone"}),
    "query": Case(2, "sources.known: .*ordres", ("sources", "known", "query"), "FROM ordres"),
    "format": Case(2, "sources.orders: .*cvs", (*ORDERS_SOURCE, "format"), "cvs"),
    "schema": Case(2, "sources.orders: .*INTT", (*ORDERS_SOURCE, "schema"), "shop INTT"),
    "null key": Case(3, "null in key column.*shop", SALES, {
        "from": "orders", "group_by": ["shop"], "measures": {"n": "count(*)"}, "key": "shop",
    }, ("--fence=9",)),
    "doubles": Case(3, "repeat a key, such as 'Hanoi'", SALES, {
        "from": "known", "group_by": ["shop", "day"], "measures": {"n": "count(*)"}, "key": "shop",
    }, ("--fence=9",)),
    "type": Case(
        3,
        "column 'sum' has type struct with the repeated field 'a'",
        (*SALES, "measures", "sum"),
        "any_value(named_struct('a', 1, 'a', 2))",
    ),
    "ttl type": Case(3, "column 'sum' has type decimal", (*SALES, "ttl_column"), "sum"),
    "key type": Case(3, "column 'sum' has type decimal", (*SALES, "key"), ["shop", "sum"]),
    "too few": Case(
        3, "fewer than min_rows=99", (*SALES, "min_rows"), 99, arguments=("--fence=9",)
    ),
    "stale fence": Case(4, "token 8 is older than 9", arguments=("--fence=8",)),
    "no fence": Case(4, "sales.*fencing token"),
    "bad value": Case(1, "Spark job failed: .*orders.csv", ORDERS_SOURCE, {
        "path": "x", "format": "csv", "schema": "shop STRING, day DATE, price INT",
        "options": {"header": True, "mode": "FAILFAST"},
    }, ("--fence=9",)),
}  # fmt: skip
REFUSED_AT_ONCE = {
    "unknown key": Case(2, "datasets.sales: .*'mesures' .*measures", (*SALES, "mesures"), {}),
    "unknown at top": Case(2, "unknown key 'dataset'", ("dataset",), {}),
    "needs measures": Case(2, "datasets.sales: needs measures", (*SALES, "measures"), {}),
    "needs a source": Case(2, "sources.orders: needs exactly one", ORDERS_SOURCE, {}),
    "needs a format": Case(2, "sources.orders: needs a format", (*ORDERS_SOURCE, "format"), None),
    "two kinds": Case(2, "sources.orders: needs exactly one", (*ORDERS_SOURCE, "table"), "t"),
    "wrong kind": Case(2, "keep must be a whole number, not True", (*SALES, "keep"), True),
    "not SQL": Case(2, "sales.measures: n must be a text, not 3", (*SALES, "measures", "n"), 3),
    "not an object": Case(2, "datasets.sales: must be an object", SALES, []),
    "key": Case(2, "datasets.sales.key: must be one of shop, .*'city2'", (*SALES, "key"), "city2"),
    "template": Case(2, "key template", (*SALES, "key"), "{shop}{day}"),
    "both": Case(2, "both group_by and measures name day", (*SALES, "measures", "day"), "max(day)"),
    "mode": Case(
        2, "sales.mode: must be one of snapshot, delta, upsert", (*SALES, "mode"), "append"
    ),
    "layout": Case(2, "sales.layout: must be one of json", (*SALES, "layout"), "xml"),
    "ttl": Case(2, "ttl", (*SALES, "ttl"), -1),
    "delta": Case(2, "mode='delta' is for layout='packed'", (*SALES, "mode"), "delta"),
    "ttl_column": Case(2, "ttl_column: must be one of shop", (*SALES, "ttl_column"), "until"),
    "packed": Case(
        2,
        "'packed' does not go with ttl_column",
        SALES,
        {**CONFIG["datasets"]["sales"], "layout": "packed", "ttl_column": "orders"},
    ),
    "jitter": Case(2, "ttl_jitter", (*SALES, "ttl_jitter"), 3600),
    "from": Case(2, "sales.from: must be one of orders", (*SALES, "from"), "order"),
    "join source": Case(2, r"joins\[0\].source", (*SALES, "joins"), [{"source": "x", "on": "y"}]),
    "join kind": Case(2, r"joins\[0\].how: .*'outerr'", (*SALES, "joins", 0, "how"), "outerr"),
    "dataset name": Case(2, "dataset's name", ("datasets", "a b"), CONFIG["datasets"]["by_day"]),
    "--input": Case(2, "--input: .*'known'", arguments=("--input=known=x.csv",)),
    "--only": Case(2, "--only: .*'salse'", arguments=("--only=salse",)),
    "--redis": Case(2, "redis://", arguments=("--redis=http://localhost",)),
    "password": Case(
        2, "no password in a command line", arguments=("--redis=redis://:hunter2@localhost",)
    ),
    "unreachable": Case(
        5, "cannot be reached", arguments=("--redis=redis://127.0.0.1:1/0?retries=0",)
    ),
}
RUN_ALL = """
import contextlib, io, json, runpy, sys
import pyspark.sql
job, *cases = json.load(sys.stdin)
main = runpy.run_path(job)["main"]
pyspark.sql.SparkSession.stop = lambda session: None  # one session for all
results = []
for arguments in cases:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def answers(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of all of `REFUSED_BY_SPARK`, one after the other in one JVM, and what it left."""
    folder = tmp_path_factory.mktemp("configs")
    with own_server() as server, server.endpoint.client() as client:
        cases = []
        for number, case in enumerate(REFUSED_BY_SPARK.values()):
            file = write(folder / f"{number}.json", case)
            cases.append([file, "--only=sales", *inputs(data), *case.arguments])
        done = subprocess.run(
            [sys.executable, "-c", RUN_ALL],
            input=json.dumps([str(JOB), *cases]),
            env=os.environ
            | {"NEXUS_REDIS_URL": server.url, "PYSPARK_SUBMIT_ARGS": f"{QUIET} pyspark-shell"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-5000:]
        results = [Result(*result) for result in json.loads(done.stdout)]
        named = dict(zip(REFUSED_BY_SPARK, results, strict=True))
        return named | {"left": GoldDataset(client, "sales").verify()}


@pytest.mark.parametrize("name", REFUSED_BY_SPARK)
def test_what_spark_finds_wrong(name: str, answers: dict[str, Any]):
    case, result = REFUSED_BY_SPARK[name], answers[name]
    assert result.code == case.code, result.stderr
    assert re.search(case.words, result.stderr), result.stderr
    if case.code:
        assert one_line(result.stderr)
        assert result.stdout == ""


def test_what_was_refused_changed_nothing(answers: dict[str, Any]):
    assert answers["left"].version == answers["good"].published[0]["version"]


@pytest.mark.parametrize("name", REFUSED_AT_ONCE)
def test_what_is_wrong_before_spark_starts(
    name: str,
    tmp_path: Path,
    endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    case = REFUSED_AT_ONCE[name]
    monkeypatch.setenv("NEXUS_REDIS_URL", url_of(endpoint))
    job = runpy.run_path(str(JOB))
    monkeypatch.setitem(job["main"].__globals__, "run", lambda *_, **__: pytest.fail("no Spark"))
    assert job["main"]([write(tmp_path / "config.json", case), *case.arguments]) == case.code
    stderr = capfd.readouterr().err
    assert one_line(stderr)
    assert re.search(case.words, stderr), stderr
    assert "hunter2" not in stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "Expecting"), ('{"dag": {}, "dag": {}}', "twice: dag"), ("[]", "must be an object")],
)
def test_a_file_that_is_no_configuration(
    text: str, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    file = tmp_path / "config.json"
    file.write_text(text)
    assert runpy.run_path(str(JOB))["main"]([str(file)]) == 2
    assert words in capfd.readouterr().err


def test_access_denied(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    file = write(tmp_path / "config.json", Case(5, ""))
    with EmbeddedServer("--requirepass", "other") as server:
        assert runpy.run_path(str(JOB))["main"]([file, "--redis", server.url]) == 5
    assert "denied access" in capfd.readouterr().err


def test_the_exit_code_passes_through_spark_submit(tmp_path: Path):
    file = write(tmp_path / "config.json", Case(5, ""))
    done = submit(file, "--redis", "redis://127.0.0.1:1/0?retries=0")
    assert done.code == 5, done.stderr
    assert "Traceback" not in done.stderr


def test_help_explains_every_key_and_exit_code(capfd: pytest.CaptureFixture[str]):
    job = runpy.run_path(str(JOB))
    with pytest.raises(SystemExit, match="0"):
        job["main"](["--help"])
    text = capfd.readouterr().out
    for key in (*configurations._SOURCE, *configurations._DATASET, "dag", "--fence"):
        assert key in text, key
    assert [line[:3] for line in text.splitlines() if re.match(r"  \d  ", line)] == [
        f"  {code}" for code in range(6)
    ]


def one_line(stderr: str) -> bool:
    """Whether there is one error in it, on one line, besides progress."""
    errors = [line for line in stderr.splitlines() if "gold_to_redis: error: " in line]
    return len(errors) == 1 and "Traceback" not in stderr and stderr.endswith(errors[0] + "\n")
