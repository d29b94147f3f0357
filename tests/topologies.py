"""Sentinel and Cluster deployments of real processes, for tests.

They start in a few hundred milliseconds, notice the death of a server as fast, and end with the
block: only what was started here is ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any, Self

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from nexus_redis_provider.core.endpoint import Endpoint, Topology
from nexus_redis_provider.embedded import EmbeddedServer, free_port
from tests.guarded import own_server
from tests.proxies import FaultyProxy
from tests.urls import url_of

MASTER = "state"
# How long a server is silent before it counts as down.
DOWN_AFTER_MS = 1500


def until(condition: Callable[[], Any], what: str, timeout: float = 60) -> Any:
    """What the condition returns as soon as that is true."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout} s")
        time.sleep(0.02)
    return found


def kill(server: EmbeddedServer) -> None:
    """End a server as a crash does."""
    os.kill(server.pid, signal.SIGKILL)


def crash(server: EmbeddedServer) -> None:
    """End a server as a crash does, and return when it is gone."""
    kill(server)
    server._process.wait()


@contextlib.contextmanager
def stopped(server: EmbeddedServer) -> Iterator[None]:
    """Within the block, a server stands still."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def replication(server: EmbeddedServer) -> Any:
    """What a server says of its replication."""
    with _talk(server) as node:
        return node.info("replication")


def watched_by(sentinel: EmbeddedServer, server: EmbeddedServer, master: str = MASTER) -> Endpoint:
    """The endpoint of a server by a Sentinel that knows it by this name."""
    asked = sentinel.endpoint
    return replace(
        server.endpoint,
        nodes=asked.nodes,
        topology=Topology.SENTINEL,
        master=master,
        sentinel_username=asked.username,
        sentinel_password=asked.password,
    )


@dataclass
class _Deployment(ABC):
    """Servers that end with the block.

    Args:
        binary: the server to run, by default what `find_server` finds.
    """

    binary: Path | None = field(default=None, kw_only=True)
    servers: list[EmbeddedServer] = field(default_factory=list, kw_only=True)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._stack = stack
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    @abstractmethod
    def endpoint(self) -> Endpoint:
        """Of the whole deployment."""

    @property
    def url(self) -> str:
        """The same as a URL."""
        return url_of(self.endpoint)

    @property
    def all_servers(self) -> list[EmbeddedServer]:
        """Whoever has clients."""
        return self.servers

    @abstractmethod
    def _start(self) -> None:
        """Start all servers; whatever was started ends with the block."""

    def _server(self, *arguments: str, config: str = "") -> EmbeddedServer:
        server = own_server(*arguments, binary=self.binary, config=config)
        return self._stack.enter_context(server)


@dataclass
class SentinelDeployment(_Deployment):
    """A primary, replicas, and three Sentinels that watch them.

    Args:
        replicas: how many.
        server_options: of primary and replicas, as on a command line.
        sentinel_options: lines of each Sentinel's configuration.
    """

    replicas: int = 2
    server_options: tuple[str, ...] = ()
    sentinel_options: tuple[str, ...] = ()
    sentinels: list[EmbeddedServer] = field(default_factory=list)

    @property
    def endpoint(self) -> Endpoint:
        """Of the deployment, by its Sentinels."""
        nodes = tuple(sentinel.endpoint.nodes[0] for sentinel in self.sentinels)
        return replace(watched_by(self.sentinels[0], self.servers[0]), nodes=nodes)

    @property
    def all_servers(self) -> list[EmbeddedServer]:
        return [*self.servers, *self.sentinels]

    @property
    def primary(self) -> EmbeddedServer:
        """Whom most Sentinels call the primary now."""
        said = [self._primary_of(sentinel) for sentinel in self.sentinels]
        port = max(said, key=said.count)
        return next(server for server in self.servers if self.port_of(server) == port)

    def port_of(self, server: EmbeddedServer) -> int:
        """The port by which all others know a server."""
        return server.port

    def fail_over(self) -> EmbeddedServer:
        """Kill the primary; returns the new one once all Sentinels say so."""
        old = self.primary
        kill(old)
        until(lambda: self.agreed() not in (None, self.port_of(old)), "a new primary")
        return self.primary

    def _start(self) -> None:
        fast = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        primary = self._data_server(*fast, *self.server_options)
        self.servers.append(primary)
        for _ in range(self.replicas):
            follow = ("--replicaof", f"127.0.0.1 {self.port_of(primary)}")
            self.servers.append(self._data_server(*fast, *follow, *self.server_options))
        self.sentinels.extend(self._sentinel(primary) for _ in range(3))
        until(self._is_complete, "Sentinels that know each other and the replicas")

    def _data_server(self, *arguments: str) -> EmbeddedServer:
        return self._server(*arguments)

    def _sentinel(self, primary: EmbeddedServer) -> EmbeddedServer:
        lines = (
            f"sentinel monitor {MASTER} 127.0.0.1 {self.port_of(primary)} 2",
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {MASTER} 2000",
            *self.sentinel_options,
        )
        return self._server("--sentinel", config="\n".join(lines))

    def _is_complete(self) -> bool:
        for sentinel in self.sentinels:
            state = _masters(sentinel)[MASTER]
            if (state["num-slaves"], state["num-other-sentinels"]) != (self.replicas, 2):
                return False
        with self.servers[0].endpoint.client() as client:
            replication = client.info("replication")
        return all(
            replication[f"slave{number}"]["state"] == "online" for number in range(self.replicas)
        )

    def agreed(self) -> int | None:
        """The port of whom all Sentinels call the primary, or None."""
        said = {self._primary_of(sentinel) for sentinel in self.sentinels}
        return said.pop() if len(said) == 1 else None

    def _primary_of(self, sentinel: EmbeddedServer) -> int:
        return int(_masters(sentinel)[MASTER]["port"])


@dataclass
class DivisibleDeployment(SentinelDeployment):
    """The same with a proxy before each server, by which all but its neighbours know it.

    A proxy that lets nothing pass parts its server, and whoever talks to the server directly, from
    all others: Sentinels, replicas and clients.
    """

    proxies: dict[EmbeddedServer, FaultyProxy] = field(default_factory=dict)

    def port_of(self, server: EmbeddedServer) -> int:
        return self.proxies[server].endpoint.nodes[0].port

    def _data_server(self, *arguments: str) -> EmbeddedServer:
        server = own_server(*arguments, binary=self.binary)
        self.proxies[server] = self._stack.enter_context(FaultyProxy(server.endpoint))
        server._arguments += ("--replica-announce-port", str(self.port_of(server)))
        return self._stack.enter_context(server)


@dataclass
class ClusterDeployment(_Deployment):
    """A Cluster of primaries that share the slots, and a replica of each where wanted.

    Args:
        primaries: how many.
        with_replicas: whether each has one, which takes over when it dies.
        server_options: of each, as on a command line.
    """

    primaries: int = 3
    with_replicas: bool = False
    server_options: tuple[str, ...] = ()
    buses: list[int] = field(default_factory=list)

    @property
    def endpoint(self) -> Endpoint:
        """Of the Cluster, by two of its nodes."""
        return replace(
            self.servers[0].endpoint,
            nodes=tuple(server.endpoint.nodes[0] for server in self.servers[:2]),
            topology=Topology.CLUSTER,
        )

    def server_of(self, key: str) -> EmbeddedServer:
        """The primary that has a key, as the first living node says."""
        owner = self._owner(key_slot(key.encode()), self.servers)
        assert owner is not None, f"no node has {key}"
        return owner

    def _owner(self, slot: int, asked: Sequence[EmbeddedServer]) -> EmbeddedServer | None:
        return next((server for server, slots in self._slots(asked) if slot in slots), None)

    def owners(self) -> set[EmbeddedServer]:
        """The primaries that have slots."""
        return {server for server, _ in self._slots(self.servers)}

    def replica_of(self, key: str) -> bool:
        """Whether the primary that has a key has a living replica."""
        return bool(replication(self.server_of(key))["connected_slaves"])

    def join(self) -> EmbeddedServer:
        """One more primary, which has no slots yet."""
        with _talk(server := self._add()) as node:
            node.cluster("MEET", "127.0.0.1", self.servers[0].port, self.buses[0])
        until(lambda: all(map(self._knows_all, self.servers)), "nodes that know each other")
        until(lambda: self._is_ready(server), "a Cluster that is ready")
        return server

    def fail_over(self, dead: EmbeddedServer) -> None:
        """Returns once all that live know who has taken over from a primary that was killed."""
        living = [server for server in self.servers if server is not dead]

        def is_over() -> bool:
            views = [{owner for owner, _ in self._slots((server,))} for server in living]
            return all(dead not in view for view in views) and all(map(self._is_ready, living))

        until(is_over, "a replica that takes over")

    def move_slot(self, key: str) -> EmbeddedServer:
        """Give the slot of a key, with all its keys, to another primary; returns that one."""
        with self.moving(key, keys=100) as target:
            return target

    @contextlib.contextmanager
    def moving(
        self,
        key: str,
        *,
        to: EmbeddedServer | None = None,
        keys: int = 1,
        named: Sequence[str] = (),
    ) -> Iterator[EmbeddedServer]:
        """Within the block, the slot of a key is on its way: so many keys of it have moved.

        Args:
            to: whom; by default another that has slots.
            named: or those with these names.
        """
        source, slot = self.server_of(key), key_slot(key.encode())
        target = to or next(server for server in self.owners() if server is not source)
        with _talk(source) as old, _talk(target) as new:
            ids = old.cluster("MYID").decode(), new.cluster("MYID").decode()
            new.cluster("SETSLOT", slot, "IMPORTING", ids[0])
            old.cluster("SETSLOT", slot, "MIGRATING", ids[1])

            def move(count: int, names: Sequence[str] = ()) -> bool:
                if found := names or old.cluster("GETKEYSINSLOT", slot, count):
                    where = ("127.0.0.1", target.port, "", 0, 5000, *_credentials(target))
                    old.execute_command("MIGRATE", *where, "KEYS", *found)
                return bool(found)

            move(keys, named)
            try:
                yield target
            finally:
                while move(100):
                    pass
                until(lambda: self._agree(slot, target), "nodes that agree whose slot it is")

    @contextlib.contextmanager
    def moving_on(self, keys: Sequence[str]) -> Iterator[Callable[[], int]]:
        """Within the block, slots of keys move from node to node, and on; tells how many have."""
        is_over, moved, errors = threading.Event(), list[str](), list[BaseException]()

        def move_on() -> None:
            try:
                for key in cycle(keys):
                    with self.moving(key, keys=3):
                        is_over.wait(0.005)
                    moved.append(key)
                    if is_over.is_set():
                        return
            except BaseException as error:  # noqa: BLE001 - the test fails by it, not a thread
                errors.append(error)

        mover = threading.Thread(target=move_on)
        mover.start()
        try:
            yield lambda: len(moved)
        finally:
            is_over.set()
            mover.join()
        assert not errors, errors

    def _agree(self, slot: int, owner: EmbeddedServer) -> bool:
        """Tell all who do not know it whose a slot is; whether there were none.

        The owner is told first. What one has told a moment before may make another forget it again.
        """
        others = self.owners() - {owner}
        differing = [
            server for server in (owner, *others) if self._owner(slot, (server,)) is not owner
        ]
        with _talk(owner) as node:
            owner_id = node.cluster("MYID").decode()
        for server in differing:
            with _talk(server) as node:
                node.cluster("SETSLOT", slot, "NODE", owner_id)
        return not differing

    def _start(self) -> None:
        count = self.primaries * (2 if self.with_replicas else 1)
        for _ in range(count):
            self._add()
        per_node = -(-REDIS_CLUSTER_HASH_SLOTS // self.primaries)
        for number, server in enumerate(self.servers):
            with _talk(server) as node:
                # Else two nodes may begin with the same epoch, and take time to settle it.
                node.cluster("SET-CONFIG-EPOCH", number + 1)
                if number < self.primaries:
                    first = number * per_node
                    last = min(first + per_node, REDIS_CLUSTER_HASH_SLOTS) - 1
                    node.cluster("ADDSLOTSRANGE", first, last)
                node.cluster("MEET", "127.0.0.1", self.servers[0].port, self.buses[0])
        until(lambda: all(map(self._knows_all, self.servers)), "nodes that know each other")
        for number in range(self.primaries, count):
            with _talk(self.servers[number - self.primaries]) as primary:
                primary_id = primary.cluster("MYID").decode()
            with _talk(self.servers[number]) as replica:
                replica.cluster("REPLICATE", primary_id)
        until(lambda: all(map(self._is_ready, self.servers)), "a Cluster that is ready")

    def _add(self) -> EmbeddedServer:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(DOWN_AFTER_MS))
        fast = ("--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0")
        # Not 10,000 above the server's, where it may be in use, or too high.
        self.buses.append(free_port())
        bus = ("--cluster-port", str(self.buses[-1]))
        self.servers.append(self._server(*options, *fast, *bus, *self.server_options))
        return self.servers[-1]

    def _knows_all(self, server: EmbeddedServer) -> bool:
        with _talk(server) as node:
            known = node.cluster("NODES").values()
        # Until the other one has answered, a node goes by a name that is not its own.
        return len(known) == len(self.servers) and not any("handshake" in k["flags"] for k in known)

    def _is_ready(self, server: EmbeddedServer) -> bool:
        with _talk(server) as node:
            replication = node.info("replication")
            if replication["role"] != "master" and replication["master_link_status"] != "up":
                return False
            return bool(node.cluster("INFO")["cluster_state"] == "ok")

    def _slots(self, asked: Sequence[EmbeddedServer]) -> list[tuple[EmbeddedServer, range]]:
        """Who has which slots, as the first of those says who answers."""
        by_port = {server.port: server for server in self.servers}
        for server in asked:
            with contextlib.suppress(redis.exceptions.ConnectionError), _talk(server) as node:
                return [
                    (by_port[port], range(first, last + 1))
                    for first, last, (_, port, *_), *_ in node.execute_command("CLUSTER", "SLOTS")
                ]
        raise LookupError("no node of the Cluster answers")


def _talk(server: EmbeddedServer) -> Any:
    return replace(server.endpoint, retries=0).client()


def _credentials(server: EmbeddedServer) -> tuple[str, ...]:
    """As MIGRATE takes them."""
    user, password = server.endpoint.username, server.endpoint.password
    return ("AUTH2", user, password.reveal()) if user and password else ()


def _masters(sentinel: EmbeddedServer) -> Any:
    with _talk(sentinel) as client:
        return client.sentinel_masters()
