"""Sockets, credentials by provider, RESP2, idle connections: what a client does as it connects."""

from __future__ import annotations

import asyncio
import pickle
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
import redis
from redis.credentials import CredentialProvider

from nexus_redis_provider.core.connections import arevive, revive
from nexus_redis_provider.core.diagnosis import diagnose
from nexus_redis_provider.core.endpoint import Endpoint, Node, Tls
from nexus_redis_provider.core.errors import AccessDeniedError, ConfigurationError, UnreachableError
from nexus_redis_provider.core.faults import Fault
from nexus_redis_provider.core.gold.manifests import Layout
from nexus_redis_provider.core.gold.readers import AsyncGoldDataset, GoldDataset
from nexus_redis_provider.core.gold.tables import publish_table
from nexus_redis_provider.core.locks import AsyncLock, Lock
from nexus_redis_provider.core.locks.protocol import inspect, who_holds
from nexus_redis_provider.core.scripts import arun, run
from nexus_redis_provider.embedded import EmbeddedServer
from tests.conftest import Eventually
from tests.core.lock_calls import look
from tests.kinds import single_server, unspread
from tests.proxies import FaultyProxy

# Unix sockets.


@pytest.fixture
def path(binary: Path, tmp_path: Path) -> Iterator[str]:
    socket = str(tmp_path / "Redis.sock")
    with EmbeddedServer("--unixsocket", socket, binary=binary):
        yield socket


async def test_a_unix_socket(path: str) -> None:
    endpoint = Endpoint.from_url(f"unix://{path}?db=2&client_name=me")
    assert (endpoint.nodes, endpoint.db) == ((Node(path),), 2)
    assert str(endpoint) == f"{path}/2"
    with endpoint.client() as client, Lock(endpoint, "a") as lock:
        assert client.client_info()["name"] == "me"
        assert client.client_info()["db"] == 2
        assert run(client, who_holds("a")).token == lock.token
    async with endpoint.async_client() as async_client, AsyncLock(endpoint, "a") as lock:
        assert (await arun(async_client, who_holds("a"))).token == lock.token


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("unix://run/redis.sock", "bad host, port or database"),
        ("unix://", "bad host, port or database"),
        ("unix:///run/redis.sock?db=x", "bad host, port or database"),
        ("unix://:hunter2/x@/run/redis.sock", "percent-encoded"),
        ("unix:///run/redis.sock?ssl_ca_certs=/a", "has ssl_ca_certs, but no TLS"),
    ],
)
def test_a_bad_socket(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        Endpoint.from_url(url)
    assert "hunter2" not in str(refused.value)


async def test_a_silent_socket_is_tried_no_more_often_than_told(kind: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path := str(tmp_path / "s"))
        silent.listen(100)
        endpoint = Endpoint(nodes=(Node(path),), read_timeout=0.1, retries=1)
        with pytest.raises(UnreachableError, match="Timeout"):
            await asyncio.wait_for(look(kind, endpoint), 60)
        silent.setblocking(False)
        tried = 0
        with suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
                tried += 1
    assert tried == 2


def test_a_socket_is_of_one_server_without_tls() -> None:
    for url in ("redis+cluster://h", "redis+sentinel://h?master=m", "rediss://h"):
        with pytest.raises(ConfigurationError, match="Unix socket is that of a single server"):
            replace(Endpoint.from_url(url), nodes=(Node("/run/redis.sock"),))


# Credentials by a provider.


class Rotating(CredentialProvider):
    """Another password for each connection, as a cloud's token service gives them."""

    passwords: ClassVar[list[str]] = []

    def get_credentials(self) -> tuple[str, str]:
        return "rotating", self.passwords.pop(0)


class Choosy(CredentialProvider):
    """Not to be made without an argument."""

    def __init__(self, argument: str) -> None:
        self.argument = argument


class Sealed(CredentialProvider):
    """Cannot say it at the moment."""

    def get_credentials(self) -> tuple[str, str]:
        raise RuntimeError("the vault is sealed")

    async def get_credentials_async(self) -> tuple[str, str]:
        raise RuntimeError("the vault is sealed")


class Mute(CredentialProvider):
    """Says nothing that is a password."""

    def get_credentials(self) -> None:
        return None

    async def get_credentials_async(self) -> None:
        return None


PROVIDER = f"{__name__}.Rotating"


@unspread
async def test_each_connection_asks_the_provider(
    endpoint: Endpoint, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords = ["+one", "+two", "+three"]
    rights = {"categories": ["+@all"], "keys": ["*"]}
    client.acl_setuser("rotating", enabled=True, passwords=passwords, **rights)
    monkeypatch.setattr(Rotating, "passwords", ["one", "two", "three", "wrong"])
    provided = replace(
        endpoint, username=None, password=None, credential_provider=PROVIDER, retries=0
    )
    try:
        with provided.client() as first, pickle.loads(pickle.dumps(provided)).client() as second:
            assert first.acl_whoami() == second.acl_whoami() == "rotating"
        async with provided.async_client() as third:
            assert await third.acl_whoami() == "rotating"
        with provided.client() as fourth, pytest.raises(AccessDeniedError):
            run(fourth, who_holds("a"))
        assert Rotating.passwords == []
    finally:
        client.acl_deluser("rotating")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.Provider", "is not package.module.Class: No module named 'nowhere'"),
        (f"{__name__}.Absent", "is not package.module.Class: .* 'Absent'"),
        ("Provider", "is not package.module.Class"),
        ("os.system", "'os.system' is no subclass of redis.credentials.CredentialProvider"),
        (f"{__name__}.Endpoint", "is no subclass"),
        (f"{__name__}.Choosy", "cannot be made without arguments"),
        ("..", "is not package.module.Class"),
    ],
)
def test_a_name_that_is_no_provider(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Endpoint(credential_provider=name).client()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{__name__}.Sealed", "Sealed' failed: RuntimeError: the vault is sealed"),
        (f"{__name__}.Mute", r"neither \(password,\) nor \(user, password\)"),
        ("redis.credentials.CredentialProvider", "CredentialProvider' failed"),
    ],
)
@single_server
async def test_a_provider_that_fails_denies_access(
    name: str, message: str, endpoint: Endpoint
) -> None:
    provided = replace(endpoint, username=None, password=None, credential_provider=name, retries=0)
    with provided.client() as client, pytest.raises(AccessDeniedError, match=message):
        run(client, who_holds("a"))
    async with provided.async_client() as client:
        with pytest.raises(AccessDeniedError, match=message):
            await arun(client, who_holds("a"))
    diagnosis = diagnose(provided)
    assert diagnosis.fault is Fault.NO_CREDENTIALS
    assert re.search(message, diagnosis.message)


