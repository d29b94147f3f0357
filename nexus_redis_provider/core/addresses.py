"""Where servers are, how they stand together, and how they are verified."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from nexus_redis_provider.core.bounds import is_whole
from nexus_redis_provider.core.errors import ConfigurationError

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379


class Topology(StrEnum):
    """How the servers behind an endpoint stand together."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"

    @classmethod
    def _missing_(cls, value: object) -> Topology:
        raise ConfigurationError(f"topology must be one of {', '.join(cls)}, not {value!r}.")

    @property
    def default_port(self) -> int:
        """Of the nodes that an endpoint names: of a Sentinel deployment, its Sentinels."""
        return SENTINEL_PORT if self is Topology.SENTINEL else DEFAULT_PORT


@dataclass(frozen=True, slots=True)
class Node:
    """The address of one server: host and port, or as host the path of a Unix socket."""

    host: str = "localhost"
    port: int = DEFAULT_PORT

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigurationError("A Redis host must not be empty.")
        if self.is_socket:
            _check_path(self.host)
        else:
            _check_host(self.host)
        if not is_whole(self.port, 1) or self.port > 65535:
            raise ConfigurationError(f"A Redis port is 1 to 65535, not {self.port!r}.")

    @property
    def is_socket(self) -> bool:
        """Whether it is a Unix socket."""
        return self.host.startswith("/")

    def __str__(self) -> str:
        return self.host if self.is_socket else host_and_port(self.host, self.port)


def host_and_port(host: str, port: int | str) -> str:
    """`host:port`, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# What the system takes, in bytes.
_LONGEST_PATH = 107


def _check_path(path: str) -> None:
    if len(os.fsencode(path)) > _LONGEST_PATH or "\0" in path:
        raise ConfigurationError(
            f"{path!r} is no path of a Unix socket, which has at most {_LONGEST_PATH} bytes."
        )


def _check_host(host: str) -> None:
    if not _is_host(host):
        # What stands in a wrong place may have a password in it.
        raise ConfigurationError(
            "A Redis host is a name or an address alone: give scheme, user, password, port and "
            "further hosts in their own places."
        )


def _is_host(host: str) -> bool:
    try:
        if ":" in host:
            ipaddress.IPv6Address(host)
            return not re.search(r"[/?#@\s]", host)  # In the name of a network interface.
        asked = host.encode("idna")  # As the system does it to look the name up.
    except ValueError:
        return False
    return re.fullmatch(rb"[\w.-]+", asked) is not None


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
        if self.keyfile and not self.certfile:
            raise ConfigurationError("ssl_keyfile is of no use without ssl_certfile: give both.")

    def check_files(self) -> None:
        """See whether this machine can use the files.

        Raises:
            ConfigurationError: names the one that is not there, or is none as it must be.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for name in ("ca_certs", "certfile", "keyfile"):
            if path := getattr(self, name):
                with _usable(name, path):
                    Path(path).read_bytes()
        if self.ca_certs:
            with _usable("ca_certs", self.ca_certs):
                context.load_verify_locations(self.ca_certs)
        if self.certfile:
            key = self.keyfile or self.certfile
            with _usable("certfile", self.certfile, f" with the key in {key!r}"):
                context.load_cert_chain(self.certfile, self.keyfile, _no_passphrase)


@cache
def check_once(tls: Tls) -> None:
    """As `Tls.check_files`, until they are usable: from then on, each connection reads them."""
    tls.check_files()


@contextmanager
def _usable(name: str, path: str, beside: str = "") -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigurationError(f"ssl_{name}={path!r} cannot be used{beside}: {why}.") from error


def _no_passphrase() -> str:
    # Else OpenSSL asks whoever sits at the terminal, and waits.
    raise ValueError("the key is encrypted, and nobody is there to type its passphrase")


def nodes_of(text: str, default_port: int) -> tuple[Node, ...]:
    """The servers that a text like `host1:port,host2,[::1]:port` names.

    Raises:
        ConfigurationError: one of them is no host and port; the message names it.
    """
    return tuple(_named(part.strip(), text, default_port) for part in text.split(","))


def _named(part: str, text: str, default_port: int) -> Node:
    with suppress(ValueError):
        if not re.search(r"[/?#@\s]", part):
            return node_of(urlsplit(f"//{part}"), default_port)
    # Before an @ stands a password.
    shown = "What is given" if "@" in text else f"{part!r} in {text!r}"
    raise ConfigurationError(
        f"{shown} is not host:port; write such as host1:{default_port},host2:{default_port}."
    )


def node_of(parts: SplitResult, default_port: int, *, alone: bool = False) -> Node:
    """The server of a split URL. Raises ValueError."""
    # No name at all means this machine, but between commas it is a slip.
    host = unquote(parts.hostname or ("localhost" if alone else ""))
    return Node(host, default_port if parts.port is None else parts.port)
