"""Where a Redis server is and how to talk to it: one description, clients of both kinds from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
import redis.asyncio
from redis import exceptions
from redis.backoff import ExponentialWithJitterBackoff
from redis.driver_info import DriverInfo

from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.errors import (
    AccessDeniedError,
    ConfigurationError,
    ServerError,
    UnreachableError,
)

DEFAULT_PORT = 6379
URL_VARIABLE = "NEXUS_REDIS_URL"


class Topology(StrEnum):
    """How the servers behind an endpoint stand together."""

    STANDALONE = "standalone"


# Made once: redis-py reads its own version from the metadata of its package for every client.
_DRIVER = DriverInfo()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One Redis deployment. Immutable, picklable, and its repr shows no password.

    Defaults are chosen so that a silent server costs at most
    `(retries + 1) * (connect_timeout + read_timeout)` = 24 s and a refused port well under one
    second, where redis-py's own ten retries take up to 55 s. Commands are retried because every
    script of this package is idempotent for its owner; others that are not should pass `retries=0`.

    Args:
        nodes: addresses; exactly one for a standalone server.
        topology: how the nodes stand together.
        db: database number.
        username: ACL user, or None for the default user.
        password: a `Secret`; a literal one cannot be pickled.
        tls: verification settings, or None for plain TCP.
        connect_timeout, read_timeout: seconds per attempt.
        retries: further attempts after a lost connection or a timeout.
        max_connections: of a client's pool.
        client_name: shown by CLIENT LIST; needs the permission `client|setname`.
    """

    nodes: tuple[Node, ...] = (Node(),)
    topology: Topology = Topology.STANDALONE
    db: int = 0
    username: str | None = None
    password: Secret | None = None
    tls: Tls | None = None
    connect_timeout: float = 3.0
    read_timeout: float = 5.0
    retries: int = 2
    max_connections: int = 100
    client_name: str | None = None

    def __post_init__(self) -> None:
        if len(self.nodes) != 1:
            raise ConfigurationError(
                f"A standalone endpoint has exactly one node, not {len(self.nodes)}."
            )
        for name in ("connect_timeout", "read_timeout", "max_connections"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} must be positive, not {getattr(self, name)!r}.")
        for name in ("retries", "db"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} must not be negative: {getattr(self, name)!r}.")

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The endpoint that a URL describes.

        Args:
            url: `redis[s]://[user[:password]@]host[:port][/db][?option=value&...]` with the
                options `password_env`, `password_file`, `connect_timeout`, `read_timeout`,
                `retries`, `max_connections`, `client_name`, `ssl_ca_certs`, `ssl_certfile`,
                `ssl_keyfile`, `ssl_cert_reqs` and `ssl_check_hostname`.

        Raises:
            ConfigurationError: the URL or an option is wrong; the message never repeats a password.
        """
        if not url.startswith(("redis://", "rediss://")):
            raise ConfigurationError("A Redis URL starts with redis:// or rediss://.")
        try:
            parts = urlsplit(url)
            port = DEFAULT_PORT if parts.port is None else parts.port
            node, db = Node(parts.hostname or "localhost", port), int(parts.path.strip("/") or 0)
        except ValueError:
            # What stands in a wrong place may be a part of the password.
            raise ConfigurationError(
                "The Redis URL has a bad host, port or database. In a password, write "
                "/ ? # @ : [ ] percent-encoded, such as %2F for /."
            ) from None
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=False))
        password = _password_of(options, unquote(parts.password) if parts.password else None)
        tls = _tls_of(options) if parts.scheme == "rediss" else None
        settings = {name: _number(name, options) for name in _NUMBERS if name in options}
        if "client_name" in options:
            settings["client_name"] = options.pop("client_name")
        if options:
            raise ConfigurationError(
                f"Unknown option(s) in the Redis URL: {', '.join(sorted(options))}."
            )
        return cls(
            nodes=(node,),
            db=db,
            username=unquote(parts.username) if parts.username else None,
            password=password,
            tls=tls,
            **settings,
        )

    @classmethod
    def from_env(cls, variable: str = URL_VARIABLE) -> Self:
        """The endpoint whose URL an environment variable holds; its password stays a reference.

        Raises:
            ConfigurationError: the variable is not set, or its URL is wrong.
        """
        url = os.environ.get(variable)
        if not url:
            raise ConfigurationError(
                f"No Redis endpoint: set {variable}=redis://host:port/db, or pass one explicitly."
            )
        endpoint = cls.from_url(url)
        if endpoint.password is not None and not endpoint.password.is_reference:
            return replace(endpoint, password=Secret(SecretSource.ENV_URL, variable))
        return endpoint

    @classmethod
    def of(cls, source: Endpoint | str | None) -> Endpoint:
        """The endpoint itself, that of a URL, or (None) that of the environment."""
        if isinstance(source, Endpoint):
            return source
        return cls.from_env() if source is None else cls.from_url(source)

    def client(self, **overrides: Any) -> redis.Redis:
        """A client with a pool of its own; replies are bytes. Connects on first use.

        Args:
            overrides: further keyword arguments of `redis.Redis`, such as `protocol=2`.
        """
        retry = redis.retry.Retry(_backoff(), self.retries)
        return redis.Redis(**self._options(), retry=retry, **overrides)

    def async_client(self, **overrides: Any) -> redis.asyncio.Redis:
        """The asyncio twin of `client`; close it with `await client.aclose()`."""
        retry = redis.asyncio.retry.Retry(_backoff(), self.retries)
        return redis.asyncio.Redis(**self._options(), retry=retry, **overrides)

    def _options(self) -> dict[str, Any]:
        node = self.nodes[0]
        options: dict[str, Any] = {
            "host": node.host,
            "port": node.port,
            "db": self.db,
            "username": self.username,
            "password": self.password.reveal() if self.password else None,
            "socket_connect_timeout": self.connect_timeout,
            "socket_timeout": self.read_timeout,
            "max_connections": self.max_connections,
            "client_name": self.client_name,
            "driver_info": _DRIVER,
            # A pooled connection that a firewall dropped is noticed before a command is sent on it.
            "health_check_interval": 30,
        }
        if self.tls:
            options |= {
                "ssl": True,
                "ssl_ca_certs": self.tls.ca_certs,
                "ssl_certfile": self.tls.certfile,
                "ssl_keyfile": self.tls.keyfile,
                "ssl_cert_reqs": self.tls.cert_reqs,
                "ssl_check_hostname": self.tls.check_hostname and self.tls.cert_reqs != "none",
            }
        return options

    def __str__(self) -> str:
        return f"{self.nodes[0]}/{self.db}"


def address_of(client: redis.Redis | redis.asyncio.Redis) -> str:
    """`host:port/db` of a client, for messages."""
    options = client.connection_pool.connection_kwargs
    where = options.get("path") or f"{options.get('host')}:{options.get('port')}"
    return f"{where}/{options.get('db', 0)}"


@contextmanager
def translated_errors(client: redis.Redis | redis.asyncio.Redis) -> Iterator[None]:
    """Within it, redis-py's errors become this package's.

    Raises:
        UnreachableError: no connection, or no answer in time.
        AccessDeniedError: bad credentials, or the ACL forbids the command or key.
        ServerError: the server refused the command, for want of memory for example.
    """
    try:
        yield
    except exceptions.RedisError as error:
        raise translated(address_of(client), error) from error


_DENIED = (exceptions.AuthenticationError, exceptions.NoPermissionError)
# A primary that has become a replica, or a replica that has lost its primary, is about to change.
_UNREACHABLE = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,
    exceptions.TryAgainError,
)


def translated(where: str, error: exceptions.RedisError) -> ServerError | exceptions.WatchError:
    """The error of this package that says what an error of redis-py means.

    That of an optimistic transaction is none, but an answer, and stays as it is.
    """
    if isinstance(error, exceptions.WatchError):
        return error
    if isinstance(error, _DENIED):
        return AccessDeniedError(where, error)
    if isinstance(error, _UNREACHABLE):
        return UnreachableError(where, error)
    return ServerError(f"Redis at {where} refused: {error}")


_NUMBERS: dict[str, type[int | float]] = {
    "connect_timeout": float,
    "read_timeout": float,
    "retries": int,
    "max_connections": int,
}


def _backoff() -> ExponentialWithJitterBackoff:
    return ExponentialWithJitterBackoff(base=0.05, cap=0.5)


def _number(name: str, options: dict[str, str]) -> Any:
    text = options.pop(name)
    try:
        return _NUMBERS[name](text)
    except ValueError:
        raise ConfigurationError(f"{name} in the Redis URL must be a number: {text!r}.") from None


def _password_of(options: dict[str, str], literal: str | None) -> Secret | None:
    found = [Secret(SecretSource.LITERAL, literal)] if literal else []
    for option, source in (
        ("password_env", SecretSource.ENV),
        ("password_file", SecretSource.FILE),
    ):
        if option in options:
            found.append(Secret(source, options.pop(option)))
    if len(found) > 1:
        raise ConfigurationError(
            "Give the Redis password once: in the URL, by password_env or by password_file."
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
