"""Faults of a Cluster of three primaries with a replica each."""

from __future__ import annotations

import time
from functools import partial

from nexus_redis_provider.core.keys import GoldKeys, LockKeys
from nexus_redis_provider.embedded import EmbeddedServer
from tests.chaos.callers import DATASET, LOCK, TAG
from tests.chaos.faults import Fault
from tests.topologies import ClusterDeployment, crash, replication, until

# Of writes, of the dataset itself, and of the lock.
_KEYS = (TAG, GoldKeys(DATASET).head, LockKeys(LOCK).lock)


def kill_node(deployment: ClusterDeployment, seconds: float) -> None:
    """The primary that has the plain writes is gone at once, and comes back as a replica."""
    victim = deployment.server_of(TAG)
    crash(victim)
    deployment.fail_over(victim)
    # Else nobody is left to confirm what its successor writes.
    victim.start()


def hand_over(deployment: ClusterDeployment, seconds: float) -> None:
    """A failover that is asked for, by CLUSTER FAILOVER."""
    primary = deployment.server_of(TAG)
    with _replica_of(deployment, primary).endpoint.client() as replica:
        replica.cluster("FAILOVER")
    until(lambda: deployment.server_of(TAG) is not primary, "a replica that takes over")


def move_slots(deployment: ClusterDeployment, seconds: float) -> None:
    """Slots move from node to node, and on, with all their keys."""
    with deployment.moving_on(_KEYS) as moved:
        time.sleep(seconds)
        until(lambda: moved() > 2 * len(_KEYS), "slots that move")


def lose_shard(deployment: ClusterDeployment, seconds: float) -> None:
    """The primary that has the plain writes is killed with its replica; both come back."""
    primary = deployment.server_of(TAG)
    shard = (primary, _replica_of(deployment, primary))
    for server in shard:
        crash(server)
    time.sleep(seconds)
    for server in shard:
        server.start()


CLUSTER_FAULTS = (
    Fault("node SIGKILL", kill_node, partial(ClusterDeployment, with_replicas=True)),
    Fault("CLUSTER FAILOVER", hand_over, partial(ClusterDeployment, with_replicas=True)),
    Fault("slots move, {}", move_slots, partial(ClusterDeployment, with_replicas=True), 10),
    Fault(
        "all nodes of a shard SIGKILL, back after {}",
        lose_shard,
        partial(ClusterDeployment, with_replicas=True, server_options=("--appendonly", "yes")),
        10,
    ),
)


def _replica_of(deployment: ClusterDeployment, primary: EmbeddedServer) -> EmbeddedServer:
    return next(
        server
        for server in deployment.servers
        if replication(server).get("master_port") == primary.port
    )
