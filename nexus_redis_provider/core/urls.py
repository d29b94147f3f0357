"""What a Redis URL says: which servers, how they stand together, and how to talk to them."""

from __future__ import annotations

from collections import Counter
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from nexus_redis_provider.core.addresses import Node, Topology, node_of
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.options import endpoint_settings

_SOCKET = "unix"
_SCHEMES = {
    "redis": (Topology.STANDALONE, False),
    "rediss": (Topology.STANDALONE, True),
    "redis+sentinel": (Topology.SENTINEL, False),
    "rediss+sentinel": (Topology.SENTINEL, True),
    "redis+cluster": (Topology.CLUSTER, False),
    "rediss+cluster": (Topology.CLUSTER, True),
    _SOCKET: (Topology.STANDALONE, False),
}
# What connections or redis-py have as an option, and a URL in a place of its own.
_PLACES = {
    "ssl": "for TLS, begin it with rediss://",
    "topology": "begin it with redis+sentinel:// or redis+cluster://",
    "nodes": "write all of them before the database, as host1:port,host2:port",
    "username": "write it before the host, as user:password@",
    "password": "write it before the host, as :password@, or name where it is by password_env=NAME "
    "or password_file=PATH",
    # Options are shown.
    "sentinel_password": "name where it is by sentinel_password_env=NAME or "
    "sentinel_password_file=PATH",
}


def settings_of(url: str) -> dict[str, Any]:
    """The arguments of `Endpoint` that a URL stands for; see `Endpoint.from_url`."""
    scheme, mark, rest = url.strip().partition("://")
    scheme = scheme.lower()
    if not mark or scheme not in _SCHEMES:
        raise ConfigurationError(
            "A Redis URL starts with redis://, redis+sentinel:// or redis+cluster://, or for TLS "
            "with rediss:// in place of redis://; or, for a Unix socket, with unix://."
        )
    topology, encrypted = _SCHEMES[scheme]
    parts = _split(scheme, rest)
    first = parts[0]
    options = _options(first)
    if not encrypted and (ssl := sorted(name for name in options if name.startswith("ssl_"))):
        raise _wrong(f"has {', '.join(ssl)}, but no TLS: begin it with rediss://")
    try:
        if scheme == _SOCKET:
            nodes: tuple[Node, ...] = (_socket(first),)
            path = ""
        else:
            nodes = tuple(
                node_of(part, topology.default_port, alone=len(parts) == 1) for part in parts
            )
            path = first.path.strip("/")
        databases = {int(text) for text in (path, options.pop("db", "")) if text}
    except ValueError as error:
        # What stands in a wrong place may be a part of the password.
        if isinstance(error, ConfigurationError) and "@" not in rest:
            raise
        raise _misplaced() from None
    if len(databases) > 1:
        raise _wrong("names two databases, one after the host and one as db")
    literals = {"password": _decoded(first.password)}
    return {
        "topology": topology,
        "nodes": nodes,
        "db": databases.pop() if databases else 0,
        "username": _decoded(first.username),
    } | endpoint_settings(options, literals, encrypted=encrypted, wrong=_wrong)


def _options(parts: SplitResult) -> dict[str, Any]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    counts = Counter(name for name, _ in pairs)
    if parts.fragment or any("@" in name for name in counts):
        # The password was cut off there, and what it began with is no host.
        raise _misplaced()
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise _wrong(f"gives {', '.join(twice)} more than once; give it once")
    for name in counts:
        if place := _PLACES.get(name):
            raise _wrong(f"has the option {name}, which has another place; {place}")
    return dict(pairs)


def _decoded(text: str | None) -> str | None:
    try:
        return unquote(text, errors="strict") if text else None
    except UnicodeDecodeError:
        # It would become another password.
        raise _wrong("has a user or password whose percent-encoding is not that of UTF-8") from None


def _socket(parts: SplitResult) -> Node:
    if parts.netloc.rpartition("@")[2] or not parts.path.startswith("/"):
        raise ValueError(parts.netloc)
    return Node(unquote(parts.path))


def _split(scheme: str, rest: str) -> list[SplitResult]:
    """The parts of a URL for each of its hosts, as if it were the only one."""
    end = next((at for at, char in enumerate(rest) if char in "/?#"), len(rest))
    user, at, hosts = rest[:end].rpartition("@")
    try:
        return [urlsplit(f"{scheme}://{user}{at}{host}{rest[end:]}") for host in hosts.split(",")]
    except ValueError:
        raise _misplaced() from None


def _wrong(what: str) -> ConfigurationError:
    return ConfigurationError(f"The Redis URL {what}.")


def _misplaced() -> ConfigurationError:
    return ConfigurationError(
        "The Redis URL has a bad host, port or database. In a password, write "
        "/ ? # @ : [ ] percent-encoded, such as %2F for /."
    )
