"""Overlapping runs on a real Airflow: scheduler, triggerer, API server, task processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from demo.standalone import Standalone, alive
from nexus_redis_provider.core.locks.protocol import who_holds
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.embedded import EmbeddedServer, find_server
from tests.conftest import need_server

pytestmark = pytest.mark.e2e
DAGS = Path(__file__).parent / "dags"
LONG = 120


@pytest.fixture(scope="module")
def standalone_server() -> Iterator[EmbeddedServer]:
    need_server(find_server)
    with EmbeddedServer() as server:
        yield server


@pytest.fixture(scope="module")
def airflow(standalone_server: EmbeddedServer) -> Iterator[Standalone]:
    where = f"127.0.0.1:{standalone_server.port}/0"
    environment = {
        "AIRFLOW_CONN_NEXUS_REDIS_DEFAULT": f"nexus-redis://{where}",
        "E2E_REDIS_URL": f"redis://{where}",
    }
    with Standalone(DAGS, environment) as airflow:
        yield airflow
        # Even work that is not over does not outlive it.
        airflow.trigger("waiting")
        with redis.Redis.from_url(standalone_server.url, socket_timeout=None) as client:
            started(client)
        processes = airflow.processes()
    assert len(processes) > 6, "the parent, four components, and the task at least"
    assert alive(processes) == []
    assert not airflow.home.exists()


@pytest.fixture
def client(standalone_server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(standalone_server.url, socket_timeout=None) as client:
        client.flushall()
        yield client


def started(client: redis.Redis) -> str:
    """The id of the run whose work started next."""
    found = client.blpop(["started"], LONG)
    assert found, "no work started"
    return found[1].decode()


def let_end(client: redis.Redis, run_id: str, how: str = "well") -> None:
    client.rpush(f"end {run_id}", how)


def events(client: redis.Redis) -> list[tuple[str, str, int]]:
    found = [event.decode().split() for event in client.lrange("events", 0, -1)]
    return [(what, run_id, int(token)) for what, run_id, token in found]


def other_of(runs: list[str], run_id: str) -> str:
    return next(other for other in runs if other != run_id)


def test_overlapping_runs_work_one_after_the_other(airflow: Standalone, client: redis.Redis):
    runs = [airflow.trigger("waiting"), airflow.trigger("waiting")]
    first = started(client)
    second = other_of(runs, first)

    # The other one waits where it takes no worker, and does not start to work.
    airflow.wait(lambda: airflow.tasks("waiting")[second, "lock"] == "deferred", LONG)
    assert airflow.tasks("waiting")[second, "work"] is None
    assert airflow.runs("waiting") == {first: "running", second: "running"}
    holder = run(client, who_holds("dag:waiting"))
    assert holder
    assert holder.owner.endswith(first)

    let_end(client, first)
    assert started(client) == second
    let_end(client, second)
    airflow.wait(lambda: set(airflow.runs("waiting").values()) == {"success"}, LONG)

    told = events(client)
    assert [(what, run_id) for what, run_id, _ in told] == [
        ("start", first),
        ("end", first),
        ("start", second),
        ("end", second),
    ]
    assert told[0][2] == told[1][2] == holder.token < told[2][2] == told[3][2]
    assert run(client, who_holds("dag:waiting")) is None


def test_a_run_is_skipped_while_another_one_works(airflow: Standalone, client: redis.Redis):
    runs = [airflow.trigger("skipping"), airflow.trigger("skipping")]
    working = started(client)
    skipped = other_of(runs, working)

    airflow.wait(lambda: airflow.runs("skipping")[skipped] == "success", LONG)
    assert airflow.tasks("skipping")[skipped, "work"] == "skipped"
    # The skipped run is over, its teardown included, and the lock is still with the other one.
    holder = run(client, who_holds("dag:skipping"))
    assert holder
    assert holder.owner.endswith(working)

    let_end(client, working)
    airflow.wait(lambda: airflow.runs("skipping")[working] == "success", LONG)
    assert [(what, run_id) for what, run_id, _ in events(client)] == [
        ("start", working),
        ("end", working),
    ]


def test_work_that_fails_gives_the_lock_to_the_next_run(airflow: Standalone, client: redis.Redis):
    failing = airflow.trigger("skipping")
    assert started(client) == failing
    let_end(client, failing, "badly")
    airflow.wait(lambda: airflow.runs("skipping")[failing] == "failed", LONG)
    assert run(client, who_holds("dag:skipping")) is None

    following = airflow.trigger("skipping")
    assert started(client) == following
    let_end(client, following)
    airflow.wait(lambda: airflow.runs("skipping")[following] == "success", LONG)
