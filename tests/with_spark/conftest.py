"""One Spark session for all, with retries as on a cluster; one server of each test run."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator

import pytest
import redis

pytest.importorskip("pyspark")

from pyspark.sql import SparkSession

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.spark import NexusRedisDataSource
from tests.conftest import PERMANENT
from tests.guarded import in_role
from tests.servers import Server

PASSWORD_VARIABLE = "NEXUS_TEST_PASSWORD"
PASSWORD = "s3cret-that-nobody-must-see"
# Of JVMs that live for seconds: they compile once, and quickly.
SHORT_LIVED = {"JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ[PASSWORD_VARIABLE] = PASSWORD  # Executors have the environment of the JVM.
    session = (
        # Two tasks at a time, four attempts at each.
        SparkSession.builder.master("local[2,4]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.session.timeZone", "America/New_York")
        .config("spark.executorEnv.PYTHONPATH", os.getcwd())  # noqa: PTH109
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("OFF")
    # It says goodbye at exit, when pytest has closed the log already.
    logging.getLogger("py4j").setLevel(logging.WARNING)
    session.dataSource.register(NexusRedisDataSource)
    yield session
    session.stop()


@pytest.fixture
def endpoint(server: Server) -> Endpoint:
    """As the jobs have it that publish: with the rights of their role."""
    return in_role(server.endpoint, "spark")


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    with server.endpoint.client() as client:
        yield client


@pytest.fixture
def permanent() -> list[str]:
    return [*PERMANENT, "*:gold:sales:*"]


@pytest.fixture
def rows(client: redis.Redis, namespace: str) -> GoldDataset:
    return GoldDataset(client, "sales", namespace=namespace)


@pytest.fixture
def snapshot(client: redis.Redis, namespace: str):
    """All keys of the namespace with their values and expiry, but for what a lease moves."""

    def take() -> dict[bytes, object]:
        names = sorted(client.scan_iter(f"{namespace}*", count=1000))
        found = {name: (client.dump(name), client.pexpiretime(name)) for name in names}
        # Minting a version leaves a mark there, which no reader looks at.
        head = f"{namespace}:gold:{{sales}}:head".encode()
        if head in found:
            found[head] = {k: v for k, v in client.hgetall(head).items() if k != b"minted_ms"}
        return {name: value for name, value in found.items() if value != {}}

    return take
