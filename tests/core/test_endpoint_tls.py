"""Over TLS, every kind of deployment is reached, and a stranger's certificate is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives import serialization

from nexus_redis_provider.core.endpoint import Endpoint, Tls
from nexus_redis_provider.core.errors import ConfigurationError, UnreachableError
from nexus_redis_provider.core.locks import AsyncLock, Lock
from nexus_redis_provider.core.locks.protocol import who_holds
from nexus_redis_provider.core.scripts import arun, run
from nexus_redis_provider.embedded import EmbeddedServer, free_port
from tests.certificates import certificate, server_options
from tests.topologies import until


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The wheel's server has no TLS.
    if shutil.which("redis-server") is None:
        pytest.skip("TLS is not tested: there is no redis-server.")
    return certificate(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def urls(tls: Path) -> Iterator[dict[str, str]]:
    """The URL of a deployment of each kind."""
    options = [
        *server_options(tls),
        *("--tls-replication", "yes", "--tls-cluster", "yes"),
    ]
    with ExitStack() as stack:

        def start(*arguments: str, config: str = "") -> tuple[EmbeddedServer, int]:
            port = free_port()
            server = EmbeddedServer("--tls-port", str(port), *options, *arguments, config=config)
            return stack.enter_context(server), port

        _, plain = start()
        _, watched = start("--sentinel", config=f"sentinel monitor m 127.0.0.1 {plain} 1")
        node, whole = start("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
        with node.endpoint.client() as client:
            client.cluster("ADDSLOTSRANGE", 0, 16383)
            until(lambda: client.cluster("INFO")["cluster_state"] == "ok", "a Cluster")
        yield {
            "redis": f"rediss://127.0.0.1:{plain}?",
            "sentinel": f"rediss+sentinel://127.0.0.1:{watched}?master=m",
            "cluster": f"rediss+cluster://127.0.0.1:{whole}?",
        }


@pytest.mark.parametrize("topology", ["redis", "sentinel", "cluster"])
async def test_certificates_are_verified(
    topology: str, urls: dict[str, str], tls: Path, tmp_path: Path
) -> None:
    url = f"{urls[topology]}&retries=0&ssl_ca_certs="
    endpoint = Endpoint.from_url(f"{url}{tls}/cert.pem")
    with endpoint.client() as client, Lock(endpoint, "a") as lock:
        assert run(client, who_holds("a")).token == lock.token
    async with endpoint.async_client() as async_client, AsyncLock(endpoint, "a") as again:
        assert (await arun(async_client, who_holds("a"))).token == again.token > lock.token
    stranger = Endpoint.from_url(f"{url}{certificate(tmp_path / 'other')}/cert.pem")
    with pytest.raises(UnreachableError, match="certificate verify failed"):
        Lock(stranger, "a").__enter__()
    with pytest.raises(UnreachableError, match="certificate verify failed"):
        await AsyncLock(stranger, "a").__aenter__()


@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_a_file_that_cannot_be_used_is_named(name: str, tmp_path: Path) -> None:
    ours = certificate(tmp_path / "ours")
    given = {"ssl_certfile": ours / "cert.pem", "ssl_keyfile": ours / "key.pem"}
    (tmp_path / "none.pem").write_text("none")
    for bad, why in (("absent.pem", "No such file"), (".", "Is a directory"), ("none.pem", "_ssl")):
        options = urlencode(given | {name: tmp_path / bad})
        endpoint = Endpoint.from_url(f"rediss://h?{options}")
        for connect in (endpoint.client, endpoint.async_client):
            with pytest.raises(
                ConfigurationError, match=f"{name}=.*{why}|key in .*{why}"
            ) as refused:
                connect()
            assert str(tmp_path / bad) in str(refused.value)


def test_nobody_is_asked_for_a_passphrase(tmp_path: Path) -> None:
    ours = certificate(tmp_path / "ours")
    key = serialization.load_pem_private_key((ours / "key.pem").read_bytes(), None)
    (ours / "locked.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"hunter2"),
        )
    )
    tls = Tls(certfile=f"{ours}/cert.pem", keyfile=f"{ours}/locked.pem")
    with pytest.raises(ConfigurationError, match=r"locked\.pem': the key is encrypted"):
        Endpoint(tls=tls).client()
