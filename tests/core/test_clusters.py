"""In a Cluster, clients and locks find the node that has a key, and find it again."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import ResponseError, TryAgainError

from nexus_redis_provider.cli.main import main
from nexus_redis_provider.core import key_clients
from nexus_redis_provider.core.clients import thread_client
from nexus_redis_provider.core.clusters import primaries_of
from nexus_redis_provider.core.durations import uptime
from nexus_redis_provider.core.endpoint import Endpoint, Node, Topology
from nexus_redis_provider.core.errors import (
    AccessDeniedError,
    ConfigurationError,
    LockHeldError,
    LockLostError,
    ServerError,
    UnreachableError,
)
from nexus_redis_provider.core.fills import fill_once
from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks import Lock
from nexus_redis_provider.core.locks.audits import audit
from nexus_redis_provider.core.locks.listing import lock_names, lock_states
from nexus_redis_provider.core.locks.protocol import break_lock, inspect, who_holds
from nexus_redis_provider.core.nodes import Nodes
from nexus_redis_provider.core.requirements import Requirement
from nexus_redis_provider.core.scripts import arun, run, run_all
from nexus_redis_provider.core.slots import Slots
from nexus_redis_provider.core.warmth import aprobe, probe
from nexus_redis_provider.embedded import EmbeddedServer, find_server
from tests.conftest import need_server
from tests.core.lock_calls import enter, in_line, leave, lock_of, look, renewed_since, take
from tests.core.test_lock_rights import operate, rights_of
from tests.guarded import own_server
from tests.servers import as_user
from tests.topologies import ClusterDeployment, kill, until

WITH_REPLICAS = True


@pytest.fixture
def endpoint(deployment: ClusterDeployment) -> Endpoint:
    return deployment.endpoint


async def test_clients_reach_every_key(deployment: ClusterDeployment) -> None:
    endpoint, keys = deployment.endpoint, [f"key-{number}" for number in range(30)]
    assert {deployment.server_of(key) for key in keys} == deployment.owners()
    for options in ({}, {"protocol": 2}):
        with endpoint.client(**options) as client:
            for key in keys:
                assert client.set(key, key)
        async with endpoint.async_client(**options) as client:
            assert [await client.get(key) for key in keys] == [key.encode() for key in keys]


async def test_options_are_those_of_any_client(kind: str, deployment: ClusterDeployment) -> None:
    endpoint = replace(deployment.endpoint, client_name="me")
    make = endpoint.client if kind == "sync" else endpoint.async_client
    make_for = endpoint.client_for if kind == "sync" else endpoint.async_client_for
    with pytest.raises(ConfigurationError, match=r"Endpoint.client_for\(key\)"):
        make(single_connection_client=True)
    for client in (make_for("a", single_connection_client=True), make(), make_for("a")):
        asked = client.client_getname()
        assert (asked if kind == "sync" else await asked) in ("me", b"me")
        client.close() if kind == "sync" else await client.aclose()
    for client in (make(decode_responses=True), make_for("a", decode_responses=True)):
        with pytest.raises(ConfigurationError, match="decode_responses"):
            run(client, who_holds("a")) if kind == "sync" else await arun(client, who_holds("a"))
        client.close() if kind == "sync" else await client.aclose()


async def test_keys_are_grouped_by_node(deployment: ClusterDeployment) -> None:
    endpoint, keys = deployment.endpoint, [f"key-{number}" for number in range(30)]
    slots = Slots.of(endpoint)
    groups = slots.by_node(keys)
    assert set(groups) == set(slots.nodes)
    assert sorted(key for group in groups.values() for key in group) == sorted(keys)
    for node, group in groups.items():
        with endpoint.at(node).client(protocol=2) as client:
            pipe = client.pipeline(transaction=False)
            for key in group:
                pipe.set(key, "plain")
            assert all(pipe.execute())
        assert await slots.anode_of(group[0]) == node


def test_primaries_that_have_some_slots(deployment: ClusterDeployment) -> None:
    slots = Slots.of(deployment.endpoint)
    with deployment.endpoint.client() as client:
        everyone = {primary.address for primary in primaries_of(client)}
        assert everyone == {str(node) for node in slots.nodes}
        for slot in (0, 16383):
            (primary,) = primaries_of(client, {slot})
            assert primary.address == str(slots.owner_of(slot))
            assert primary.share == 1 / 16384
        assert primaries_of(client, ()) == []


async def test_a_plain_client_for_what_is_in_one_slot(deployment: ClusterDeployment) -> None:
    tag = uuid.uuid4().hex
    one, other = f"{{{tag}}}:1", f"{{{tag}}}:2"
    with deployment.endpoint.client_for(one, protocol=2) as client:
        assert client.set(one, "a")
        with client.pipeline() as pipe:
            pipe.watch(one)
            pipe.multi()
            pipe.set(one, "b")
            pipe.set(other, "c")
            pipe.execute()
        async with deployment.endpoint.async_client_for(one) as async_client:
            assert await async_client.mget(one, other) == [b"b", b"c"]
            new = deployment.move_slot(one)
            assert await async_client.mget(one, other) == [b"b", b"c"]
        assert client.get(one) == b"b"
        assert client.info("server")["tcp_port"] == new.port


async def test_single_commands_go_on_while_their_slot_moves(
    kind: str, deployment: ClusterDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = uuid.uuid4().hex
    here, there, new = (f"{{{tag}}}:{number}" for number in range(3))
    patient = replace(deployment.endpoint, read_timeout=60)
    async with plain_commands(kind, patient, here, decode_responses=True) as ask:
        await ask("mset", {here: "a", there: "b"})
        with deployment.moving(here, named=[there]) as target:
            assert await ask("get", there) == "b"
            assert await ask("set", new, "c")
            assert await ask("get", here) == "a"
            with target.endpoint.client() as node:
                assert node.cluster("COUNTKEYSINSLOT", key_slot(here.encode())) == 2
            with pytest.raises(ResponseError, match="wrong kind of value"):
                await ask("lpush", there, "d")
            with monkeypatch.context() as hurried:
                hurried.setattr(key_clients, "uptime", lambda: 600 * uptime())
                with pytest.raises(TryAgainError):
                    await ask("mget", here, there)
            with deployment.server_of(here).endpoint.client() as node:
                node.config_resetstat()
                waiting = asyncio.create_task(ask("mget", here, there, new))
                await asyncio.to_thread(until, lambda: node.info("errorstats"), "a refusal")
        assert await waiting == ["a", "b", "c"]


@asynccontextmanager
async def plain_commands(
    kind: str, endpoint: Endpoint, key: str, **options: Any
) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Sends commands by the name of their method, with a plain client for a key."""
    if kind == "sync":
        with endpoint.client_for(key, single_connection_client=True, **options) as client:
            yield lambda name, *args: asyncio.to_thread(getattr(client, name), *args)
    else:
        async with endpoint.async_client_for(key, **options) as async_client:
            yield lambda name, *args: getattr(async_client, name)(*args)


