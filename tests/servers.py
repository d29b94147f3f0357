"""The server that the shared fixtures start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.embedded import EmbeddedServer
from tests.guarded import own_server
from tests.urls import url_of


def shared_server(binary: Path | None = None) -> EmbeddedServer:
    """What a fixture starts: a server of the kind that NEXUS_TEST_SERVER names."""
    return own_server(binary=binary)


def as_user(endpoint: Endpoint, name: str, password: str) -> Endpoint:
    """The same server for somebody else."""
    secret = Secret(SecretSource.LITERAL, password)
    return replace(endpoint, username=name, password=secret)


def connection_uri(kind: str, server: EmbeddedServer) -> str:
    """Of an Airflow connection of some type."""
    _, _, rest = url_of(server.endpoint).partition("://")
    return f"{kind}://{rest}{'&ssl=true' if server.endpoint.tls else ''}"
