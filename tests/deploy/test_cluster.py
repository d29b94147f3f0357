"""The profile `cluster`: six nodes find together, and our roles suffice there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.gold.tables import publish_table
from nexus_redis_provider.core.tags import stamp
from tests.core.test_lock_rights import use_everything
from tests.deploy.deployments import SLOW, Cluster, low_port
from tests.deploy.jobs import CHANGED, ROWS, back_up, read_from_replicas
from tests.deploy.programs import DEPLOY
from tests.deploy.services import Service
from tests.deploy.test_compose import SERVICES
from tests.deploy.test_high_availability import role_of
from tests.deploy.test_restoring import VALUES, read, write
from tests.deploy.test_users import DONE_WITHOUT, OF_A_CLUSTER
from tests.topologies import until


def test_nodes_are_joined_once(cluster: Cluster) -> None:
    assert cluster.join() == ["The Cluster is complete.\n"]
    assert cluster.is_up()
    until(lambda: cluster.shards() == [2, 2, 2], "a replica of each primary")


def test_roles_suffice(cluster: Cluster) -> None:
    until(cluster.is_up, "nodes that all see the Cluster up")
    for node in cluster.nodes:
        with node.client() as client:
            client.acl_log_reset()
            client.config_resetstat()
    use_everything(cluster.endpoint("airflow"))
    for layout in ("json", "packed"):
        for table in (ROWS, CHANGED):
            publish_table(
                table, layout, key="id", layout=layout, endpoint=cluster.endpoint("spark")
            )
        with cluster.endpoint("api").client() as client:
            assert len(list(GoldDataset(client, layout).scan())) == 3
            assert stamp(client, ["a", "b", "c", "d"])
    for role in ("api", "airflow"):
        read_from_replicas(cluster.endpoint(role))
    back_up(cluster.endpoint("backup"))
    used, refused = set(), set()
    for node in cluster.nodes:
        with node.client() as client:
            refused |= {entry["object"] for entry in client.acl_log()}
            used |= {name.removeprefix("cmdstat_") for name in client.info("commandstats")}
    assert refused == DONE_WITHOUT["spark"] | DONE_WITHOUT["backup"]
    # Who meets a slot on its way to another node says ASKING; none is here.
    assert OF_A_CLUSTER - {"asking"} <= used


def test_nodes_that_all_have_other_addresses_find_together_again(cluster: Cluster) -> None:
    """As containers have them that were made anew."""
    until(cluster.is_up, "nodes that all see the Cluster up")
    for node in cluster.nodes:
        node.stop()
    for node in cluster.nodes:
        # Whoever joins them shows a certificate then.
        node.port, node.tls = low_port(), "mutual"
        node.start()
    # They take a while to miss each other.
    until(lambda: not cluster.is_up(), "nodes that cannot find each other")
    cluster.join()
    assert cluster.is_up()


def test_none_is_made_of_a_part_of_the_nodes(secrets: Path, binaries: None, tmp_path: Path) -> None:
    parts = ("state", "cluster")
    with Service(parts, secrets, tmp_path / "data", tls="yes", port=low_port()) as node:
        absent = Service(parts, secrets, tmp_path / "absent", port=low_port())
        ran = Cluster(secrets, tmp_path, [node, absent]).step()
        assert ran.returncode == 1
        assert f"do not answer: 127.0.0.1:{absent.port}\n" in ran.stderr
        with node.client() as client:
            assert client.execute_command("CLUSTER INFO")["cluster_slots_assigned"] == "0"


def test_the_service_is_healthy_while_the_cluster_is_complete(
    cluster: Cluster, tmp_path: Path
) -> None:
    """What docker-compose.yml has it run, but for places and the interval."""
    service = SERVICES["cluster-slots"]
    places = {"/etc/redis": f"{DEPLOY}/redis", "/tmp/joined": str(tmp_path / "joined")}

    def here(words: list[str]) -> list[str]:
        for there, local in (*places.items(), ("sleep 10", "sleep 1"), ("$$", "$")):
            words = [word.replace(there, local) for word in words]
        return words

    def healthy() -> bool:
        return subprocess.run(here(service["healthcheck"]["test"])[1:], check=False).returncode == 0

    shell = here([word for word in service["command"] if not word.startswith("node-")])
    addresses = [f"127.0.0.1:{node.port}" for node in cluster.nodes]
    with subprocess.Popen(
        [*shell, *addresses],
        env=cluster.nodes[0].environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            until(healthy, "a Cluster that is complete", SLOW)
            node = with_role(cluster, "slave")
            node.stop()
            until(lambda: not healthy(), "a node that is missed", SLOW)
            node.start()
            until(healthy, "a Cluster that is complete again", SLOW)
        finally:
            process.terminate()


def with_role(cluster: Cluster, role: str) -> Service:
    """One of them, which is then the first that the script asks."""
    node = next(node for node in cluster.nodes if role_of(node) == role)
    cluster.nodes.sort(key=lambda other: other is not node)
    return node


def lose(*nodes: Service) -> None:
    for node in nodes:
        node.kill()
        shutil.rmtree(node.data)
        node.data.mkdir()


def fill(cluster: Cluster) -> None:
    """Write, and have replicas hold what was written."""
    write(cluster.endpoint("admin"), VALUES)

    def keys(role: str) -> int:
        total = 0
        for node in cluster.nodes:
            with node.client() as client:
                total += client.dbsize() if role_of(node) == role else 0
        return total

    until(lambda: keys("slave") == keys("master"), "replicas that have all", SLOW)


def assert_follows(cluster: Cluster, lost: Service) -> None:
    """One that came back empty becomes a replica, and the Cluster has all that it had."""
    cluster.join()
    assert role_of(lost) == "slave"
    until(lambda: cluster.shards() == [2, 2, 2], "a replica of each primary")
    assert read(cluster.endpoint("admin")) == VALUES
    for node in cluster.nodes:
        with node.client() as client:
            # None of an id that is gone.
            assert len(client.execute_command("CLUSTER NODES")) == 6


@pytest.mark.parametrize("elsewhere", [False, True], ids=["at once", "later, elsewhere"])
def test_a_primary_that_comes_back_empty_becomes_a_replica(
    cluster: Cluster, elsewhere: bool
) -> None:
    fill(cluster)
    lost = with_role(cluster, "master")
    lose(lost)
    if elsewhere:
        others = cluster.nodes[1:]

        def roles() -> list[str]:
            return [role_of(node) for node in others]

        until(lambda: roles().count("master") == 3, "a replica that has taken over", SLOW)
        lost.port = low_port()
    lost.start()
    with lost.client() as client:
        # Else its replica copies what it has after five seconds, which a busy machine may take.
        client.config_set("repl-diskless-sync-delay", 600)
    assert_follows(cluster, lost)


def test_a_primary_that_comes_back_empty_while_all_have_other_addresses(cluster: Cluster) -> None:
    """Its replica has the data, but not from this start: it would not stand for election."""
    fill(cluster)
    lost = with_role(cluster, "master")
    lose(lost)
    for node in cluster.nodes[1:]:
        node.stop()
    for node in cluster.nodes:
        node.port = low_port()
        node.start()
    assert_follows(cluster, lost)


def test_a_replica_that_comes_back_empty_becomes_one_again(cluster: Cluster) -> None:
    fill(cluster)
    lost = with_role(cluster, "slave")
    lose(lost)
    lost.start()
    assert_follows(cluster, lost)


def test_slots_of_a_shard_that_lost_all_are_named(cluster: Cluster) -> None:
    """It comes last: the Cluster stays broken."""
    fill(cluster)
    primary = with_role(cluster, "master")
    with primary.client() as client:
        its_id = client.execute_command("CLUSTER MYID")
        (slots,) = client.execute_command("CLUSTER NODES")[f"127.0.0.1:{primary.port}"]["slots"]
    replica = next(node for node in cluster.nodes if primary_of(node) == its_id)

    def assert_are_named() -> None:
        until(
            lambda: f"No node serves slots: {'-'.join(slots)}. " in cluster.step().stderr,
            "slots that are named",
            SLOW,
        )
        ran = cluster.step()
        assert ran.returncode == 1
        assert "restore a backup (docs/backup.md)" in ran.stderr

    lose(primary)
    primary.start()
    with primary.client() as client, replica.client() as copy:
        client.config_set("repl-diskless-sync-delay", 0)
        until(lambda: copy.dbsize() == 0, "a replica that has copied that nothing is there", SLOW)
    assert_are_named()
    assert role_of(replica) == "slave"
    lose(replica)
    replica.start()
    assert_are_named()
    assert role_of(primary) == role_of(replica) == "master"


def primary_of(node: Service) -> str:
    with node.client() as client:
        nodes = client.execute_command("CLUSTER NODES").values()
    return next(one["master_id"] for one in nodes if "myself" in one["flags"])
