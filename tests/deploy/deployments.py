"""The servers of the profiles `ha` and `cluster`, on this machine."""

from __future__ import annotations

import socket
import subprocess
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.endpoint import Endpoint, Topology
from nexus_redis_provider.embedded import free_port
from tests.deploy.programs import DEPLOY
from tests.deploy.services import Service
from tests.topologies import DOWN_AFTER_MS, until

MASTER = "state"
# What takes some looks at six nodes may take so long, in seconds, on a machine that is busy.
SLOW = 300


@dataclass
class HighAvailability:
    """One primary, two replicas, three Sentinels; connections are encrypted."""

    secrets: Path
    folder: Path
    servers: list[Service] = field(default_factory=list)
    sentinels: list[Service] = field(default_factory=list)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            primary = None
            for number in range(3):
                name = f"redis-{number + 1}"
                server = self._service(name, ("state", "replicated"), primary)
                self.servers.append(stack.enter_context(server))
                primary = primary or server
            for number in range(3):
                sentinel = self._service(f"sentinel-{number + 1}", ("sentinel",), primary)
                self.sentinels.append(stack.enter_context(sentinel))
            for sentinel in self.sentinels:
                with sentinel.client() as client:
                    # Of deploy/redis/sentinel.conf: for the test's sake as short as may be.
                    client.execute_command(
                        "SENTINEL", "SET", MASTER, "down-after-milliseconds", DOWN_AFTER_MS
                    )
            until(self.is_complete, "Sentinels that know each other and the replicas")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _service(self, name: str, parts: tuple[str, ...], primary: Service | None) -> Service:
        address = primary.address if primary else ""
        return Service(parts, self.secrets, self.folder / name, tls="yes", primary=address)

    def endpoint(self, user: str) -> Endpoint:
        """As a user of a role reaches it, by the Sentinels."""
        password = Secret(SecretSource.FILE, str(self.secrets / user))
        return replace(
            self.servers[0].endpoint(user),
            nodes=tuple(sentinel.endpoint(user).nodes[0] for sentinel in self.sentinels),
            topology=Topology.SENTINEL,
            master=MASTER,
            sentinel_username=user,
            sentinel_password=password,
        )

    def is_complete(self) -> bool:
        """Whether all know of all."""
        states = [self.state(sentinel) for sentinel in self.sentinels]
        with self.primary.client() as client:
            if client.info("replication")["min_slaves_good_slaves"] < 2:
                return False
        return all(
            (int(state["num-slaves"]), int(state["num-other-sentinels"])) == (2, 2)
            and state["flags"] == "master"
            for state in states
        )

    def state(self, sentinel: Service) -> dict[str, str]:
        """What a Sentinel says of the primary."""
        with sentinel.client() as client:
            flat = client.execute_command("SENTINEL", "MASTERS")[0]
        return flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))

    @property
    def primary(self) -> Service:
        """Whom most Sentinels call that."""
        said = [int(self.state(sentinel)["port"]) for sentinel in self.sentinels]
        port = max(said, key=said.count)
        return next(server for server in self.servers if server.port == port)


@dataclass
class Cluster:
    """Six nodes, joined by the script that the profile `cluster` joins them by."""

    secrets: Path
    folder: Path
    nodes: list[Service] = field(default_factory=list)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for number in range(1, 7):
                data = self.folder / f"node-{number}"
                node = Service(("state", "cluster"), self.secrets, data, tls="yes", port=low_port())
                self.nodes.append(stack.enter_context(node))
            self.join()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def join(self) -> list[str]:
        """Run the script until it has nothing more to do; returns what it said each time."""
        said = []

        def complete() -> bool:
            ran = self.step()
            said.append(ran.stdout + ran.stderr)
            return ran.returncode == 0

        try:
            until(complete, "a complete Cluster", SLOW)
        except TimeoutError as error:
            error.add_note("\n".join(said))
            raise
        return said

    def step(self) -> subprocess.CompletedProcess[str]:
        """Run the script once."""
        command = [DEPLOY / "redis/join.sh", *(f"127.0.0.1:{node.port}" for node in self.nodes)]
        return subprocess.run(
            command, env=self.nodes[0].environment, capture_output=True, text=True, check=False
        )

    def shards(self) -> list[int]:
        """How many nodes each has."""
        with self.nodes[0].client() as client:
            return [len(shard["nodes"]) for shard in client.execute_command("CLUSTER SHARDS")]

    def is_up(self) -> bool:
        """Whether each node says so."""

        def state(node: Service) -> str:
            with node.client() as client:
                return client.execute_command("CLUSTER INFO")["cluster_state"]

        return all(state(node) == "ok" for node in self.nodes)

    def endpoint(self, user: str) -> Endpoint:
        """As a user of a role reaches it."""
        endpoint = self.nodes[0].endpoint(user)
        nodes = tuple(node.endpoint(user).nodes[0] for node in self.nodes[:2])
        return replace(endpoint, nodes=nodes, topology=Topology.CLUSTER)


def low_port() -> int:
    """One that is free, as is that of the bus, 10,000 above it."""

    def both_free() -> int:
        port = free_port()
        return port if port < 55_000 and is_free(port + 10_000) else 0

    return until(both_free, "a port, and that of its bus")


def is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False