def test_a_provider_or_a_password() -> None:
    for user in ("u@", ":p@"):
        with pytest.raises(ConfigurationError, match="give it, or those, not both"):
            Endpoint.from_url(f"redis://{user}h?credential_provider=a.b.C")


# RESP2 and RESP3.


@pytest.mark.parametrize("protocol", [2, 3])
async def test_both_protocols_do_all(
    endpoint: Endpoint, namespace: str, eventually: Eventually, protocol: Any
) -> None:
    spoken = replace(endpoint, protocol=protocol)

    def wait() -> None:
        with Lock(spoken, "a", wait=30, namespace=namespace):
            pass

    with spoken.client() as client:
        assert client.client_info()["resp"] == str(protocol)
        with Lock(spoken, "a", namespace=namespace):
            thread = threading.Thread(target=wait)
            thread.start()
            await eventually(lambda: run(client, inspect("a", namespace=namespace)).length)
        thread.join()
        rows = [{"shop": str(number), "n": number, "x": None} for number in range(10)]
        table = pa.Table.from_pylist(rows, pa.schema({"shop": "string", "n": "int64", "x": "int8"}))
        # Hashes are not written to a Cluster.
        for layout in set(Layout) - ({Layout.HASH} if endpoint.is_cluster else set()):
            dataset = f"sales-{layout}"
            where: dict[str, Any] = {"endpoint": spoken, "layout": layout, "namespace": namespace}
            manifest = publish_table(table, dataset, key="shop", ttl=600, **where)
            reader = GoldDataset(client, dataset, namespace=namespace)
            assert reader.verify() == manifest
            assert reader.get("7") == rows[7]
            async with spoken.async_client() as async_client:
                async_reader = AsyncGoldDataset(async_client, dataset, namespace=namespace)
                assert await async_reader.get("7") == rows[7]

    async def wait_async() -> None:
        async with AsyncLock(spoken, "a", wait=30, namespace=namespace):
            pass

    async with AsyncLock(spoken, "a", namespace=namespace):
        waiting = asyncio.create_task(wait_async())
        with spoken.client() as client:
            await eventually(lambda: run(client, inspect("a", namespace=namespace)).length)
    await waiting


