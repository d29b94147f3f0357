"""What goes to all primaries of a Cluster, when they are others than when the client was made.

Slots went to a node that has come since, or a replica has taken over from a primary that died. No
node says so to SCAN or INFO: who trusts what he knows misses keys, or asks the dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from nexus_redis_provider.core import replication
from nexus_redis_provider.core.clusters import aslots_by_node, primaries_of, slots_by_node
from nexus_redis_provider.core.errors import UnreachableError
from nexus_redis_provider.core.gold.servers import server_states
from nexus_redis_provider.core.keyspace.walks import delete, scan
from nexus_redis_provider.core.keyspace.weights import big_keys, memory_of, weigh
from nexus_redis_provider.core.monitoring.infos import server_infos
from nexus_redis_provider.core.monitoring.latencies import latency_events, ping
from nexus_redis_provider.core.monitoring.slow_logs import slow_log
from nexus_redis_provider.core.replication import aprogress, await_replicas, mark, progress
from nexus_redis_provider.core.requirements import Requirement
from nexus_redis_provider.core.tags import invalidate
from nexus_redis_provider.core.warmth import aprobe, probe
from nexus_redis_provider.embedded import EmbeddedServer, find_server
from tests.conftest import need_server
from tests.topologies import ClusterDeployment, crash, until
from tests.topologies import replication as replication_of

KEYS = [b"key:%d" % number for number in range(200)]
ALL = Requirement(pattern="key:*", min_rows=len(KEYS))
TAGS = [f"tag-{number}" for number in range(30)]
AGAIN = {"timeout": 60, "poll_interval": 0.05}

Ask = Callable[[Any], Any]
# How many keys each finds.
WALKS: dict[str, Ask] = {
    "scan": lambda client: len(set(scan(client, "key:*"))),
    "delete": lambda client: delete(client, "key:*", dry_run=True).found,
    "weigh": lambda client: weigh(client, "key:*").keys,
    "big_keys": lambda client: len(big_keys(client, "key:*", top=1000)),
    "memory_of": lambda client: len(memory_of(client, KEYS)),
    "probe": lambda client: probe(client, ALL).rows,
}
# Whom each asks.
LOOKS: dict[str, Ask] = {
    "server_infos": lambda client: [one.address for one in server_infos(client)],
    "slow_log": lambda client: [one.server for one in slow_log(client)],
    "latency_events": lambda client: [one.server for one in latency_events(client)],
    "ping": lambda client: [one.server for one in ping(client, 1)],
    "mark": lambda client: [one.address for one in mark(client)],
    "server_states": lambda client: [one.address for one in server_states(client)],
}
# What has a test of its own.
OTHERS = ("invalidate", "progress")
ASYNC = ("aprobe", "aprogress")


class Before:
    """A Cluster whose layout has changed, and a client for each question that was made before."""

    def __init__(self, cluster: ClusterDeployment, stack: ExitStack) -> None:
        self.cluster = cluster
        self.runner = stack.enter_context(asyncio.Runner())
        self._clients = {
            name: stack.enter_context(cluster.endpoint.client())
            for name in (*WALKS, *LOOKS, *OTHERS)
        }
        for name in ASYNC:
            client: Any = cluster.endpoint.async_client()
            self._clients[name] = client
            stack.callback(lambda one=client: self.runner.run(one.aclose()))
            self.runner.run(client.initialize())

    def ask(self, name: str, question: Ask) -> Any:
        found = question(self._clients[name])
        return self.runner.run(found) if name in ASYNC else found


def have_something_to_tell(server: EmbeddedServer) -> None:
    with server.endpoint.client() as node:
        node.config_set("slowlog-log-slower-than", 0)
        node.config_set("latency-monitor-threshold", 1)
        # Five milliseconds and more of work.
        node.eval("local t = {} for i = 1, 1000000 do t[i % 1000] = i end", 0)


def reshard(cluster: ClusterDeployment) -> None:
    """Returns when it is over."""
    joined = cluster.join()
    have_something_to_tell(joined)
    for number in range(5):
        with cluster.moving(f"key:{number}", to=joined, keys=100):
            pass


def fail_over(cluster: ClusterDeployment) -> None:
    """Returns when a replica that has it all has taken over from a primary that was killed."""
    with cluster.endpoint.client() as client:
        await_replicas(client, **AGAIN)
    dead = cluster.server_of("key:0")
    crash(dead)
    cluster.fail_over(dead)


CHANGES = {"reshard": reshard, "failover": fail_over}


@pytest.fixture(scope="module", params=CHANGES)
def before(request: pytest.FixtureRequest) -> Iterator[Before]:
    need_server(find_server)
    has_failover = request.param == "failover"
    deployment = ClusterDeployment(primaries=3 if has_failover else 2, with_replicas=has_failover)
    with deployment as cluster, ExitStack() as stack:
        before = Before(cluster, stack)
        with cluster.endpoint.client() as client:
            for key in KEYS:
                client.set(key, 1)
        for server in cluster.servers:
            have_something_to_tell(server)
        CHANGES[request.param](cluster)
        yield before


@pytest.fixture
def alone() -> Iterator[ClusterDeployment]:
    need_server(find_server)
    with ClusterDeployment(primaries=1) as cluster:
        yield cluster


@pytest.mark.parametrize("name", WALKS)
def test_all_keys_are_found(before: Before, name: str) -> None:
    assert before.ask(name, WALKS[name]) == len(KEYS)


def test_all_keys_are_found_by_the_asyncio_twin(before: Before) -> None:
    assert before.ask("aprobe", lambda client: aprobe(client, ALL)).rows == len(KEYS)


@pytest.mark.parametrize("name", LOOKS)
def test_all_primaries_are_asked(before: Before, name: str) -> None:
    addresses = {str(server.endpoint.nodes[0]) for server in before.cluster.owners()}
    assert set(before.ask(name, LOOKS[name])) == addresses


def test_tags_are_invalidated(before: Before) -> None:
    told = before.ask("invalidate", lambda client: invalidate(client, TAGS, ttl=60))
    assert list(told) == TAGS


@pytest.mark.parametrize("look", [progress, aprogress])
def test_marks_of_all_primaries_are_found(before: Before, look: Any) -> None:
    with before.cluster.endpoint.client() as client:
        marks = mark(client)
    assert before.ask(look.__name__, lambda client: look(client, marks, 0)).is_done


def test_who_has_just_become_a_replica_has_lost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node that was asked for the layout had not heard of it yet."""
    need_server(find_server)
    with (
        ClusterDeployment(with_replicas=True) as cluster,
        cluster.endpoint.client() as client,
    ):
        marks, heard = mark(client), primaries_of(client)
        until(lambda: progress(client, marks, 1).is_done, "replicas that have it all")
        old, new = cluster.servers[0], cluster.servers[3]
        with new.endpoint.client() as node:
            node.cluster("FAILOVER", "TAKEOVER")
        until(lambda: replication_of(old)["role"] == "slave", "a primary that steps down")
        cluster.fail_over(old)
        with monkeypatch.context() as patched:
            patched.setattr(replication, "primaries_of", lambda _: heard)
            with pytest.raises(UnreachableError, match="has just become a replica"):
                progress(client, marks, 1)
        assert progress(client, marks, 0).is_done


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_look_that_shows_nothing_new(alone: ClusterDeployment, kind: str) -> None:
    """It is one command, and everybody's connections stay as they are."""
    with alone.servers[0].endpoint.client(single_connection_client=True) as server:

        def stats() -> tuple[int, int]:
            asked = server.info("commandstats")["cmdstat_cluster|slots"]["calls"]
            return asked, server.info("stats")["total_connections_received"]

        if kind == "sync":
            with alone.endpoint.client() as client:
                slots_by_node(client)
                before = stats()
                assert list(slots_by_node(client).values()) == [16384]
                client.get("a")
                assert stats() == (before[0] + 1, before[1])
        else:
            async with alone.endpoint.async_client() as client:
                await aslots_by_node(client)
                before = stats()
                assert list((await aslots_by_node(client)).values()) == [16384]
                await client.get("a")
                assert stats() == (before[0] + 1, before[1])