async def test_a_server_that_is_no_cluster_is_named(kind: str) -> None:
    need_server(find_server)
    with own_server() as server:
        endpoint = replace(server.endpoint, topology=Topology.CLUSTER)
        with pytest.raises(ConfigurationError, match=f"{server.port} is no Cluster"):
            await enter(lock_of(kind, endpoint, "a"))
        with pytest.raises(ConfigurationError, match="is no Cluster"):
            endpoint.client()


async def test_a_cluster_that_nobody_serves_is_named(kind: str) -> None:
    endpoint = Endpoint.from_url("redis+cluster://127.0.0.1:1,127.0.0.1:2?retries=0")
    with pytest.raises(UnreachableError, match=r"Cluster 127.0.0.1:1,127.0.0.1:2"):
        await look(kind, endpoint)
    with pytest.raises(UnreachableError, match=r"none of its nodes answers \(127.0.0.1:1: "):
        await enter(lock_of(kind, endpoint, "a"))


@pytest.mark.parametrize("reads", ["no", "yes"])
async def test_a_cluster_that_is_down_is_named(kind: str, reads: str) -> None:
    need_server(find_server)
    options = ("--cluster-allow-reads-when-down", reads)
    with ClusterDeployment(primaries=2, server_options=options) as deployment:
        for server in deployment.servers:
            with server.endpoint.client() as node:
                node.cluster("DELSLOTS", key_slot(b"other"))
        endpoint = replace(deployment.endpoint, retries=0)
        with pytest.raises(UnreachableError, match=r"down\b.* See CLUSTER NODES"):
            await enter(lock_of(kind, endpoint, "a"))


async def test_a_wrong_password_is_denied(kind: str) -> None:
    need_server(find_server)
    with ClusterDeployment(primaries=1) as one:
        with one.endpoint.client() as client:
            client.execute_command("ACL SETUSER", "u", "on", ">pw", "~*", "&*", "+@all")
        await look(kind, as_user(one.endpoint, "u", "pw"))
        endpoint = replace(as_user(one.endpoint, "u", "hunter2"), retries=0)
        with pytest.raises(AccessDeniedError) as denied:
            await look(kind, endpoint)
        assert "hunter2" not in str(denied.value)
        with pytest.raises(AccessDeniedError):
            await enter(lock_of(kind, endpoint, "a"))


