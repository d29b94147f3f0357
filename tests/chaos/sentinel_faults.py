"""Faults of a deployment with Sentinels, under a load of callers of all kinds."""

from __future__ import annotations

import contextlib
import time
from functools import partial

import redis

from nexus_redis_provider.embedded import EmbeddedServer
from tests.chaos.faults import Fault
from tests.topologies import (
    MASTER,
    DivisibleDeployment,
    SentinelDeployment,
    crash,
    replication,
    stopped,
    until,
)


def kill_primary(deployment: SentinelDeployment, seconds: float) -> None:
    """The primary is gone at once, for ever."""
    crash(deployment.primary)


def stop_primary(deployment: SentinelDeployment, seconds: float) -> None:
    """The primary stands still, and goes on as the primary that it was."""
    primary = deployment.primary
    with stopped(primary):
        time.sleep(seconds)
    _follows(primary)


def part_primary(deployment: DivisibleDeployment, seconds: float) -> None:
    """Nothing passes between the primary, with who is beside it, and all others."""
    primary = deployment.primary
    deployment.proxies[primary].silence()
    time.sleep(seconds)
    deployment.proxies[primary].heal()
    _follows(primary)


def lose_quorum(deployment: SentinelDeployment, seconds: float) -> None:
    """Two Sentinels of three are killed, and the primary; the Sentinels come back."""
    dead = deployment.sentinels[:2]
    primary = deployment.primary
    for sentinel in dead:
        crash(sentinel)
    crash(primary)
    time.sleep(seconds)
    for sentinel in dead:
        sentinel.start()


def let_lag(deployment: DivisibleDeployment, seconds: float) -> None:
    """Nothing passes between the primary and its replicas."""
    proxy = deployment.proxies[deployment.primary]
    proxy.silence(to=b"PSYNC")
    time.sleep(seconds)
    proxy.heal()


def let_lag_and_kill(deployment: DivisibleDeployment, seconds: float) -> None:
    """The same, and the primary is killed before they have caught up."""
    primary = deployment.primary
    deployment.proxies[primary].silence(to=b"PSYNC")
    time.sleep(seconds)
    crash(primary)
    _is_replaced(deployment, primary)
    deployment.proxies[primary].heal()


def restart_all(deployment: SentinelDeployment, seconds: float) -> None:
    """One after the other, by SIGTERM, the primary at last."""
    primary = deployment.primary
    for server in deployment.servers:
        if server is not primary:
            server.stop()
            server.start()
            until(lambda server=server: replication(server)["master_link_status"] == "up", "it")
    primary.stop()
    # Before that, it would come back as a primary, without any data.
    _is_replaced(deployment, primary)
    primary.start()
    _follows(primary)


def hand_over(deployment: SentinelDeployment, seconds: float) -> None:
    """A failover that is asked for, by SENTINEL FAILOVER."""
    primary = deployment.primary
    with deployment.sentinels[0].endpoint.client() as sentinel:
        sentinel.sentinel_failover(MASTER)
    _is_replaced(deployment, primary)
    _follows(primary)


_CAREFUL = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")

SENTINEL_FAULTS = (
    Fault("primary SIGKILL", kill_primary, SentinelDeployment),
    Fault("primary SIGSTOP, {}", stop_primary, SentinelDeployment, 20),
    Fault("primary parted from the rest, {}", part_primary, DivisibleDeployment, 20, beside=True),
    Fault(
        "the same, `min-replicas-to-write 1`",
        part_primary,
        partial(DivisibleDeployment, server_options=_CAREFUL),
        20,
        beside=True,
    ),
    Fault("two Sentinels and the primary SIGKILL, {}", lose_quorum, SentinelDeployment, 10),
    Fault("replicas lag, {}", let_lag, DivisibleDeployment, 10),
    Fault("replicas lag, {}, then primary SIGKILL", let_lag_and_kill, DivisibleDeployment, 5),
    Fault("rolling restart, SIGTERM", restart_all, SentinelDeployment),
    Fault("SENTINEL FAILOVER", hand_over, SentinelDeployment),
    Fault(
        "the same, `min-replicas-to-write 1`",
        hand_over,
        partial(SentinelDeployment, server_options=_CAREFUL),
    ),
)


def _is_replaced(deployment: SentinelDeployment, old: EmbeddedServer) -> None:
    until(lambda: deployment.agreed() not in (None, deployment.port_of(old)), "a new primary")


def _follows(old: EmbeddedServer) -> None:
    """Return when a former primary has been told; Sentinels take ten seconds for that."""

    def is_told() -> bool:
        # Whoever is told closes the connections of its clients.
        with contextlib.suppress(redis.exceptions.ConnectionError):
            return bool(replication(old)["role"] == "slave")
        return False

    until(is_told, "a primary that is told", 60)
