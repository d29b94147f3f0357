"""`df.writeStream.format("nexus_redis")`: every micro-batch once, killed drivers included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyspark.errors import PySparkException, StreamingQueryException
from pyspark.sql import functions as F  # noqa: N812

from nexus_redis_provider.core.gold.history import history
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.core.scripts import run
from tests.conftest import PERMANENT
from tests.urls import url_of
from tests.with_spark import streaming_job
from tests.with_spark.conftest import SHORT_LIVED

pytestmark = pytest.mark.spark
FILES, ROWS, KEYS = 6, 3000, 700


@pytest.fixture
def permanent():
    return [*PERMANENT, "*:gold:sales:*", "*:gold:totals:*"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Files in the order of their values, so that the newest of a key is its largest."""
    (tmp_path / "rows").mkdir()
    for number in range(FILES):
        path = tmp_path / "rows" / f"{number:02}.csv"
        values = range(number * ROWS, (number + 1) * ROWS)
        path.write_text("".join(f"{value * 3 % KEYS},{value}\n" for value in values))
        os.utime(path, (1e9 + number, 1e9 + number))
    return tmp_path


@pytest.fixture
def job(folder, endpoint, namespace):
    """Starts the streams in a process of their own."""

    @contextmanager
    def start():
        command = [sys.executable, "-m", streaming_job.__name__, folder]
        environment = {**os.environ, **SHORT_LIVED, "PYTHONPATH": str(Path.cwd())}
        with (
            (folder / "log").open("a") as log,
            subprocess.Popen(
                [*command, url_of(endpoint), namespace],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                env=environment,
            ) as process,
        ):
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    return start


def proceed(process):
    process.stdin.write("\n")
    process.stdin.flush()


def state(client, namespace, dataset):
    """What the head says of streams: fields `batch:Q` and `claim:Q`."""
    head = client.hgetall(GoldKeys(dataset, namespace).head)
    return {name.decode()[:5]: value for name, value in head.items() if b":" in name}


def events(client, namespace, dataset):
    return client.xlen(f"{GoldKeys(dataset, namespace).root}:events")


def commits(folder, dataset):
    """Spark's own record of its micro-batches, in their order.

    Of a file each, or two: a driver may die with a file noted, and not yet that it is a batch.
    """
    numbers = [p.name for p in (folder / dataset / "commits").iterdir() if p.name.isdigit()]
    return [folder / dataset / "commits" / number for number in sorted(numbers, key=int)]


def kill_within_a_batch(process, claimed):
    """Kills the driver as soon as the micro-batch has begun."""
    deadline = time.monotonic() + 120
    while not claimed():
        assert process.poll() is None, "the job came to its end"
        assert time.monotonic() < deadline, "no micro-batch has begun"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_driver_killed_within_batches(job, folder, spark, client, namespace):
    seen = {"newest": set(), "totals": set()}

    def claimed(dataset):
        claim = state(client, namespace, dataset).get("claim")
        return claim and claim not in seen[dataset] and not claim.startswith(b"0 ")

    for dataset in ("newest", "totals", "newest"):
        interrupted = False
        while not interrupted:
            with job() as process:
                proceed(process)
                kill_within_a_batch(process, lambda dataset=dataset: claimed(dataset))
            # It may have been just about to commit.
            left = state(client, namespace, dataset).get("claim")
            interrupted = left is not None
            seen[dataset].add(left)
    with job() as process:
        proceed(process)
        assert process.stdout.readline() == "done\n", (folder / "log").read_text()[-3000:]
        check_all(spark, client, folder, namespace)

        # Spark did not hear that the last batch was committed, and runs it again: Redis knows it,
        # and what has been written since stays.
        before = {name: client.dump(name) for name in client.scan_iter(f"{namespace}*")}
        newer = streaming_job.newest_key(namespace).format(k=1)
        client.set(newer, '{"k":1,"v":-1}')
        lasts = {dataset: commits(folder, dataset)[-1] for dataset in ("newest", "totals")}
        for last in lasts.values():
            last.unlink()
            last.with_name(f".{last.name}.crc").unlink()
        proceed(process)
        assert process.stdout.readline() == "done\n", (folder / "log").read_text()[-3000:]
        assert all(last.exists() for last in lasts.values())
        after = {name: client.dump(name) for name in client.scan_iter(f"{namespace}*")}
        assert client.get(newer) == b'{"k":1,"v":-1}'
        assert {name for name in before.keys() | after if before.get(name) != after.get(name)} == {
            newer.encode()
        }


def check_all(spark, client, folder, namespace):
    """What batch Spark makes of all files is what is served, and each batch was published once."""
    rows = spark.read.schema(streaming_job.SCHEMA).csv(f"{folder}/rows")
    expected = [row.asDict() for row in streaming_job.totals(rows).collect()]
    found = list(GoldDataset(client, "totals", namespace=namespace).scan())
    assert sorted(found, key=lambda row: row["k"]) == sorted(expected, key=lambda row: row["k"])
    expected = {
        row["k"]: row.asDict() for row in rows.groupBy("k").agg(F.max("v").alias("v")).collect()
    }
    newest = GoldDataset(client, "newest", namespace=namespace)
    assert dict(zip(range(KEYS), newest.get_many(range(KEYS)), strict=True)) == expected
    for dataset in ("totals", "newest"):
        batches = commits(folder, dataset)
        assert state(client, namespace, dataset) == {"batch": batches[-1].name.encode()}
        assert events(client, namespace, dataset) == len(batches)
        assert run(client, history(dataset, namespace=namespace)).staged == ()
        lineage = GoldDataset(client, dataset, namespace=namespace).manifest().lineage
        assert lineage["micro_batch"] == batches[-1].name


@pytest.fixture
def stream(spark, endpoint, namespace, folder):
    """Runs a stream over the files to its end."""

    def stream(change=lambda rows: rows, mode="append", **options):
        rows = spark.readStream.schema(streaming_job.SCHEMA).csv(f"{folder}/rows")
        options = {"dataset": "sales", "key": streaming_job.newest_key(namespace)} | options
        options |= {"namespace": namespace, "checkpointLocation": f"{folder}/checkpoint"}
        options.setdefault("url", url_of(endpoint))
        writer = change(rows).writeStream.format("nexus_redis").options(**options)
        query = writer.outputMode(mode).trigger(availableNow=True).start()
        query.awaitTermination()

    return stream


MISTAKES = [
    ({"key": "s:{x}"}, "'x' of the key is not there"),
    ({"key": "k"}, "a template of a row's whole Redis key"),
    ({"colour": "red"}, "Unknown option(s) of nexus_redis: colour"),
    ({"url": "redis://:pw-1234@127.0.0.1:1"}, "literal Redis password"),
    ({"change": lambda rows: rows.withColumn("k", F.expr("nullif(k, 3)"))}, "NullKeyError"),
    ({"mode": "update"}, "pdate"),
]


def test_mistakes_are_named(stream, client, namespace):
    for arguments, text in MISTAKES:
        with pytest.raises((StreamingQueryException, PySparkException)) as caught:
            stream(**arguments)
        assert text in str(caught.value)
        assert "pw-1234" not in str(caught.value)
    assert run(client, history("sales", namespace=namespace)).staged == ()
    # The batch that failed is run again, now without the mistake.
    stream()
    assert GoldDataset(client, "sales", namespace=namespace).get(3)["k"] == 3
