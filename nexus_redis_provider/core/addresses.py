"""What a Redis URL says: which servers, how they stand together, and how to talk to them."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.errors import ConfigurationError

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379


class Topology(StrEnum):
    """How the servers behind an endpoint stand together."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"

    @property
    def default_port(self) -> int:
        """Of the nodes that an endpoint names: of a Sentinel deployment, its Sentinels."""
        return SENTINEL_PORT if self is Topology.SENTINEL else DEFAULT_PORT


@dataclass(frozen=True, slots=True)
class Node:
    """The address of one server."""

    host: str = "localhost"
    port: int = DEFAULT_PORT

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigurationError("A Redis host must not be empty.")
        if not 0 < self.port < 65536:
            raise ConfigurationError(f"A Redis port is 1 to 65535, not {self.port}.")

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tls:
    """How to verify the server and, for mutual TLS, what to show it. Paths are of PEM files."""

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    cert_reqs: str = "required"
    check_hostname: bool = True

    def __post_init__(self) -> None:
        if self.cert_reqs not in ("required", "optional", "none"):
            raise ConfigurationError(
                f"ssl_cert_reqs must be required, optional or none, not {self.cert_reqs!r}."
            )


_SCHEMES = {
    "redis": (Topology.STANDALONE, False),
    "rediss": (Topology.STANDALONE, True),
    "redis+sentinel": (Topology.SENTINEL, False),
    "rediss+sentinel": (Topology.SENTINEL, True),
    "redis+cluster": (Topology.CLUSTER, False),
    "rediss+cluster": (Topology.CLUSTER, True),
}
_NUMBERS: dict[str, type[int | float]] = {
    "connect_timeout": float,
    "read_timeout": float,
    "retries": int,
    "max_connections": int,
}
_TEXTS = ("client_name", "master", "sentinel_username")


def settings_of(url: str) -> dict[str, Any]:
    """The arguments of `Endpoint` that a URL stands for; see `Endpoint.from_url`."""
    scheme, mark, rest = url.partition("://")
    if not mark or scheme not in _SCHEMES:
        raise ConfigurationError(
            "A Redis URL starts with redis://, redis+sentinel:// or redis+cluster://, or for TLS "
            "with rediss:// in place of redis://."
        )
    topology, is_encrypted = _SCHEMES[scheme]
    parts = _split(scheme, rest)
    first = parts[0]
    try:
        nodes = tuple(_node(part, topology.default_port, alone=len(parts) == 1) for part in parts)
        db = int(first.path.strip("/") or 0)
    except ValueError:
        # What stands in a wrong place may be a part of the password.
        raise _misplaced() from None
    options = dict(parse_qsl(first.query, keep_blank_values=True, strict_parsing=False))
    settings: dict[str, Any] = {"topology": topology, "nodes": nodes, "db": db}
    literal = unquote(first.password) if first.password else None
    settings["password"] = _secret_of("password", options, literal)
    settings["username"] = unquote(first.username) if first.username else None
    if "sentinel_password" in options:
        raise ConfigurationError(
            "The Sentinels' password does not belong into the options of a URL, which are shown: "
            "name where it is by sentinel_password_env=NAME or sentinel_password_file=PATH."
        )
    settings["sentinel_password"] = _secret_of("sentinel_password", options, None)
    settings["tls"] = _tls_of(options) if is_encrypted else None
    settings |= {name: _number(name, options) for name in _NUMBERS if name in options}
    settings |= {name: options.pop(name) for name in _TEXTS if name in options}
    if options:
        raise ConfigurationError(
            f"Unknown option(s) in the Redis URL: {', '.join(sorted(options))}."
        )
    return settings


def nodes_of(text: str, default_port: int) -> tuple[Node, ...]:
    """The servers that a text like `host1:port,host2,[::1]:port` names.

    Raises:
        ConfigurationError: one of them is no host and port; the message names it.
    """
    return tuple(_named(part.strip(), text, default_port) for part in text.split(","))


def _named(part: str, text: str, default_port: int) -> Node:
    with suppress(ValueError):
        if not re.search(r"[/?#@\s]", part):
            return _node(urlsplit(f"//{part}"), default_port)
    raise ConfigurationError(
        f"{part!r} in {text!r} is not host:port; write such as "
        f"host1:{default_port},host2:{default_port}."
    )


def _node(parts: SplitResult, default_port: int, *, alone: bool = False) -> Node:
    # No name at all means this machine, but between commas it is a slip.
    host = parts.hostname or ("localhost" if alone else "")
    return Node(host, default_port if parts.port is None else parts.port)


def _split(scheme: str, rest: str) -> list[SplitResult]:
    """The parts of a URL for each of its hosts, as if it were the only one."""
    end = next((at for at, char in enumerate(rest) if char in "/?#"), len(rest))
    user, at, hosts = rest[:end].rpartition("@")
    try:
        return [urlsplit(f"{scheme}://{user}{at}{host}{rest[end:]}") for host in hosts.split(",")]
    except ValueError:
        raise _misplaced() from None


def _misplaced() -> ConfigurationError:
    return ConfigurationError(
        "The Redis URL has a bad host, port or database. In a password, write "
        "/ ? # @ : [ ] percent-encoded, such as %2F for /."
    )


def _number(name: str, options: dict[str, str]) -> Any:
    text = options.pop(name)
    try:
        return _NUMBERS[name](text)
    except ValueError:
        raise ConfigurationError(f"{name} in the Redis URL must be a number: {text!r}.") from None


def _secret_of(name: str, options: dict[str, str], literal: str | None) -> Secret | None:
    found = [Secret(SecretSource.LITERAL, literal)] if literal else []
    for option, source in (
        (f"{name}_env", SecretSource.ENV),
        (f"{name}_file", SecretSource.FILE),
    ):
        if option in options:
            found.append(Secret(source, options.pop(option)))
    if len(found) > 1:
        where = "in the URL, by " if name == "password" else "by "
        raise ConfigurationError(
            f"Give the Redis {name.replace('_', ' ')} once: {where}{name}_env or by {name}_file."
        )
    return found[0] if found else None


def _tls_of(options: dict[str, str]) -> Tls:
    hostname = options.pop("ssl_check_hostname", "true").lower()
    if hostname not in ("true", "false"):
        raise ConfigurationError(f"ssl_check_hostname must be true or false, not {hostname!r}.")
    return Tls(
        ca_certs=options.pop("ssl_ca_certs", None),
        certfile=options.pop("ssl_certfile", None),
        keyfile=options.pop("ssl_keyfile", None),
        cert_reqs=options.pop("ssl_cert_reqs", "required"),
        check_hostname=hostname == "true",
    )
