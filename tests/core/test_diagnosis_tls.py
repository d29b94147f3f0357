"""What is wrong with TLS: a side that does without, certificates of servers, and of clients."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nexus_redis_provider.core.faults import Fault
from nexus_redis_provider.embedded import EmbeddedServer, free_port
from tests.certificates import certificate, server_options
from tests.core.diagnoses import assert_fault, found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The wheel's server has no TLS.
    if shutil.which("redis-server") is None:
        pytest.skip("TLS is not tested: there is no redis-server.")
    folder = tmp_path_factory.mktemp("certificates")
    certificate(folder / "ours")
    certificate(folder / "other")
    certificate(folder / "old", days=(-3, -2))
    certificate(folder / "elsewhere", "elsewhere.example", address="")
    return folder


@contextmanager
def over_tls(folder: Path, *, of_clients: str = "no") -> Iterator[tuple[EmbeddedServer, str]]:
    """A server whose port for TLS shows a certificate, and `host:port` of that."""
    port = str(free_port())
    options = server_options(folder, of_clients=of_clients)
    with EmbeddedServer("--tls-port", port, *options) as server:
        yield server, f"127.0.0.1:{port}"


def test_tls_where_there_is_none_and_none_where_there_is(folder: Path) -> None:
    with over_tls(folder / "ours") as (server, address):
        trusted = f"?ssl_ca_certs={folder}/ours/cert.pem"
        assert found(f"rediss://{address}{trusted}").fault is None
        assert_fault(found(f"redis://{address}"), Fault.TLS_WANTED, address)
        plain = f"rediss://127.0.0.1:{server.port}{trusted}"
        assert_fault(found(plain), Fault.TLS_UNWANTED, server.port)


@pytest.mark.parametrize(
    ("shown", "trusted", "fault"),
    [
        ("ours", "ssl_ca_certs={}/other/cert.pem", Fault.UNKNOWN_CA),
        ("ours", "", Fault.UNKNOWN_CA),
        ("old", "ssl_ca_certs={}/old/cert.pem", Fault.EXPIRED_CERTIFICATE),
        ("elsewhere", "ssl_ca_certs={}/elsewhere/cert.pem", Fault.WRONG_HOST_NAME),
        ("ours", "ssl_ca_certs={}/absent.pem", Fault.CERTIFICATE_FILES),
        ("ours", "ssl_ca_certs={}/ours/key.pem", Fault.CERTIFICATE_FILES),
        (
            "ours",
            "ssl_cert_reqs=none&ssl_certfile={0}/ours/cert.pem&ssl_keyfile={0}/other/key.pem",
            Fault.CERTIFICATE_FILES,
        ),
    ],
)
def test_certificates(shown: str, trusted: str, fault: Fault, folder: Path) -> None:
    with over_tls(folder / shown) as (_, address):
        diagnosis = found(f"rediss://{address}?{trusted.format(folder)}")
        assert_fault(diagnosis, fault, address)
        if fault is Fault.CERTIFICATE_FILES:
            assert f"{folder}/" in diagnosis.message
        if fault is Fault.WRONG_HOST_NAME:
            lax = f"rediss://{address}?{trusted.format(folder)}&ssl_check_hostname=false"
            assert found(lax).fault is None


def test_a_certificate_that_strict_verification_refuses(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lax = ssl.create_default_context

    def strict() -> ssl.SSLContext:
        """What Python makes from 3.13 on."""
        context = lax()
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    with over_tls(certificate(tmp_path / "plain", authority=folder / "ours")) as (_, address):
        diagnosis = found(f"rediss://{address}?ssl_ca_certs={folder}/ours/cert.pem")
        assert_fault(diagnosis, Fault.INCOMPLETE_CERTIFICATE, address)


def test_certificates_of_clients(folder: Path) -> None:
    with over_tls(folder / "ours", of_clients="yes") as (_, address):
        url = f"rediss://{address}?ssl_ca_certs={folder}/ours/cert.pem"

        def showing(name: str) -> str:
            return (
                f"{url}&ssl_certfile={folder}/{name}/cert.pem&ssl_keyfile={folder}/{name}/key.pem"
            )

        assert found(showing("ours")).fault is None
        assert_fault(found(url), Fault.CLIENT_CERTIFICATE_WANTED, address)
        assert_fault(found(showing("other")), Fault.CLIENT_CERTIFICATE_REFUSED, address)
        assert_fault(found(f"redis://{address}"), Fault.TLS_WANTED, address)
