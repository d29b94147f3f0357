"""The profile `cluster`: six nodes find together, and our roles suffice there."""

from __future__ import annotations

from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.gold.tables import publish_table
from nexus_redis_provider.core.tags import stamp
from tests.core.test_lock_rights import use_everything
from tests.deploy.deployments import Cluster, low_port
from tests.deploy.jobs import CHANGED, ROWS, back_up, read_from_replicas
from tests.deploy.test_users import DONE_WITHOUT, OF_A_CLUSTER
from tests.topologies import until


def test_nodes_are_joined_once(cluster: Cluster) -> None:
    assert "already" in cluster.join()
    until(cluster.is_up, "nodes that all see the Cluster up")
    with cluster.nodes[0].client() as client:

        def sizes() -> list[int]:
            return [len(shard["nodes"]) for shard in client.execute_command("CLUSTER SHARDS")]

        until(lambda: sizes() == [2, 2, 2], "a replica of each primary")


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
    until(cluster.is_up, "nodes that all see the Cluster up again")
