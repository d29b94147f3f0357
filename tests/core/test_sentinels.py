"""Clients follow the primary that Sentinels name, and so do locks."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from nexus_redis_provider.core.clients import thread_client
from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.endpoint import Endpoint, Node
from nexus_redis_provider.core.errors import (
    AccessDeniedError,
    LockHeldError,
    LockLostError,
    UnreachableError,
)
from nexus_redis_provider.core.locks.protocol import inspect, who_holds
from nexus_redis_provider.core.scripts import arun, run
from nexus_redis_provider.embedded import EmbeddedServer, find_server
from tests.conftest import need_server
from tests.core.lock_calls import enter, leave, lock_of, look, take
from tests.guarded import own_server
from tests.topologies import MASTER, SentinelDeployment, kill, until, watched_by


@pytest.fixture(scope="module")
def deployment() -> Iterator[SentinelDeployment]:
    need_server(find_server)
    # One after the other fails, in several tests.
    with SentinelDeployment(replicas=3) as deployment:
        yield deployment


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


async def port_of(client: Any) -> int:
    found = client.info("server")
    return (found if isinstance(found, dict) else await found)["tcp_port"]


async def test_clients_find_the_primary(deployment: SentinelDeployment) -> None:
    endpoint, port = deployment.endpoint, deployment.primary.port
    for options in ({}, {"protocol": 2}, {"single_connection_client": True}):
        with endpoint.client(**options) as client:
            assert await port_of(client) == port
            assert client.get_connection_kwargs().get("protocol") == options.get("protocol")
            assert (client.connection is None) == ("single_connection_client" not in options)
        async with endpoint.async_client(**options) as client:
            assert await port_of(client) == port
    assert await port_of(thread_client(endpoint)) == port


async def test_the_sentinels_keep_no_connection(deployment: SentinelDeployment) -> None:
    names = {f"client-{uuid.uuid4().hex}" for _ in range(2)}
    first, second = (replace(deployment.endpoint, client_name=name) for name in names)
    with first.client() as client:
        async with second.async_client() as async_client:
            assert client.ping()
            assert await async_client.ping()
            for sentinel in deployment.sentinels:
                with sentinel.endpoint.client() as onlooker:
                    others = [
                        one["lib-name"] for one in onlooker.client_list() if "lib-name" in one
                    ]
                    assert len(others) <= 1


async def test_options_reach_the_server(deployment: SentinelDeployment) -> None:
    endpoint = replace(deployment.endpoint, client_name="me", db=3)
    with endpoint.client() as client:
        assert client.client_info()["name"] == "me"
        assert client.client_info()["db"] == 3
    async with endpoint.async_client() as client:
        assert (await client.client_info())["db"] == 3


async def test_an_unknown_master_is_named(kind: str, deployment: SentinelDeployment) -> None:
    endpoint = replace(deployment.endpoint, master="nope", retries=0)
    with pytest.raises(UnreachableError, match="knows no master 'nope', but 'state'") as refused:
        await look(kind, endpoint)
    assert str(endpoint) in str(refused.value)
    with pytest.raises(UnreachableError, match="knows no master 'nope'"):
        thread_client(endpoint)


async def test_one_sentinel_is_enough(kind: str, deployment: SentinelDeployment) -> None:
    nodes = (Node("127.0.0.1", 1), deployment.endpoint.nodes[0])
    await look(kind, replace(deployment.endpoint, nodes=nodes))


async def test_no_sentinel_is_named(kind: str) -> None:
    endpoint = Endpoint.from_url("redis+sentinel://127.0.0.1:1,127.0.0.1:2?master=m&retries=0")
    with pytest.raises(UnreachableError, match=r"no Sentinel answers \(127.0.0.1:1: .*:2: "):
        await look(kind, endpoint)


async def test_sentinels_may_ask_for_a_password(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCH", "hunter2")
    need_server(find_server)
    with EmbeddedServer("--requirepass", "of the server") as server:
        lines = (
            f"sentinel monitor m 127.0.0.1 {server.port} 1\nsentinel auth-pass m 'of the server'"
        )
        with EmbeddedServer("--sentinel", config=f"{lines}\nrequirepass hunter2") as sentinel:
            url = f"redis+sentinel://:of%20the%20server@127.0.0.1:{sentinel.port}?master=m"
            await look(kind, Endpoint.from_url(f"{url}&sentinel_password_env=WATCH"))
            with pytest.raises(AccessDeniedError, match="sentinel_password_env") as refused:
                await look(kind, Endpoint.from_url(f"{url}&retries=0"))
            assert f"Sentinel 127.0.0.1:{sentinel.port}" in str(refused.value)
            wrong = Secret(SecretSource.LITERAL, "hunter3")
            with pytest.raises(AccessDeniedError, match="Sentinel") as refused:
                await look(kind, replace(Endpoint.from_url(url), sentinel_password=wrong))
            assert "hunter3" not in str(refused.value)


async def test_the_right_that_is_enough_with_sentinels(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCH", "pw")
    need_server(find_server)
    with own_server() as server:
        config = f"sentinel monitor m 127.0.0.1 {server.port} 1"
        with own_server("--sentinel", config=config) as sentinel:
            endpoint = replace(
                watched_by(sentinel, server, "m"),
                retries=0,
                sentinel_username="watcher",
                sentinel_password=Secret(SecretSource.ENV, "WATCH"),
            )
            user = ("watcher", "on", ">pw", "-@all")
            with sentinel.endpoint.client() as client:
                client.execute_command("ACL SETUSER", *user, "+sentinel|masters")
                await look(kind, endpoint)
                client.execute_command("ACL SETUSER", *user, "+ping")
                told = "sentinel\\|masters.*Give that right"
                with pytest.raises(AccessDeniedError, match=told):
                    await look(kind, endpoint)


async def test_a_primary_that_is_down_is_named(kind: str) -> None:
    need_server(find_server)
    with own_server() as server:
        lines = (
            f"sentinel monitor {MASTER} 127.0.0.1 {server.port} 2",
            f"sentinel down-after-milliseconds {MASTER} 100",
        )
        with own_server("--sentinel", config="\n".join(lines)) as sentinel:
            kill(server)
            with sentinel.endpoint.client() as client:
                until(lambda: client.sentinel_masters()[MASTER]["is_sdown"], "a dead primary")
            endpoint = replace(watched_by(sentinel, server), retries=0)
            with pytest.raises(UnreachableError, match=f"{server.port} down, and no other one"):
                await look(kind, endpoint)


async def test_the_next_command_goes_to_the_new_primary(deployment: SentinelDeployment) -> None:
    endpoint = deployment.endpoint
    impatient = replace(endpoint, retries=0)
    with endpoint.client() as client, impatient.client() as hasty:
        async with endpoint.async_client() as async_client:
            old = deployment.primary.port
            assert {await port_of(client), await port_of(async_client)} == {old}
            assert await port_of(thread_client(endpoint)) == old
            run(hasty, who_holds("a"))
            kill(deployment.primary)
            with pytest.raises(UnreachableError, match="master 'state' of Sentinels"):
                run(hasty, who_holds("a"))
            until(lambda: deployment.agreed() not in (None, old), "a new primary")
            new = deployment.primary.port
            assert {await port_of(client), await port_of(async_client)} == {new}
            assert await port_of(thread_client(endpoint)) == new
            run(client, take("a", "o", namespace="failover"))
            assert (await arun(async_client, who_holds("a", namespace="failover"))).owner == "o"


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_demoted_primary_is_left(
    name: str, deployment: SentinelDeployment, is_told: bool
) -> None:
    old = deployment.primary
    with deployment.endpoint.client() as client:
        run(client, take(name, "o"))
        with deployment.sentinels[0].endpoint.client() as sentinel:
            until(lambda: _fail_over(sentinel), "a failover that begins")
        until(lambda: deployment.agreed() not in (None, old.port), "a new primary")
        # Until the old one knows, only its `min-replicas-to-write` would stop it. Sentinels take
        # ten seconds to tell it.
        with old.endpoint.client() as itself:
            if is_told:
                itself.replicaof("127.0.0.1", deployment.primary.port)
            else:
                itself.config_set("min-replicas-to-write", 5)
            assert (again := run(client, take(name, "o"))).acquired
            assert await port_of(client) == deployment.primary.port
            assert run(client, who_holds(name)).token == again.token
            itself.replicaof("127.0.0.1", deployment.primary.port)
            itself.config_set("min-replicas-to-write", 0)


async def test_a_primary_without_replicas_is_no_other_one(
    name: str, deployment: SentinelDeployment
) -> None:
    with deployment.primary.endpoint.client() as itself, deployment.endpoint.client() as client:
        itself.config_set("min-replicas-to-write", 5)
        with pytest.raises(UnreachableError, match=r"NOREPLICAS .* See INFO replication"):
            run(client, take(name, "o"))
        itself.config_set("min-replicas-to-write", 0)
        assert run(client, take(name, "o")).acquired


def _fail_over(sentinel: Any) -> bool:
    try:
        return bool(sentinel.sentinel_failover(MASTER))
    except Exception as error:
        # One may just be over.
        if "INPROG" in str(error) or "NOGOODSLAVE" in str(error):
            return False
        raise


async def test_locks(kind: str, name: str, deployment: SentinelDeployment) -> None:
    first, second = (lock_of(kind, deployment.endpoint, name, wait=20) for _ in range(2))
    await enter(first)
    with pytest.raises(LockHeldError):
        await enter(lock_of(kind, deployment.endpoint, name))
    waiting = asyncio.create_task(enter(second))
    with deployment.endpoint.client() as client:
        await asyncio.to_thread(until, lambda: run(client, inspect(name)).length, "a waiter")
    await leave(first)
    await waiting
    assert second.token > first.token
    await leave(second)


async def test_a_lock_and_its_line_live_on_after_a_failover(
    kind: str, name: str, deployment: SentinelDeployment
) -> None:
    with deployment.endpoint.client() as client:
        replicas = client.info("replication")["connected_slaves"]
        # All of them know of it, so whoever takes over does.
        holder = lock_of(
            kind, deployment.endpoint, name, lease=9, replicas=replicas, replica_timeout=4
        )
        waiter = lock_of(kind, deployment.endpoint, name, wait=60, poll=1)
        await enter(holder)
        waiting = asyncio.create_task(enter(waiter))
        await asyncio.to_thread(until, lambda: run(client, inspect(name)).length, "a waiter")
        await asyncio.to_thread(deployment.fail_over)
        failed_over_at = holder._hold.renewed_at
        await asyncio.to_thread(
            until,
            lambda: holder._hold.renewed_at > failed_over_at or holder._hold.is_lost,
            "a renewal, or the loss",
        )
        if holder._hold.is_lost:
            with pytest.raises(LockLostError):
                holder.ensure_held()
        else:
            assert not waiting.done()
            with deployment.endpoint.client() as onlooker:
                assert run(onlooker, who_holds(name)).token == holder.token
        await leave(holder)
        await waiting
        assert waiter.held
        assert waiter.token > holder.token
        await leave(waiter)
