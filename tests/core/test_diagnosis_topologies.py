"""What is wrong with Sentinels and Clusters, and which of their servers it is about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nexus_redis_provider.core.endpoint import Node, Topology
from nexus_redis_provider.core.faults import Fault
from nexus_redis_provider.embedded import EmbeddedServer
from tests.core.diagnoses import PASSWORD, assert_fault, found
from tests.guarded import own_server
from tests.kinds import single_server
from tests.servers import as_user
from tests.topologies import (
    MASTER,
    ClusterDeployment,
    SentinelDeployment,
    crash,
    kill,
    until,
    watched_by,
)


@single_server
def test_one_kind_of_deployment_in_place_of_another(server: EmbeddedServer) -> None:
    itself = server.endpoint
    address = itself.nodes[0]
    assert_fault(found(itself, topology=Topology.CLUSTER), Fault.NO_CLUSTER, address)
    watched = {
        "master": "m",
        "sentinel_username": itself.username,
        "sentinel_password": itself.password,
    }
    assert_fault(found(itself, topology=Topology.SENTINEL, **watched), Fault.NO_SENTINEL, address)


def test_sentinels() -> None:
    with SentinelDeployment(replicas=1) as deployment:
        diagnosis = found(deployment.url)
        assert diagnosis.fault is None, diagnosis.message
        assert diagnosis.message.startswith(f"Primary of '{MASTER}', 3 of 3 Sentinels answer: ")
        assert diagnosis.report.address == f"127.0.0.1:{deployment.primary.port}"
        assert diagnosis.report.replicas == 1
        one = deployment.sentinels[0]
        assert_fault(found(one.url), Fault.A_SENTINEL, one.port)
        in_a_cluster = replace(one.endpoint, topology=Topology.CLUSTER)
        assert_fault(found(in_a_cluster), Fault.A_SENTINEL, one.port)
        assert_fault(
            found(deployment.endpoint, master="orders"),
            Fault.UNKNOWN_MASTER,
            "'orders'",
            f"they watch {MASTER}",
        )
        crash(one)
        (note,) = found(deployment.url).notes
        assert note.startswith(f"port: nothing listens at Sentinel 127.0.0.1:{one.port}")
        for sentinel in deployment.sentinels[1:]:
            crash(sentinel)
        assert_fault(found(deployment.url), Fault.REFUSED, f"Sentinel 127.0.0.1:{one.port}")


def test_a_primary_that_is_down() -> None:
    with own_server() as primary:
        lines = (
            f"sentinel monitor m 127.0.0.1 {primary.port} 1",
            "sentinel down-after-milliseconds m 200",
        )
        with own_server("--sentinel", config="\n".join(lines)) as sentinel:
            watched = watched_by(sentinel, primary, "m")
            assert found(watched).fault is None
            kill(primary)
            until(lambda: found(watched).fault is Fault.PRIMARY_DOWN, "a Sentinel that notices")
            assert_fault(found(watched), Fault.PRIMARY_DOWN, "'m'")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, Fault.PASSWORD_WANTED),
        ({"sentinel_username": "watcher"}, Fault.WRONG_USER_OR_PASSWORD),
    ],
)
def test_the_password_of_a_sentinel(
    options: dict[str, str], fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRONG", PASSWORD)
    password = "&sentinel_password_env=WRONG" if options else ""
    config = "requirepass right\nsentinel monitor m 127.0.0.1 1 1"
    with EmbeddedServer("--sentinel", config=config) as sentinel:
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}?master=m{password}"
        assert_fault(found(url, **options), fault, f"Sentinel 127.0.0.1:{sentinel.port}")


@pytest.mark.parametrize("protocol", [2, 3])
def test_what_it_is_a_sentinel_tells_users_who_see_little(protocol: int, binary: Path) -> None:
    config = "user quiet on nopass +ping"
    with EmbeddedServer("--sentinel", config=config, binary=binary) as server:
        url = f"redis://quiet:any@127.0.0.1:{server.port}?protocol={protocol}"
        assert_fault(found(url), Fault.A_SENTINEL, server.port)


def test_a_cluster() -> None:
    with ClusterDeployment() as deployment:
        diagnosis = found(deployment.url)
        assert diagnosis.fault is None, diagnosis.message
        assert diagnosis.message.startswith("Cluster of 3 primaries: ")
        first, *_, last = deployment.servers
        assert_fault(found(first.url), Fault.A_CLUSTER, first.port)
        with first.endpoint.client() as client:
            client.acl_setuser("quiet", enabled=True, nopass=True, commands=["+ping"])
        quiet = as_user(first.endpoint, "quiet", "any")
        assert_fault(found(quiet), Fault.A_CLUSTER, first.port)
        with last.endpoint.client() as client:
            client.config_set("maxmemory", "50mb")
            client.config_set("maxmemory-policy", "allkeys-lru")
        (note,) = found(deployment.url).notes
        assert note.startswith(f"127.0.0.1:{last.port}: It may evict keys beyond 52,428,800 bytes")
        with last.endpoint.client() as client:
            client.config_set("maxmemory", 0)
        nodes = (Node(port=1), last.endpoint.nodes[0])
        (note,) = found(deployment.endpoint, nodes=nodes).notes
        assert note.startswith("port: nothing listens at localhost:1")
        with last.endpoint.client() as client:
            client.cluster("DELSLOTS", 16383)
        assert_fault(
            found(deployment.endpoint, nodes=nodes), Fault.CLUSTER_DOWN, "16383 slots served"
        )


def test_a_cluster_whose_nodes_tell_addresses_of_their_own_network() -> None:
    with ClusterDeployment(primaries=1) as deployment:
        with deployment.servers[0].endpoint.client() as client:
            client.config_set("cluster-announce-ip", "127.0.0.2")
        port = deployment.servers[0].port
        told = f"127.0.0.2:{port}, as the Cluster tells (cluster-announce-ip)"
        assert_fault(found(deployment.url), Fault.REFUSED, told)


def test_a_replica_leads_to_the_primaries_of_its_cluster() -> None:
    with ClusterDeployment(primaries=1, with_replicas=True) as deployment:
        replica = deployment.servers[1]
        diagnosis = found(deployment.endpoint, nodes=replica.endpoint.nodes)
        assert (diagnosis.fault, diagnosis.report.role) == (None, "slave")
        assert diagnosis.notes == ()


def test_sentinels_that_tell_an_address_of_their_own_network() -> None:
    config = "sentinel monitor m 127.0.0.2 1 1\nsentinel down-after-milliseconds m 600000"
    with EmbeddedServer("--sentinel", config=config) as sentinel:
        diagnosis = found(f"redis+sentinel://127.0.0.1:{sentinel.port}?master=m")
        told = "127.0.0.2:1, as the Sentinels tell (replica-announce-ip)"
        assert_fault(diagnosis, Fault.REFUSED, told)
