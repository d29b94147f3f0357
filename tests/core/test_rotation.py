"""A password that is named by where it is may change while clients are open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.credentials import UsernamePasswordCredentialProvider

from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.diagnosis import diagnose
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ConfigurationError, NoPasswordError
from nexus_redis_provider.core.locks.protocol import who_holds
from nexus_redis_provider.core.scripts import arun, run
from nexus_redis_provider.embedded import EmbeddedServer, find_server
from tests.conftest import need_server
from tests.core.lock_calls import look
from tests.kinds import unspread
from tests.topologies import ClusterDeployment

Put = Callable[[str], None]


@pytest.fixture(params=[SecretSource.FILE, SecretSource.ENV, SecretSource.ENV_URL])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Secret, Put]:
    """Where a password is, and how to put another one there."""
    if request.param is SecretSource.FILE:
        file = tmp_path / "secret"
        return Secret(request.param, str(file)), lambda text: file.write_text(f"{text}\n")
    form = "redis://:{}@h" if request.param is SecretSource.ENV_URL else "{}"
    return (
        Secret(request.param, "ROTATED"),
        lambda text: monkeypatch.setenv("ROTATED", form.format(text)),
    )


def give(admin: redis.Redis, password: str) -> None:
    """Give the user `rotated` one password in place of all that it had."""
    admin.acl_setuser(
        "rotated",
        enabled=True,
        reset=True,
        passwords=[f"+{password}"],
        keys=["*"],
        categories=["+@all"],
    )


@pytest.fixture
def allow(client: redis.Redis) -> Iterator[Put]:
    yield partial(give, client)
    client.acl_deluser("rotated")


def as_rotated(endpoint: Endpoint, secret: Secret) -> Endpoint:
    return replace(endpoint, username="rotated", password=secret, retries=0)


@unspread
def test_a_client_of_another_user_or_password(
    endpoint: Endpoint, place: tuple[Secret, Put], allow: Put
) -> None:
    secret, put = place
    put("another")
    allow("one")
    rotated = as_rotated(endpoint, secret)
    with rotated.client(password="one") as client:
        assert client.ping()
    put("one")
    with replace(rotated, username="nobody").client(username="rotated") as client:
        assert client.ping()
    put("another")
    provider = UsernamePasswordCredentialProvider("rotated", "one")
    with rotated.client(credential_provider=provider) as client:
        assert client.ping()
    literal = replace(rotated, password=Secret(SecretSource.LITERAL, "another"))
    with literal.client(credential_provider=provider) as client:
        assert client.ping()


@unspread
async def test_the_next_connection_has_the_password_of_then(
    kind: str, endpoint: Endpoint, place: tuple[Secret, Put], allow: Put
) -> None:
    secret, put = place
    put("one")
    allow("one")
    with as_rotated(endpoint, secret).client() as client:
        async with as_rotated(endpoint, secret).async_client() as async_client:

            async def ask() -> Any:
                if kind == "sync":
                    return client.acl_whoami()
                return await async_client.acl_whoami()

            async def hang_up() -> None:
                client.connection_pool.disconnect()
                await async_client.connection_pool.disconnect()

            assert await ask() == "rotated"
            allow("two")
            put("two")
            assert await ask() == "rotated"  # Over the line that is open.
            await hang_up()
            assert await ask() == "rotated"
            put("hunter2")
            await hang_up()
            with pytest.raises(redis.AuthenticationError) as refused:
                await ask()
            assert "hunter2" not in str(refused.value)


@unspread
async def test_a_file_that_has_gone_is_named_until_it_is_back(
    kind: str, endpoint: Endpoint, allow: Put, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text("one")
    allow("one")
    rotated = as_rotated(endpoint, Secret(SecretSource.FILE, str(file)))
    with rotated.client() as client:
        async with rotated.async_client() as async_client:

            async def ask() -> Any:
                if kind == "sync":
                    return run(client, who_holds("a"))
                return await arun(async_client, who_holds("a"))

            file.unlink()
            with pytest.raises(ConfigurationError, match=f"file {file}, which cannot be read"):
                client.ping() if kind == "sync" else await async_client.ping()
            with pytest.raises(NoPasswordError, match=f"not asked. .* file {file}, which") as told:
                await ask()
            assert told.value.endpoint == str(endpoint)
            file.write_text("one")
            assert await ask() is None
    file.unlink()
    with pytest.raises(ConfigurationError, match=str(file)):
        diagnose(rotated)


async def test_each_node_of_a_cluster_is_given_the_password_of_then(
    kind: str, deployment: ClusterDeployment, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    endpoint = replace(deployment.endpoint, username="rotated")
    endpoint = replace(endpoint, password=Secret(SecretSource.FILE, str(file)))
    keys = [f"key-{number}" for number in range(20)]

    def rotate(password: str) -> None:
        for server in deployment.servers:
            with server.endpoint.client() as admin:
                give(admin, password)
                admin.client_kill_filter(user="rotated")
        file.write_text(password)

    rotate("one")
    with endpoint.client() as client, endpoint.client_for("a") as plain:
        async with endpoint.async_client() as async_client, endpoint.async_client_for("a") as other:

            async def ask() -> None:
                for key in keys:
                    client.get(key) if kind == "sync" else await async_client.get(key)
                plain.get("a") if kind == "sync" else await other.get("a")
                await look(kind, endpoint)

            await ask()
            rotate("two")
            await ask()
    file.unlink()
    with pytest.raises(ConfigurationError, match=f"file {file}"):
        await look(kind, endpoint)


async def test_sentinels_are_given_the_password_of_then(kind: str, tmp_path: Path) -> None:
    need_server(find_server)
    file = tmp_path / "secret"
    file.write_text("one")
    with EmbeddedServer() as server:
        config = f"sentinel monitor m 127.0.0.1 {server.port} 1\nrequirepass one"
        with (
            EmbeddedServer("--sentinel", config=config) as sentinel,
            redis.Redis(port=sentinel.port, password="one") as admin,
        ):
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}?master=m&retries=0"
            endpoint = Endpoint.from_url(f"{url}&sentinel_password_file={file}")
            with endpoint.client() as client:
                async with endpoint.async_client() as async_client:

                    async def ask() -> Any:
                        client.connection_pool.disconnect()
                        await async_client.connection_pool.disconnect()
                        return client.ping() if kind == "sync" else await async_client.ping()

                    assert await ask()
                    admin.execute_command("ACL SETUSER", "default", "resetpass", ">two")
                    file.write_text("two")
                    assert await ask()
                    file.unlink()
                    with pytest.raises(ConfigurationError, match=f"file {file}") as refused:
                        await ask()
                    assert "Sentinel" not in str(refused.value)  # It was not asked.
