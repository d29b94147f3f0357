"""Certificates of tls.sh are what servers and clients need, no more, and are renewed alone."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from nexus_redis_provider.core.endpoint import Endpoint, Node
from nexus_redis_provider.core.errors import UnreachableError
from nexus_redis_provider.core.translations import translated_errors
from tests.deploy.programs import DEPLOY, need
from tests.deploy.services import Service
from tests.deploy.test_compose import SERVICES

# What openssl.cnf has said on some systems, before it said more.
OLD_CONFIG = """\
[req]
distinguished_name = name
x509_extensions = authority
[name]
[authority]
basicConstraints = CA:true
"""


def make(folder: Path, *names: str, days: int = 1, **environment: str) -> Path:
    need("openssl")
    subprocess.run(
        [DEPLOY / "tls.sh", folder, *names],
        check=True,
        capture_output=True,
        env=os.environ | {"DAYS": str(days)} | environment,
    )
    return folder


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def ping(endpoint: Endpoint) -> bool:
    with replace(endpoint, retries=0).client() as client, translated_errors(client):
        return client.ping()


def alternatives(path: Path) -> x509.SubjectAlternativeName:
    return certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_every_server_is_named(secrets: Path) -> None:
    names = alternatives(secrets / "server.crt")
    in_compose = {
        s["environment"]["NAME"] for s in SERVICES.values() if "NAME" in s.get("environment", {})
    }
    assert in_compose | {"localhost"} <= set(names.get_values_for_type(x509.DNSName))
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_a_certificate_is_for_its_purpose(secrets: Path) -> None:
    server, client = (
        x509.oid.ExtendedKeyUsageOID.SERVER_AUTH,
        x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH,
    )
    for name, purposes in (("server", {server, client}), ("client", {client})):
        found = certificate(secrets / f"{name}.crt").extensions
        assert set(found.get_extension_for_class(x509.ExtendedKeyUsage).value) == purposes
        assert found.get_extension_for_class(x509.BasicConstraints).value.ca is False


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """Of the two, without a network."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while sides:
        for side in list(sides):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
                sides.remove(side)


def test_strict_verification_accepts_them(tmp_path: Path) -> None:
    """As Python's is from 3.13 on, whatever openssl.cnf says where they are made."""
    (tmp_path / "openssl.cnf").write_text(OLD_CONFIG)
    config = str(tmp_path / "openssl.cnf")
    folder = make(tmp_path / "tls", "localhost", OPENSSL_CONF=config)
    sides = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for side, name in zip(sides, ("client", "server"), strict=True):
        side.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
        side.load_verify_locations(folder / "ca.crt")
        side.verify_mode = ssl.CERT_REQUIRED
        side.verify_flags |= ssl.VERIFY_X509_STRICT
    handshake(*sides)
    # Other builds of openssl add these only where they are asked to.
    authority = certificate(folder / "ca.crt").extensions
    key = authority.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    for name in ("server", "client"):
        found = certificate(folder / f"{name}.crt").extensions
        assert found.get_extension_for_class(x509.SubjectKeyIdentifier)
        named = found.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        assert named.key_identifier == key


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = make(tmp_path / "tls", "localhost")
    for key in ("ca.key", "server.key", "client.key"):
        assert (folder / key).stat().st_mode & 0o077 == 0


def test_only_what_is_missing_is_made(tmp_path: Path) -> None:
    folder = make(tmp_path / "tls", "localhost")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    make(folder, "localhost")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "server.crt").unlink()
    make(folder, "redis.example", days=9)
    changed = {path.name for path in folder.iterdir() if path.read_bytes() != before[path.name]}
    assert changed == {"server.crt"}
    certificate(folder / "server.crt").verify_directly_issued_by(certificate(folder / "ca.crt"))


def test_a_renewal_keeps_names_keys_and_rights(binaries: None, tmp_path: Path) -> None:
    addresses = ["10.0.0.7", "127.0.0.1", "::1"]
    folder = make(tmp_path / "secrets", "localhost", "redis.example", *addresses)
    subprocess.run([DEPLOY / "secrets.sh", folder], check=True, capture_output=True)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    modes = {path.name: path.stat().st_mode for path in folder.iterdir()}
    names = alternatives(folder / "server.crt")
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == addresses
    expiry = certificate(folder / "server.crt").not_valid_after_utc
    make(folder, days=9)
    # Users of containers read them, as they did.
    assert {path.name: path.stat().st_mode for path in folder.iterdir()} == modes
    changed = {path.name for path in folder.iterdir() if path.read_bytes() != before[path.name]}
    assert changed == {"server.crt", "client.crt"}
    assert alternatives(folder / "server.crt") == names
    assert certificate(folder / "server.crt").not_valid_after_utc > expiry
    with Service(("state",), folder, tmp_path / "data", tls="mutual") as service:
        assert ping(service.endpoint("airflow"))


