"""The server, or the servers, that the shared fixtures start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

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
def counting(server: Server) -> Iterator[Callable[[], int]]:
    """Tells how many clients a server has, or all servers of a deployment together.

    Those that count are not counted, nor are replicas and Sentinels.
    """
    with ExitStack() as stack:
        watchers = [
            stack.enter_context(one.endpoint.client(single_connection_client=True))
            for one in ([server] if isinstance(server, EmbeddedServer) else server.all_servers)
        ]

        def count() -> int:
            found = [client for watcher in watchers for client in watcher.client_list()]
            return sum(map(_is_client, found)) - len(watchers)

        yield count


def _is_client(found: Mapping[str, str]) -> bool:
    is_replica = not {"S", "M"}.isdisjoint(found["flags"])
    return not is_replica and not found["name"].startswith("sentinel-")


def as_user(endpoint: Endpoint, name: str, password: str) -> Endpoint:
    """The same server for somebody else."""
    secret = Secret(SecretSource.LITERAL, password)
    return replace(endpoint, username=name, password=secret)
