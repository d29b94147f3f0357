"""The kind of server that the whole suite runs on: NEXUS_TEST_SERVER names it.

Unset, it is a plain one. `tls` is a server as an installation has it: users with passwords,
encrypted lines. Tests that start servers of their own keep those as they are.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import pytest

from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.endpoint import Endpoint, Tls
from nexus_redis_provider.embedded import EmbeddedServer, find_server, find_wheel_server

KINDS = ("", "tls")
KIND = os.environ.get("NEXUS_TEST_SERVER", "")
if KIND not in KINDS:
    raise pytest.UsageError(f"NEXUS_TEST_SERVER={KIND}: the kinds are {', '.join(KINDS[1:])}")
plain = pytest.mark.skipif(KIND == "tls", reason="It is about an open server, in the clear.")
SECRETS = Path(__file__).parents[1] / "deploy/secrets.sh"


def shared_server(binary: Path | None = None) -> EmbeddedServer:
    """What a fixture starts: a server of the kind that NEXUS_TEST_SERVER names."""
    return GuardedServer(binary=binary) if KIND == "tls" else EmbeddedServer(binary=binary)


def as_user(endpoint: Endpoint, name: str, password: str) -> Endpoint:
    """The same server for somebody else."""
    secret = Secret(SecretSource.LITERAL, password)
    return replace(endpoint, username=name, password=secret)


def url_of(endpoint: Endpoint, user: str | None = None, **options: str) -> str:
    """The same server as a URL.

    Args:
        user: somebody else, whose password `options` tell of; else where the endpoint's own is.
    """
    if user is None and endpoint.password is not None:
        user, options = endpoint.username, options | {"password_file": endpoint.password.value}
    if endpoint.tls:
        options |= {"ssl_ca_certs": str(endpoint.tls.ca_certs)}
    scheme, at = "rediss" if endpoint.tls else "redis", f"{user}@" if user else ""
    return f"{scheme}://{at}{endpoint.nodes[0]}?{urlencode(options)}".rstrip("?")


def connection_uri(kind: str, server: EmbeddedServer) -> str:
    """Of an Airflow connection of some type."""
    _, _, rest = url_of(server.endpoint).partition("://")
    return f"{kind}://{rest}{'&ssl=true' if server.endpoint.tls else ''}"


class GuardedServer(EmbeddedServer):
    """Its endpoint is that of the user `admin`; the wheel's has users, but no TLS."""

    def __init__(self, *, binary: Path | None = None) -> None:
        binary = binary or find_server()
        super().__init__(binary=binary)
        secrets = self.directory / "secrets"
        subprocess.run([SECRETS, secrets], check=True, capture_output=True)
        users = secrets / "users.acl"
        # As deploy/redis/start.sh does for Redis 7.0.
        users.write_text(users.read_text("utf-8").replace(" +client|setinfo", ""), "utf-8")
        self._arguments = ["--aclfile", str(users)]
        password = Secret(SecretSource.FILE, str(secrets / "admin"))
        self.endpoint = replace(self.endpoint, username="admin", password=password)
        if binary != find_wheel_server():
            self._arguments += [
                *("--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"),
                *("--tls-cert-file", f"{secrets}/server.crt"),
                *("--tls-key-file", f"{secrets}/server.key"),
                *("--tls-ca-cert-file", f"{secrets}/ca.crt"),
            ]
            self.endpoint = replace(self.endpoint, tls=Tls(ca_certs=f"{secrets}/ca.crt"))

    @property
    def url(self) -> str:
        """With the password by where it is."""
        return url_of(self.endpoint)
