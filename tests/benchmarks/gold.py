"""`make bench`: rows per second of publish() beside what else a team could write.

ROWS and ROUNDS in the environment change the size (1,000,000 rows, 3 rounds). Every way writes the
same rows to an empty server; ways take turns, so that a noisy machine is noisy for all of them.
Then come what a delta sends, how fast readers are, and how all that grows.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import redis
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nexus_redis_provider.core.gold.sweeping import page_keys, staged_attempts
from nexus_redis_provider.core.gold.wire import OK, ReplyStream, set_commands
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.embedded import EmbeddedServer
from nexus_redis_provider.spark import NexusRedisDataSource, publish
from tests.benchmarks import deltas, growth, reading
from tests.benchmarks.frames import KEY, frame, session
from tests.benchmarks.tables import conditions, heading, table

ROWS = int(os.environ.get("ROWS", "1000000"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
STEADY = "publish(), and the old one removed"
PACKED = "publish(layout='packed')"
BRIEF = "toPandas, SETEX per row"
_FEW = 20
"""What is so slow gets a part of the rows."""


def by_pandas(df: DataFrame, url: str) -> None:
    """All rows to the driver, and a command and a round trip for each."""
    client = redis.Redis.from_url(url)
    for row in df.limit(ROWS // _FEW).toPandas().to_dict("records"):
        key = f"{row['metric_name']}|{row['id']}"
        client.set(key, json.dumps(row, default=str), ex=3600)  # what SETEX is now


def with_pipeline(df: DataFrame, url: str) -> None:
    """foreachPartition and redis-py, a pipeline of 1,000; the JVM makes keys and JSON here too."""

    def write(rows: object) -> None:
        client = redis.Redis.from_url(url)
        pipeline, waiting = client.pipeline(transaction=False), 0
        for row in rows:
            pipeline.set(row.key, row.value)
            waiting += 1
            if waiting == 1000:
                pipeline.execute()
                waiting = 0
        pipeline.execute()

    rows = df.select(F.concat_ws("|", *KEY).alias("key"), F.to_json(F.struct("*")).alias("value"))
    rows.foreachPartition(write)


def with_json_pipeline(df: DataFrame, url: str) -> None:
    """The same with json.dumps of each row, as it is mostly written."""

    def write(rows: object) -> None:
        client = redis.Redis.from_url(url)
        pipeline, waiting = client.pipeline(transaction=False), 0
        for row in rows:
            pipeline.set(f"{row.metric_name}|{row.id}", json.dumps(row.asDict(), default=str))
            waiting += 1
            if waiting == 1000:
                pipeline.execute()
                waiting = 0
        pipeline.execute()

    df.foreachPartition(write)


def ready_made_file(server: EmbeddedServer, path: Path) -> None:
    """Write the very SET commands that publish() has just sent to a file."""
    client = server.endpoint.client()
    keys = GoldKeys("bench")
    version = client.hget(keys.head, "live").decode()
    prefix = keys.row_prefix(version)
    with path.open("wb") as file:
        for attempt, count in staged_attempts(client, keys, version).items():
            for names in page_keys(client, keys, version, attempt, count):
                values = client.mget([prefix.encode() + name for name in names])
                columns = [pa.array([v.decode() for v in column]) for column in (names, values)]
                file.write(set_commands(prefix, *columns, ("NX",)))


def with_redis_cli(path: Path, server: EmbeddedServer) -> None:
    """`redis-cli --pipe` of a ready-made file, or the same by a bare socket where it is missing."""
    if cli := shutil.which("redis-cli"):
        with path.open("rb") as file:
            command = [cli, "-p", str(server.port), "--pipe"]
            subprocess.run(command, stdin=file, stdout=subprocess.DEVNULL, check=True)
        return
    with server.endpoint.client(protocol=2) as client, path.open("rb") as file:
        connection = client.connection_pool.get_connection()
        while chunk := file.read(1 << 20):
            connection.send_packed_command([chunk], check_health=False)
        assert not ReplyStream(connection).differing(OK * ROWS)


def into_nothing(df: DataFrame, _: str) -> None:
    """Spark and Arrow alone: what publish() could reach if Redis cost nothing."""
    key = F.concat_ws("|", *KEY)
    rows = df.select(key, F.to_json(F.struct("*")), F.crc32(key))
    rows.mapInArrow(lambda batches: (batch for batch in batches if False), "none long").collect()


def with_data_source(df: DataFrame, url: str) -> None:
    options = {"dataset": "bench", "key": ",".join(KEY), "url": url}
    df.write.format("nexus_redis").options(**options).mode("overwrite").save()


def over_an_old_version(df: DataFrame, server: EmbeddedServer) -> None:
    """The steady state: a version that is no longer kept is removed after the flip."""
    publish(df, "bench", key=KEY, endpoint=server.endpoint, keep=0)


def rounds(ways: dict[str, Callable[[], object]], server: EmbeddedServer) -> dict[str, list[float]]:
    client = server.endpoint.client()
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        for name, way in ways.items():
            if name != STEADY:
                client.flushall()
            began = time.perf_counter()
            way()
            rows = ROWS // _FEW if name == BRIEF else ROWS
            if number:  # The first round warms up JVM and workers.
                speeds[name].append(rows / (time.perf_counter() - began))
    return speeds


def measure() -> None:
    """Publish and its rivals."""
    spark = session()
    spark.dataSource.register(NexusRedisDataSource)
    df = frame(spark, ROWS)
    kept: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory, EmbeddedServer() as server:
        client, file = server.endpoint.client(), Path(directory, "rows.resp")
        for layout in ("packed", "json"):
            client.flushall()
            empty = client.info("memory")["used_memory"]
            publish(df, "bench", key=KEY, endpoint=server.endpoint, layout=layout)
            kept[layout] = (client.info("memory")["used_memory"] - empty) / ROWS
        ready_made_file(server, file)

        def by(**options: object) -> Callable[[], object]:
            return lambda: publish(df, "bench", key=KEY, endpoint=server.endpoint, **options)

        ways: dict[str, Callable[[], object]] = {
            "publish()": by(),
            PACKED: by(layout="packed"),
            "publish(ttl=3600): each row expires": by(ttl=3600),
            STEADY: lambda: over_an_old_version(df, server),
            'format("nexus_redis")': lambda: with_data_source(df, server.url),
            "foreachPartition, pipeline of 1,000": lambda: with_pipeline(df, server.url),
            "the same, json.dumps per row": lambda: with_json_pipeline(df, server.url),
            BRIEF: lambda: by_pandas(df, server.url),
            "redis-cli --pipe, ready-made file": lambda: with_redis_cli(file, server),
            "Spark into nothing": lambda: into_nothing(df, server.url),
        }
        print(conditions(client, "redis", "pyspark", "pyarrow"))
        speeds = rounds(ways, server)
    spark.stop()
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    heading(f"Publishing {ROWS:,} rows of 5 columns")
    print(
        f"Medians of {ROUNDS} rounds. Bytes a row kept: {kept['json']:.0f} json, "
        f"{kept['packed']:.0f} packed ({kept['packed'] / kept['json']:.2f}).\n"
    )
    table(
        " | rows/s | least | most | publish() to it | packed to it",
        [
            [
                name,
                f"{medians[name]:,.0f}",
                f"{min(found):,.0f}",
                f"{max(found):,.0f}",
                f"{medians['publish()'] / medians[name]:.2f}",
                f"{medians[PACKED] / medians[name]:.2f}",
            ]
            for name, found in speeds.items()
        ],
    )


def main() -> None:
    """All benchmarks of Gold datasets."""
    measure()
    deltas.measure(ROWS)
    reading.measure(ROWS)
    growth.measure(ROWS)


if __name__ == "__main__":
    main()