async def test_rights_that_are_enough_in_a_cluster() -> None:
    need_server(find_server)
    rights = [*rights_of("operators"), "+cluster|slots"]
    keys = ("resetchannels", "~nexus:lock:*", "&nexus:lock-wake:*", "-@all")
    with ClusterDeployment(primaries=1) as one:
        with one.endpoint.client() as client:
            for name, more in (("holder", ()), ("operator", ("+command",))):
                client.execute_command("ACL SETUSER", name, "on", ">pw", *keys, *rights, *more)
        holder = as_user(one.endpoint, "holder", "pw")
        for kind in ("sync", "async"):
            lock, other = (lock_of(kind, holder, "a", wait=20, poll=10) for _ in range(2))
            await enter(lock)
            waiting = asyncio.create_task(enter(other))
            with one.endpoint.client() as client:
                await asyncio.to_thread(until, lambda: run(client, inspect("a")).length, "a waiter")
            await leave(lock)
            await asyncio.wait_for(waiting, 8)
            await leave(other)
        # redis-py's client of a whole Cluster asks for all commands.
        with pytest.raises(AccessDeniedError, match="command"):
            holder.client()
        operate(as_user(one.endpoint, "operator", "pw"))


async def test_keys_like_a_pattern_are_looked_for_on_all_nodes(
    namespace: str, deployment: ClusterDeployment
) -> None:
    endpoint = deployment.endpoint
    all_of_them = Requirement(pattern=f"{namespace}:x:*", min_rows=30, namespace=namespace)
    one_more = replace(all_of_them, min_rows=31)
    pairs = {f"{namespace}:x:{number}": number for number in range(30)}
    with endpoint.client() as client:
        assert str(probe(client, all_of_them)).startswith("0 keys like")
        written, warmth = fill_once(endpoint, all_of_them, lambda _: pairs, ttl=60)
        assert (written, warmth.is_warm, warmth.rows) == (30, True, 30)
        assert probe(client, one_more).rows == 30
    async with endpoint.async_client() as async_client:
        assert (await aprobe(async_client, all_of_them)).is_warm
        assert (await aprobe(async_client, one_more)).rows == 30


