"""What docs/backup.md says brings the data of a whole deployment back does so."""

from __future__ import annotations

import shutil
from pathlib import Path

from nexus_redis_provider.core.backups.creating import create_backup
from nexus_redis_provider.core.backups.restoring import restore
from nexus_redis_provider.core.endpoint import Endpoint
from tests.deploy.deployments import Cluster, HighAvailability
from tests.deploy.services import Service
from tests.deploy.test_high_availability import role_of
from tests.topologies import until

VALUES = {f"key{number}": str(number) for number in range(300)}


def write(endpoint: Endpoint, values: dict[str, str]) -> None:
    with endpoint.client() as client:
        for key, value in values.items():
            client.set(key, value)


def read(endpoint: Endpoint) -> dict[str, str]:
    with endpoint.client(decode_responses=True) as client:
        found = {key: client.get(key) for key in (*VALUES, "later")}
    return {key: value for key, value in found.items() if value is not None}


def stop(services: list[Service]) -> None:
    for service in services:
        service.stop()


def start(services: list[Service]) -> None:
    for service in services:
        service.start()


def test_servers_that_sentinels_watch(ha: HighAvailability, tmp_path: Path) -> None:
    write(ha.endpoint("admin"), VALUES)
    with ha.endpoint("backup").client() as client:
        backup = create_backup(client, tmp_path / "backups")
    write(ha.endpoint("admin"), {"key0": "changed", "later": "1"})
    # Whom the Sentinels call that, and remember: another one would be told to follow it.
    primary = ha.primary
    replicas = [server for server in ha.servers if server is not primary]
    stop([*ha.sentinels, *replicas, primary])
    restore(backup, primary.data, replace=True)
    start([primary, *replicas, *ha.sentinels])
    until(ha.is_complete, "Sentinels that know each other and the replicas")
    assert ha.primary is primary
    assert read(ha.endpoint("admin")) == VALUES
    for replica in replicas:
        until(lambda server=replica: role_of(server) == "slave", "a replica that follows")
        with replica.client() as client:
            assert client.get("key0") == "0"
            assert not client.exists("later")


def test_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    until(cluster.is_up, "nodes that all see the Cluster up")
    write(cluster.endpoint("admin"), VALUES)
    with cluster.endpoint("backup").client() as client:
        backup = create_backup(client, tmp_path / "backups")
    write(cluster.endpoint("admin"), {"key0": "changed", "later": "1"})
    stop(cluster.nodes)
    primaries, replicas = cluster.nodes[:3], cluster.nodes[3:]
    for part, node in zip(backup.by_server, primaries, strict=True):
        restore(part, node.data, replace=True)
    for node in replicas:
        shutil.rmtree(node.data)
        node.data.mkdir()
    start(cluster.nodes)
    cluster.join()
    until(lambda: cluster.shards() == [2, 2, 2], "a replica of each primary")
    assert {role_of(node) for node in primaries} == {"master"}
    assert read(cluster.endpoint("admin")) == VALUES