def test_a_walk_looks_once(alone: ClusterDeployment) -> None:
    """Not for each batch, and not at all for keys that are given."""
    with (
        alone.endpoint.client() as client,
        alone.servers[0].endpoint.client(single_connection_client=True) as server,
    ):
        pipe = client.pipeline(transaction=False)
        for number in range(5000):
            pipe.set(f"key:{number}", 1)
        pipe.execute()

        def looks(ask: Ask) -> int:
            before = server.info("commandstats")["cmdstat_cluster|slots"]["calls"]
            ask(client)
            return server.info("commandstats")["cmdstat_cluster|slots"]["calls"] - before

        found = {name: looks(ask) for name, ask in (WALKS | LOOKS).items()}
        assert found == dict.fromkeys(found, 1) | {"memory_of": 0}
        assert looks(lambda client: probe(client, Requirement(keys=["key:1"]))) == 0
        assert looks(lambda client: invalidate(client, TAGS, ttl=60)) == 0


async def test_nobody_answers(alone: ClusterDeployment) -> None:
    said = f"127.0.0.1:{alone.servers[0].port}"
    with alone.endpoint.client() as client:
        async with alone.endpoint.async_client() as other:
            await other.ping()
            marks = mark(client)
            crash(alone.servers[0])
            for ask in (*WALKS.values(), *LOOKS.values()):
                with pytest.raises(UnreachableError, match=said):
                    ask(client)
            for asked in (aprobe(other, ALL), aprogress(other, marks, 1)):
                with pytest.raises(UnreachableError, match=said):
                    await asked
