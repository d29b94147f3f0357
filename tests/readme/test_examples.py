"""What the README and the page on servers tell a user to paste works as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.guarded import own_server

ROOT = Path(__file__).parents[2]
PAGES = [(ROOT / page).read_text("utf-8") for page in ("README.md", "docs/servers.md")]
BLOCKS = re.findall(r"```python\n(.*?)```", "\n".join(PAGES), re.DOTALL)


def block(word: str) -> str:
    (found,) = [text for text in BLOCKS if word in text]
    return found


def run(code: str, folder: Path, *arguments: str, **environment: str) -> str:
    script = folder / "example.py"
    script.write_text(code, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=os.environ | {"PYSPARK_PYTHON": sys.executable} | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def test_what_is_installed_is_there():
    lines = re.findall(r"^pip install -c (\S+) '?\.(?:\[(\w+)\])?", PAGES[0], re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {extra for _, extra in lines} == {"", "airflow", "spark", "cli"}
    assert {extra for _, extra in lines} <= {"", *project["optional-dependencies"]}
    assert all((ROOT / constraints).is_file() for constraints, _ in lines)


@pytest.mark.airflow
def test_dag(tmp_path):
    code = block("@dag") + (
        "\nfrom airflow.sdk.definitions.dag import DAG\n"
        "(dag,) = [value for value in [sales_to_redis()] if isinstance(value, DAG)]\n"
        "for task in dag.tasks:\n"
        "    print(*((task.task_id, after) for after in task.downstream_task_ids))\n"
    )
    edges = run(code, tmp_path, AIRFLOW_HOME=str(tmp_path))
    for edge in (("lock", "publish"), ("publish", "warm"), ("warm", "unlock"), ("lock", "unlock")):
        assert str(edge) in edges


@pytest.mark.spark
def test_spark_job_then_read(tmp_path):
    lake = tmp_path / "sales"
    lake.mkdir()
    day = pa.array(["2026-11-23"] * 3).cast(pa.date32())
    sales = {"shop": ["Hanoi", "Hanoi", "Hue"], "day": day, "price": [1.5, 2.0, 4.0]}
    pq.write_table(pa.table(sales), lake / "part.parquet")
    job = block("publish(gold").replace("/lake/silver/sales", str(lake))
    with own_server() as server:
        printed = run(job, tmp_path, "--fence", "7", NEXUS_REDIS_URL=server.url)
        assert "2 rows published as version" in printed
        reading = block("GoldDataset(Endpoint") + "\nprint(row, published_at.tzinfo)"
        printed = run(reading, tmp_path, NEXUS_REDIS_URL=server.url)
    assert "'orders': 2, 'sum': 3.5} UTC" in printed


def test_lock(tmp_path, server):
    printed = run(block("reindex"), tmp_path, NEXUS_REDIS_URL=server.url)
    (_, first), (_, second) = (line.split() for line in printed.splitlines())
    assert int(first) == int(second) > 0


def test_cached_handler(tmp_path, server):
    code = block("astamp") + (
        """
import asyncio

SOURCE = {"eu": {"a": 1.5}, "us": {"a": 2.5}}
asked = []

async def query(region):
    asked.append(region)
    return SOURCE[region]

async def store(region, new):
    SOURCE[region] = new

async def main():
    for _ in range(2):
        print(await prices("eu"), await prices("us"))
    await change_prices("eu", {"a": 7})
    for _ in range(2):
        print(await prices("eu"), await prices("us"))
    await tags.ainvalidate(cache, ["prices"])
    print(await prices("eu"), await prices("us"), asked)
    await cache.aclose()

asyncio.run(main())
"""
    )
    printed = run(code, tmp_path, NEXUS_REDIS_URL=server.url)
    old, new = """b'{"a": 1.5}' b'{"a": 2.5}'""", """b'{"a": 7}' b'{"a": 2.5}'"""
    assert printed.splitlines() == [
        *(old, old, new, new),
        f"{new} ['eu', 'us', 'eu', 'eu', 'us']",
    ]
