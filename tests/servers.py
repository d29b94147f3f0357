"""The server, or the servers, that the shared fixtures start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import redis

from nexus_redis_provider.core.clusters import primaries_of
from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.embedded import EmbeddedServer
from tests.guarded import own_server
from tests.kinds import KIND
from tests.topologies import MASTER, ClusterDeployment, SentinelDeployment

Server = EmbeddedServer | SentinelDeployment | ClusterDeployment


def shared_server(binary: Path | None = None) -> Server:
    """What a fixture starts: a server, or servers, of the kind that NEXUS_TEST_SERVER names."""
    match KIND:
        case "sentinel":
            # No failover because a machine is busy.
            patient = f"sentinel down-after-milliseconds {MASTER} 60000"
            return SentinelDeployment(replicas=1, binary=binary, sentinel_options=(patient,))
        case "cluster":
            return ClusterDeployment(
                binary=binary, server_options=("--cluster-node-timeout", "60000")
            )
    return own_server(binary=binary)


@contextmanager
def counting(server: Server, *own: redis.Redis) -> Iterator[Callable[[], int]]:
    """Tells how many clients a server has beside those that it has now, or all of a deployment.

    Replicas and Sentinels are not counted, nor are the test's own clients.
    """
    for client in own:
        for primary in primaries_of(client):
            primary.client.ping()  # It is connected by now.
    with ExitStack() as stack:
        watchers = [
            stack.enter_context(one.endpoint.client(single_connection_client=True))
            for one in ([server] if isinstance(server, EmbeddedServer) else server.all_servers)
        ]

        def clients() -> set[tuple[int, str]]:
            return {
                (number, client["id"])
                for number, watcher in enumerate(watchers)
                for client in watcher.client_list()
                if _is_client(client)
            }

        known = clients()
        yield lambda: len(clients() - known)


def _is_client(found: Mapping[str, str]) -> bool:
    is_replica = not {"S", "M"}.isdisjoint(found["flags"])
    return not is_replica and not found["name"].startswith("sentinel-")


def calls_of(client: redis.Redis, *commands: str) -> int:
    """How often these commands were done, by all servers that have keys, for whomever."""
    stats = [primary.client.info("commandstats") for primary in primaries_of(client)]
    names = [f"cmdstat_{command}" for command in commands]
    return sum(found[name]["calls"] for found in stats for name in names if name in found)


def scripts_run(client: redis.Redis) -> int:
    """How many scripts were run."""
    return calls_of(client, "eval", "evalsha")


def as_user(endpoint: Endpoint, name: str, password: str) -> Endpoint:
    """The same server for somebody else."""
    secret = Secret(SecretSource.LITERAL, password)
    return replace(endpoint, username=name, password=secret)
