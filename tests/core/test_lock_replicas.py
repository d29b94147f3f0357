"""A lock that waits until its replicas have it."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    NotReplicatedError,
)
from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks import Lock
from nexus_redis_provider.core.locks.protocol import who_holds
from nexus_redis_provider.core.scripts import run
from tests.core.lock_calls import holding
from tests.guarded import own_server


async def test_a_lock_waits_for_its_replicas(kind: str, namespace: str, wait_until: Any) -> None:
    with own_server() as primary:
        options = {"namespace": namespace, "replicas": 1}
        with pytest.raises(NotReplicatedError, match="confirmed by 0 of 1 replica"):
            async with holding(kind, primary.endpoint, "a", replica_timeout=0.1, **options):
                pytest.fail("a lock without its replica")
        with primary.endpoint.client() as client:
            assert run(client, who_holds("a", namespace=namespace)) is None
            with own_server("--replicaof", f"127.0.0.1 {primary.port}") as replica:
                wait_until(lambda: client.info("replication")["connected_slaves"] == 1)
                wait_until(
                    lambda: client.info("replication").get("slave0", {}).get("state") == "online"
                )
                async with holding(
                    kind, primary.endpoint, "a", replica_timeout=4, **options
                ) as lock:
                    with replica.endpoint.client() as reader:
                        field = reader.hget(LockKeys("a", namespace).lock, lock.owner)
                    assert field.startswith(str(lock.token).encode())


@pytest.mark.parametrize("replicas", [-1, 1.5, True, "1", None])
def test_replicas_are_a_whole_number(endpoint: Endpoint, replicas: Any) -> None:
    """The server takes -1, and waits for none."""
    with pytest.raises(ConfigurationError, match=r"Lock 'a': replicas must be a whole number"):
        Lock(endpoint, "a", replicas=replicas)


def test_a_replica_timeout_fits_into_the_clients(endpoint: Endpoint) -> None:
    with pytest.raises(ConfigurationError, match="replica_timeout must be less than"):
        Lock(endpoint, "a", replicas=1, replica_timeout=5)