def test_there_is_no_other_protocol() -> None:
    with pytest.raises(ConfigurationError, match="protocol must be 2 or 3, not 1"):
        Endpoint.from_url("redis://h?protocol=1")


# Idle connections.


@single_server
@pytest.mark.parametrize(("interval", "pings"), [(0.01, 1), (0, 0), (60, 0)])
def test_an_idle_connection_is_tried(
    interval: float, pings: int, server: EmbeddedServer, client: redis.Redis
) -> None:
    def count() -> int:
        return int(client.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"])

    with replace(server.endpoint, health_check_interval=interval).client() as idle:
        idle.get("a")
        before = count()
        time.sleep(0.02)
        idle.get("a")
        assert count() == before + pings


@pytest.mark.parametrize("pool_timeout", [0, 30])
async def test_an_idle_connection_that_died_is_made_anew_before_it_is_used(
    pool_timeout: float, kind: str, proxy: FaultyProxy
) -> None:
    """Without a retry of the command, since nothing of it was sent yet."""
    endpoint = replace(
        proxy.endpoint,
        retries=0,
        max_connections=1,
        pool_timeout=pool_timeout,
        health_check_interval=0.01,
    )
    with endpoint.client() as client:
        async with endpoint.async_client() as async_client:

            async def ask_when_idle() -> Any:
                await asyncio.sleep(0.02)
                return client.get("a") if kind == "sync" else await async_client.get("a")

            assert await ask_when_idle() is None
            proxy.cut_after(0)
            assert await ask_when_idle() is None
            assert (proxy.cuts, proxy.connections) == (1, 2)
            proxy.cut_after(0)
            proxy.cut_after(0)
            with pytest.raises(redis.ConnectionError):
                await ask_when_idle()
            assert proxy.cuts == 3
            assert await ask_when_idle() is None  # It came back to the pool.


@single_server
def test_a_late_reply_is_not_taken_for_that_to_a_ping(server: EmbeddedServer) -> None:
    with server.endpoint.client() as client:
        connection = client.connection_pool.get_connection()
        connection.send_command("ECHO", "late")
        connection.next_health_check = 0
        revive(connection)
        connection.send_command("ECHO", "due")
        assert connection.read_response() == b"due"
        client.connection_pool.release(connection)


@single_server
async def test_nor_is_it_by_asyncio(server: EmbeddedServer) -> None:
    async with server.endpoint.async_client() as client:
        connection = await client.connection_pool.get_connection()
        await connection.send_command("ECHO", "late")
        connection.next_health_check = 0
        await arevive(connection)
        await connection.send_command("ECHO", "due")
        assert await connection.read_response() == b"due"
        await client.connection_pool.release(connection)


# Silence.


@pytest.mark.parametrize("is_known", [False, True])
async def test_a_silent_server_is_connected_to_once_per_attempt(
    is_known: bool, kind: str, proxy: FaultyProxy, eventually: Eventually
) -> None:
    """However it is silent: when it shakes hands, is greeted, or is asked something."""
    endpoint = replace(proxy.endpoint, read_timeout=0.2, connect_timeout=0.2, retries=2)
    with endpoint.client() as client:
        async with endpoint.async_client() as async_client:

            async def ask() -> Any:
                return client.get("a") if kind == "sync" else await async_client.get("a")

            while is_known:
                with suppress(redis.TimeoutError):  # A busy machine may be as slow as this.
                    await ask()
                    break
            before = proxy.connections
            proxy.silence()
            with pytest.raises(redis.TimeoutError):
                await ask()
            attempts = 2 if is_known else 3
            # The proxy may count later than the client gives up.
            await eventually(lambda: proxy.connections - before >= attempts)
            assert proxy.connections - before == attempts
            proxy.heal()


async def test_a_silent_server_is_greeted_over_tls_once_per_attempt(
    kind: str, proxy: FaultyProxy, eventually: Eventually
) -> None:
    """It is silent before TLS has begun, so no server with certificates is needed."""
    proxy.silence()
    quick = replace(proxy.endpoint, read_timeout=0.2, connect_timeout=0.2, retries=2, tls=Tls())
    with quick.client() as client:
        async with quick.async_client() as async_client:
            with pytest.raises((redis.TimeoutError, redis.ConnectionError)):
                client.get("a") if kind == "sync" else await async_client.get("a")
    await eventually(lambda: proxy.connections >= 3)
    assert proxy.connections == 3
    proxy.heal()
