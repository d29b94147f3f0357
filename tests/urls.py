"""Endpoints as users write them."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlencode

from nexus_redis_provider.core.endpoint import Endpoint, Topology


def url_of(endpoint: Endpoint, user: str | None = None, **options: str) -> str:
    """The same server as a URL.

    Args:
        user: somebody else, whose password `options` tell of; else where the endpoint's own is.
    """
    if user is None and endpoint.password is not None:
        user, options = endpoint.username, options | {"password_file": endpoint.password.value}
    if endpoint.sentinel_password is not None:
        options |= {
            "sentinel_username": str(endpoint.sentinel_username),
            "sentinel_password_file": endpoint.sentinel_password.value,
        }
    if endpoint.tls:
        options |= {"ssl_ca_certs": str(endpoint.tls.ca_certs)}
    if endpoint.master:
        options |= {"master": endpoint.master}
    scheme, at = "rediss" if endpoint.tls else "redis", f"{user}@" if user else ""
    if endpoint.topology is not Topology.STANDALONE:
        scheme += f"+{endpoint.topology}"
    nodes = ",".join(map(str, endpoint.nodes))
    return f"{scheme}://{at}{nodes}?{urlencode(options)}".rstrip("?")


def connection_uri(kind: str, endpoint: Endpoint, **options: str) -> str:
    """The same as an Airflow connection of some type, with further extras."""
    if endpoint.tls:
        options |= {"ssl": "true"}
    if endpoint.topology is not Topology.STANDALONE:
        options |= {"topology": endpoint.topology, "nodes": ",".join(map(str, endpoint.nodes))}
    first = replace(endpoint, nodes=endpoint.nodes[:1])
    _, _, rest = url_of(first, **options).partition("://")
    return f"{kind}://{rest}"