def test_the_command_line_lists_locks_of_all_nodes(
    namespace: str, deployment: ClusterDeployment, capsys: pytest.CaptureFixture[str]
) -> None:
    everywhere = names(deployment, namespace)
    with deployment.endpoint.client() as client:
        run_all(client, [take(name, "o", namespace=namespace) for name in everywhere])
    options = ["--url", deployment.url, "--namespace", namespace]
    assert main([*options, "locks", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [lock["name"] for lock in found] == sorted(everywhere)
    assert main([*options, "locks", "show", "no such lock"]) == 1
    assert f"no lock 'no such lock' at Cluster {deployment.endpoint.nodes[0]}," in (
        capsys.readouterr().err
    )


def names(deployment: ClusterDeployment, namespace: str) -> list[str]:
    """Names of locks, each on another node."""
    found: dict[EmbeddedServer, str] = {}
    for number in range(1000):
        key = LockKeys(f"lock-{number}", namespace).lock
        found.setdefault(deployment.server_of(key), f"lock-{number}")
        if len(found) == deployment.primaries:
            break
    return list(found.values())


async def test_locks_on_every_node(
    kind: str, namespace: str, deployment: ClusterDeployment
) -> None:
    endpoint, everywhere = deployment.endpoint, names(deployment, namespace)
    options = {"namespace": namespace, "wait": 30, "poll": 10}
    with endpoint.client() as client:
        holders = [lock_of(kind, endpoint, name, **options) for name in everywhere]
        waiters = [lock_of(kind, endpoint, name, **options) for name in everywhere]
        for lock in holders:
            await enter(lock)
            with pytest.raises(LockHeldError):
                await enter(lock_of(kind, endpoint, lock.name, namespace=namespace))
        waiting = [asyncio.create_task(enter(lock)) for lock in waiters]
        for lock in holders:
            await in_line(client, lock.name, namespace)
            assert run(client, who_holds(lock.name, namespace=namespace)).token == lock.token
            await leave(lock)
        # Each is woken: a poll would take longer than the test may.
        await asyncio.wait_for(asyncio.gather(*waiting), 8)
        assert all(new.token > old.token for old, new in zip(holders, waiters, strict=True))
        for lock in waiters:
            await leave(lock)
        assert run(client, who_holds(everywhere[0], namespace=namespace)) is None


async def test_leases_on_every_node_are_renewed(
    kind: str, namespace: str, deployment: ClusterDeployment
) -> None:
    locks = [
        lock_of(kind, deployment.endpoint, name, lease=9, namespace=namespace)
        for name in names(deployment, namespace)
    ]
    for lock in locks:
        await enter(lock)
    for lock in locks:
        began = lock._hold.renewed_at
        await asyncio.to_thread(renewed_since, lock, began)
    assert all(lock.held for lock in locks)
    for lock in locks:
        await leave(lock)


async def test_replicas_confirm(kind: str, namespace: str, deployment: ClusterDeployment) -> None:
    for name in names(deployment, namespace):
        lock = lock_of(kind, deployment.endpoint, name, replicas=1, namespace=namespace)
        await enter(lock)
        assert lock.held
        await leave(lock)


async def test_a_lock_and_its_line_move_with_their_slot(
    kind: str, namespace: str, deployment: ClusterDeployment
) -> None:
    endpoint = deployment.endpoint
    options = {"lease": 9, "wait": 60, "poll": 2, "namespace": namespace}
    with endpoint.client() as client:
        holder, waiter = (lock_of(kind, endpoint, "a", **options) for _ in range(2))
        await enter(holder)
        waiting = asyncio.create_task(enter(waiter))
        await in_line(client, "a", namespace)
        await asyncio.to_thread(deployment.move_slot, LockKeys("a", namespace).lock)
        moved_at = holder._hold.renewed_at
        await asyncio.to_thread(renewed_since, holder, moved_at)
        assert holder.held
        assert not waiting.done()
        await leave(holder)
        await waiting
        assert waiter.token > holder.token
        assert run(client, who_holds("a", namespace=namespace)).token == waiter.token
        await leave(waiter)
        assert run(client, who_holds("a", namespace=namespace)) is None


def test_calls_of_many_locks_are_answered_in_their_order(
    namespace: str, deployment: ClusterDeployment
) -> None:
    endpoint, everywhere = deployment.endpoint, [f"lock-{number}" for number in range(20)]
    calls = [take(name, f"owner of {name}", namespace=namespace) for name in everywhere]
    looks = [who_holds(name, namespace=namespace) for name in everywhere]
    with endpoint.client() as client:
        for sender in (client, thread_client(endpoint)):
            assert all(attempt.acquired for attempt in run_all(sender, calls))
            deployment.move_slot(calls[0].keys[0])
            owners = [holder.owner for holder in run_all(sender, looks)]
            assert owners == [f"owner of {name}" for name in everywhere]
        found = set(lock_names(client, namespace))
        assert found == set(everywhere)
        states = dict(lock_states(client, sorted(found), namespace=namespace))
        assert not [state for state in states.values() if isinstance(state, ServerError)]
        assert run(client, break_lock("lock-3", by="me", why="test", namespace=namespace))
        assert audit(client, "lock-3", namespace=namespace)


def test_threads_have_connections_of_their_own(
    namespace: str, deployment: ClusterDeployment
) -> None:
    endpoint, everywhere = deployment.endpoint, names(deployment, namespace)
    tokens: dict[str, list[int]] = {name: [] for name in everywhere}

    def work() -> None:
        for name in everywhere * 5:
            with Lock(endpoint, name, wait=30, namespace=namespace) as lock:
                tokens[name].append(lock.token)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found in tokens.values():
        assert len(found) == 20
        assert found == sorted(set(found))
    client = thread_client(endpoint)
    assert isinstance(client, Nodes)


async def test_a_lock_and_its_line_live_on_after_a_failover(
    kind: str, namespace: str, deployment: ClusterDeployment
) -> None:
    # On a node that has a replica; another one for each kind.
    key_of = {name: LockKeys(name, namespace).lock for name in names(deployment, namespace)}
    name = next(n for n, key in key_of.items() if deployment.replica_of(key))
    options = {"lease": 9, "namespace": namespace, "replica_timeout": 4}
    holder = lock_of(kind, deployment.endpoint, name, replicas=1, **options)
    waiter = lock_of(kind, deployment.endpoint, name, wait=60, poll=1, **options)
    with deployment.endpoint.client() as client:
        await enter(holder)
        waiting = asyncio.create_task(enter(waiter))
        await in_line(client, name, namespace)
        old = deployment.server_of(key_of[name])
        kill(old)
        failed_at = holder._hold.renewed_at
        await asyncio.to_thread(
            until, lambda: deployment.server_of(key_of[name]) is not old, "a new primary"
        )
        await asyncio.to_thread(renewed_since, holder, failed_at)
        if holder._hold.is_lost:
            with pytest.raises(LockLostError):
                holder.ensure_held()
        else:
            assert not waiting.done()
        await leave(holder)
        await waiting
        assert waiter.token > holder.token
        assert run(client, who_holds(name, namespace=namespace)).token == waiter.token
        await leave(waiter)


def test_nodes_that_are_gone_are_not_asked_for_ever() -> None:
    endpoint = Endpoint(nodes=(Node("127.0.0.1", 1),), topology="cluster", retries=0)
    slots = Slots.of(endpoint)
    for _ in range(2):
        with pytest.raises(UnreachableError, match="none of its nodes answers"):
            slots.node_of("a")