def test_a_certificate_is_readable_whoever_makes_it(tmp_path: Path) -> None:
    folder = make(tmp_path / "tls", "localhost")
    for name in ("ca", "server", "client"):
        assert (folder / f"{name}.crt").stat().st_mode & 0o777 == 0o644


def test_names_are_asked_for_where_no_certificate_has_them(tmp_path: Path) -> None:
    need("openssl")
    ran = subprocess.run([DEPLOY / "tls.sh", tmp_path], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert f"There is no {tmp_path}/server.crt to renew" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_authority_is_renewed_under_those_who_trust_it(
    secrets: Path, binaries: None, tmp_path: Path
) -> None:
    """Its key stays, so servers and clients may be given the new file one after the other."""
    folder = Path(shutil.copytree(secrets, tmp_path / "secrets"))
    old = (folder / "ca.crt").rename(tmp_path / "old.crt")
    key = (folder / "ca.key").rename(tmp_path / "ca.key")
    ran = subprocess.run(
        [DEPLOY / "secrets.sh", folder], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert f"ca.crt is to be made anew, and {folder}/ca.key is not there" in ran.stderr
    key.rename(folder / "ca.key")
    subprocess.run([DEPLOY / "secrets.sh", folder], check=True, capture_output=True)
    assert (folder / "ca.crt").read_bytes() != old.read_bytes()
    assert (folder / "server.crt").read_bytes() == (secrets / "server.crt").read_bytes()
    with Service(("state",), folder, tmp_path / "data", tls="mutual") as service:
        endpoint = service.endpoint("airflow")
        assert ping(endpoint)
        assert endpoint.tls is not None
        assert ping(replace(endpoint, tls=replace(endpoint.tls, ca_certs=str(old))))
        # What is signed from now on is good for those, too, who have the old file.
        make(folder)
        service.stop()
        service.start()
        assert ping(replace(endpoint, tls=replace(endpoint.tls, ca_certs=str(old))))


def test_the_authority_may_be_kept_elsewhere(tmp_path: Path) -> None:
    """Until there is something to sign; none is made that does not fit."""
    need("openssl")
    folder = tmp_path / "secrets"

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [DEPLOY / "secrets.sh", folder], capture_output=True, text=True, check=False
        )

    assert run().returncode == 0
    key = (folder / "ca.key").rename(tmp_path / "ca.key")
    before = (folder / "server.crt").read_bytes()
    assert run().returncode == 0
    assert not (folder / "ca.key").exists()
    assert (folder / "server.crt").read_bytes() == before
    (folder / "server.crt").unlink()
    ran = run()
    assert ran.returncode == 1
    assert f"server.crt is to be signed, and {folder}/ca.key is not there" in ran.stderr
    assert not (folder / "ca.key").exists()
    key.rename(folder / "ca.key")
    assert run().returncode == 0
    certificate(folder / "server.crt").verify_directly_issued_by(certificate(folder / "ca.crt"))


@pytest.mark.parametrize("tls", ["yes", "mutual"])
def test_both_sides_are_verified(tls: str, secrets: Path, binaries: None, tmp_path: Path) -> None:
    with Service(("state",), secrets, tmp_path / "data", tls=tls) as service:
        endpoint = service.endpoint("airflow")
        assert ping(endpoint)
        assert endpoint.tls is not None
        stranger = str(make(tmp_path / "other", "localhost") / "ca.crt")
        with pytest.raises(UnreachableError, match="certificate verify failed"):
            ping(replace(endpoint, tls=replace(endpoint.tls, ca_certs=stranger)))
        with pytest.raises(UnreachableError, match="certificate verify failed"):
            # A name that the certificate does not have.
            ping(replace(endpoint, nodes=(Node("127.0.0.2", service.port),)))
        nameless = replace(endpoint, tls=replace(endpoint.tls, certfile=None, keyfile=None))
        if tls == "mutual":
            with pytest.raises(UnreachableError):
                ping(nameless)
        else:
            assert ping(nameless)
        with pytest.raises(UnreachableError):
            ping(replace(endpoint, tls=None))
