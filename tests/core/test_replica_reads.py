"""Reads that may be stale go to replicas where that is asked for, and all else to the primary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import AccessDeniedError, ConfigurationError, UnreachableError
from nexus_redis_provider.core.gold.readers import AsyncGoldDataset, GoldDataset
from nexus_redis_provider.core.gold.tables import publish_table
from nexus_redis_provider.embedded import EmbeddedServer
from tests.servers import as_user
from tests.topologies import ClusterDeployment, SentinelDeployment, crash, until


@pytest.fixture(scope="module")
def watched() -> Iterator[SentinelDeployment]:
    with SentinelDeployment(replicas=2) as deployment:
        yield deployment


def reads(server: EmbeddedServer) -> int:
    with server.endpoint.client() as client:
        return int(client.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"])


def knows_replica(server: EmbeddedServer) -> bool:
    with server.endpoint.client() as client:
        _, _, _, *replicas = client.execute_command("CLUSTER", "SLOTS")[0]
        return bool(replicas)


def stale(endpoint: Endpoint) -> Endpoint:
    return replace(endpoint, read_from="replica")


async def test_reads_of_a_replica(watched: SentinelDeployment) -> None:
    endpoint = stale(watched.endpoint)
    with endpoint.client() as writer:
        assert writer.info("server")["tcp_port"] == watched.primary.port
        writer.set("a", "b")
        writer.wait(2, 5000)
    ports = {server.port for server in watched.servers} - {watched.primary.port}
    with endpoint.read_client() as client:
        assert client.info("server")["tcp_port"] in ports
        assert client.get("a") == b"b"
    async with endpoint.async_read_client() as async_client:
        assert (await async_client.info("server"))["tcp_port"] in ports
        assert await async_client.get("a") == b"b"


def test_only_where_that_is_asked_for(watched: SentinelDeployment) -> None:
    with watched.endpoint.read_client() as client:
        assert client.info("server")["tcp_port"] == watched.primary.port


def test_a_replica_takes_no_writes(watched: SentinelDeployment) -> None:
    with (
        replace(stale(watched.endpoint), retries=0).read_client() as client,
        pytest.raises(redis.exceptions.ConnectionError, match="read only replica"),
    ):
        client.set("a", "c")


async def test_gold_is_read_from_a_replica(watched: SentinelDeployment) -> None:
    table = pa.table({"shop": [str(number) for number in range(100)], "n": range(100)})
    manifest = publish_table(table, "sales", key="shop", endpoint=watched.endpoint)
    with watched.endpoint.client() as writer:
        writer.wait(2, 5000)
    endpoint = stale(watched.endpoint)
    with endpoint.read_client() as client:
        dataset = GoldDataset(client, "sales")
        assert dataset.verify() == manifest
        assert dataset.get("7") == {"shop": "7", "n": 7}
    async with endpoint.async_read_client() as async_client:
        assert await AsyncGoldDataset(async_client, "sales").get("8") == {"shop": "8", "n": 8}


async def test_without_a_replica_the_primary_is_read() -> None:
    with SentinelDeployment(replicas=1) as deployment:
        endpoint = stale(deployment.endpoint)
        (replica,) = set(deployment.servers) - {deployment.primary}
        primary = deployment.primary.port
        crash(replica)

        def port() -> int:
            try:
                with endpoint.read_client() as client:
                    return int(client.info("server")["tcp_port"])
            except redis.exceptions.ConnectionError:
                return 0

        until(lambda: port() == primary, "Sentinels that notice")
        async with endpoint.async_read_client() as client:
            assert (await client.info("server"))["tcp_port"] == primary


async def test_replicas_of_a_cluster() -> None:
    with ClusterDeployment(primaries=1, with_replicas=True) as deployment:
        primary, replica = deployment.servers
        endpoint = stale(deployment.endpoint)
        with endpoint.client() as client:
            client.set("a", "b")
            assert client.get("a") == b"b"
        assert (reads(primary), reads(replica)) == (1, 0)
        # Before it has replicated something, nobody tells of it.
        until(lambda: all(map(knows_replica, deployment.servers)), "a replica that is known")
        with endpoint.read_client() as client:
            assert client.get("a") == b"b"
        assert (reads(primary), reads(replica)) == (1, 1)
        async with endpoint.async_read_client() as async_client:
            # redis-py sends the command that makes it look for the nodes to a primary.
            await async_client.initialize()
            assert await async_client.get("a") == b"b"
        assert (reads(primary), reads(replica)) == (1, 2)


async def test_who_may_not_read_from_replicas_is_told_so() -> None:
    with ClusterDeployment() as deployment:
        for server in deployment.servers:
            with server.endpoint.client() as client:
                commands = ["+@all", "-readonly"]
                client.acl_setuser(
                    "narrow", enabled=True, nopass=True, commands=commands, keys=["*"]
                )
        endpoint = as_user(stale(deployment.endpoint), "narrow", "any")
        with pytest.raises(AccessDeniedError, match="'readonly'"):
            endpoint.read_client().get("a")
        async with endpoint.async_read_client() as client:
            with pytest.raises(AccessDeniedError, match="'readonly'"):
                await client.get("a")


def test_a_single_server_knows_no_replicas() -> None:
    with pytest.raises(ConfigurationError, match="needs Sentinels or a Cluster"):
        Endpoint(read_from="replica")
    with pytest.raises(ConfigurationError, match="must be primary or replica, not 'slave'"):
        Endpoint(read_from="slave")  # type: ignore[arg-type]


def test_no_sentinel_answers() -> None:
    endpoint = Endpoint.from_url(
        "redis+sentinel://127.0.0.1:1?master=m&read_from=replica&retries=0"
    )
    with (
        endpoint.read_client() as client,
        pytest.raises(UnreachableError, match="no Sentinel answers"),
    ):
        GoldDataset(client, "sales").manifest()
