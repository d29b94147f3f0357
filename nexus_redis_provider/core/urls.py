"""What a Redis URL says: which servers, how they stand together, and how to talk to them."""

from __future__ import annotations

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


def settings_of(url: str) -> dict[str, Any]:
    """The arguments of `Endpoint` that a URL stands for; see `Endpoint.from_url`."""
    scheme, mark, rest = url.partition("://")
    if not mark or scheme not in _SCHEMES:
        raise ConfigurationError(
            "A Redis URL starts with redis://, redis+sentinel:// or redis+cluster://, or for TLS "
            "with rediss:// in place of redis://; or, for a Unix socket, with unix://."
        )
    topology, encrypted = _SCHEMES[scheme]
    parts = _split(scheme, rest)
    first = parts[0]
    options: dict[str, Any] = dict(parse_qsl(first.query, keep_blank_values=True))
    if first.fragment or any("@" in name for name in options):
        # The password was cut off there, and what it began with is no host.
        raise _misplaced()
    if "sentinel_password" in options:
        raise ConfigurationError(
            "The Sentinels' password does not belong into the options of a URL, which are shown: "
            "name where it is by sentinel_password_env=NAME or sentinel_password_file=PATH."
        )
    if not encrypted and (ssl := sorted(name for name in options if name.startswith("ssl_"))):
        raise _wrong(f"has {', '.join(ssl)}, but no TLS: begin it with rediss://")
    try:
        if scheme == _SOCKET:
            nodes: tuple[Node, ...] = (_socket(first),)
            db = int(options.pop("db", 0))
        else:
            nodes = tuple(
                node_of(part, topology.default_port, alone=len(parts) == 1) for part in parts
            )
            db = int(first.path.strip("/") or 0)
    except ValueError:
        # What stands in a wrong place may be a part of the password.
        raise _misplaced() from None
    literal = unquote(first.password) if first.password else None
    return {
        "topology": topology,
        "nodes": nodes,
        "db": db,
        "username": unquote(first.username) if first.username else None,
    } | endpoint_settings(options, {"password": literal}, encrypted=encrypted, wrong=_wrong)


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
