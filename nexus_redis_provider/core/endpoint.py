"""Where a Redis server is and how to talk to it: one description, clients of both kinds from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import redis
import redis.asyncio
from redis import exceptions
from redis.backoff import ExponentialWithJitterBackoff
from redis.driver_info import DriverInfo

from nexus_redis_provider.core import following, sentinels
from nexus_redis_provider.core.addresses import DEFAULT_PORT, Node, Tls, Topology, settings_of
from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.errors import (
    AccessDeniedError,
    ConfigurationError,
    RefusedError,
    ServerError,
    UnreachableError,
)

URL_VARIABLE = "NEXUS_REDIS_URL"

__all__ = [
    "DEFAULT_PORT",
    "URL_VARIABLE",
    "Endpoint",
    "Node",
    "Tls",
    "Topology",
    "address_of",
    "translated",
    "translated_errors",
]

# Made once: redis-py reads its own version from the metadata of its package for every client.
_DRIVER = DriverInfo()


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One Redis deployment. Immutable, picklable, and its repr shows no password.

    Defaults are chosen so that a silent server costs at most
    `(retries + 1) * (connect_timeout + read_timeout)` = 24 s and a refused port well under one
    second, where redis-py's own ten retries take up to 55 s. Commands are retried because every
    script of this package is idempotent for its owner; others that are not should pass `retries=0`.
    Sentinels are asked once each, with the same timeouts, whenever a connection is made.

    Args:
        nodes: addresses: the one server, the Sentinels, or some of a Cluster's nodes.
        topology: how the nodes stand together.
        master: the name by which the Sentinels know the primary.
        db: database number; a Cluster has only 0.
        username: ACL user, or None for the default user.
        password: a `Secret`; a literal one cannot be pickled.
        sentinel_username, sentinel_password: for the Sentinels, where they ask for it.
        tls: verification settings, or None for plain TCP; for Sentinels, too.
        connect_timeout, read_timeout: seconds per attempt.
        retries: further attempts after a lost connection or a timeout.
        max_connections: of a client's pool; of a Cluster, for each node.
        client_name: shown by CLIENT LIST; needs the permission `client|setname`.
    """

    nodes: tuple[Node, ...] = (Node(),)
    topology: Topology = Topology.STANDALONE
    master: str | None = None
    db: int = 0
    username: str | None = None
    password: Secret | None = None
    sentinel_username: str | None = None
    sentinel_password: Secret | None = None
    tls: Tls | None = None
    connect_timeout: float = 3.0
    read_timeout: float = 5.0
    retries: int = 2
    max_connections: int = 100
    client_name: str | None = None

    def __post_init__(self) -> None:
        self._check_topology()
        for name in ("connect_timeout", "read_timeout", "max_connections"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} must be positive, not {getattr(self, name)!r}.")
        for name in ("retries", "db"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} must not be negative: {getattr(self, name)!r}.")

    def _check_topology(self) -> None:
        if not self.nodes:
            raise ConfigurationError(f"A {self.topology} endpoint needs a node, such as {Node()}.")
        if self.topology is Topology.STANDALONE and len(self.nodes) != 1:
            raise ConfigurationError(
                f"A standalone endpoint has exactly one node, not {len(self.nodes)}; for several, "
                "say what they are: redis+sentinel://... or redis+cluster://..."
            )
        if self.topology is Topology.CLUSTER and self.db:
            raise ConfigurationError(f"A Cluster has only database 0, not {self.db}.")
        if self.topology is Topology.SENTINEL:
            if not self.master:
                raise ConfigurationError(
                    "A Sentinel endpoint needs the name of the master: add ?master=NAME, as in "
                    "the line `sentinel monitor NAME ...` of the Sentinels' configuration."
                )
            return
        for name in ("master", "sentinel_username", "sentinel_password"):
            if getattr(self, name) is not None:
                raise ConfigurationError(
                    f"{name}={getattr(self, name)!r} is for Sentinels; a URL of those begins with "
                    "redis+sentinel:// or rediss+sentinel://."
                )

    @property
    def is_cluster(self) -> bool:
        """Whether keys are spread over nodes: then `core.slots` says which has a key."""
        return self.topology is Topology.CLUSTER

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The endpoint that a URL describes.

        Args:
            url: `redis://[user[:password]@]host[:port][/db][?option=value&...]`, for Sentinels
                `redis+sentinel://...@host[:port],host[:port]/db?master=NAME`, for a Cluster
                `redis+cluster://...@host[:port],host[:port]`, each with `rediss` for TLS. Options:
                `password_env`, `password_file`, `connect_timeout`, `read_timeout`, `retries`,
                `max_connections`, `client_name`; of TLS `ssl_ca_certs`, `ssl_certfile`,
                `ssl_keyfile`, `ssl_cert_reqs` and `ssl_check_hostname`; of Sentinels `master`,
                `sentinel_username`, `sentinel_password_env` and `sentinel_password_file`.

        Raises:
            ConfigurationError: the URL or an option is wrong; the message never repeats a password.
        """
        return cls(**settings_of(url))

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

        With Sentinels it follows the primary. Of a Cluster it is a `redis.cluster.RedisCluster`,
        which has the same commands, but looks for the nodes at once.

        Args:
            overrides: further keyword arguments of `redis.Redis`, such as `protocol=2`.

        Raises:
            UnreachableError, AccessDeniedError, ConfigurationError: of a Cluster, at once.
        """
        options = self._options() | {"retry": self._retry()} | overrides
        if self.topology is Topology.SENTINEL:
            return following.client_of(sentinels.Primary(self), options)
        if self.topology is Topology.CLUSTER:
            from nexus_redis_provider.core.clusters import general_client  # it needs endpoints

            return cast("redis.Redis", general_client(self, options))
        return redis.Redis(host=self.nodes[0].host, port=self.nodes[0].port, **options)

    def async_client(self, **overrides: Any) -> redis.asyncio.Redis:
        """The asyncio twin of `client`; close it with `await client.aclose()`."""
        options = self._options() | {"retry": self._async_retry()} | overrides
        if self.topology is Topology.SENTINEL:
            return following.async_client_of(sentinels.AsyncPrimary(self), options)
        if self.topology is Topology.CLUSTER:
            from nexus_redis_provider.core.clusters import general_async_client

            return cast("redis.asyncio.Redis", general_async_client(self, options))
        return redis.asyncio.Redis(host=self.nodes[0].host, port=self.nodes[0].port, **options)

    def client_for(self, key: str, **overrides: Any) -> redis.Redis:
        """As `client`, but always a plain one, for a key and all that are in its slot.

        So WATCH, MULTI and pipelines do what they always do, as long as all keys have the same
        `{tag}`. Of a Cluster, it goes to the node that has the slot, and after it where it moves.
        """
        if not self.is_cluster:
            return self.client(**overrides)
        from nexus_redis_provider.core.clusters import KeyGuide

        options = self._options() | {"retry": self._retry()} | overrides
        return following.client_of(KeyGuide(self, key), options)

    def async_client_for(self, key: str, **overrides: Any) -> redis.asyncio.Redis:
        """The asyncio twin of `client_for`."""
        if not self.is_cluster:
            return self.async_client(**overrides)
        from nexus_redis_provider.core.clusters import AsyncKeyGuide

        options = self._options() | {"retry": self._async_retry()} | overrides
        return following.async_client_of(AsyncKeyGuide(self, key), options)

    def at(self, node: Node) -> Endpoint:
        """One server of this deployment by itself, with the same credentials and options."""
        return replace(
            self,
            nodes=(node,),
            topology=Topology.STANDALONE,
            master=None,
            sentinel_username=None,
            sentinel_password=None,
        )

    def sentinel_options(self) -> dict[str, Any]:
        """Options of a client of a Sentinel, but for the address; it asks once."""
        return self._options() | {
            "db": 0,
            "username": self.sentinel_username,
            "password": self.sentinel_password.reveal() if self.sentinel_password else None,
            "client_name": None,
            "retry": None,
        }

    def _retry(self) -> redis.retry.Retry:
        return redis.retry.Retry(_backoff(), self.retries)

    def _async_retry(self) -> redis.asyncio.retry.Retry:
        return redis.asyncio.retry.Retry(_backoff(), self.retries)

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
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
        nodes = ",".join(map(str, self.nodes))
        match self.topology:
            case Topology.SENTINEL:
                return f"master {self.master!r} of Sentinels {nodes}/{self.db}"
            case Topology.CLUSTER:
                return f"Cluster {nodes}"
        return f"{nodes}/{self.db}"


def address_of(client: Any) -> str:
    """`host:port/db` of a client, or what it follows, for messages."""
    if (pool := getattr(client, "connection_pool", None)) is None:
        if (nodes := getattr(client, "startup_nodes", None)) is None:
            return str(client)
        return f"Cluster {','.join(f'{node.host}:{node.port}' for node in nodes)}"
    options = pool.connection_kwargs
    if "guide" in options:
        return str(options["guide"])
    where = options.get("path") or f"{options.get('host')}:{options.get('port')}"
    return f"{where}/{options.get('db', 0)}"


FAILURES = (exceptions.RedisError, exceptions.RedisClusterException)


@contextmanager
def translated_errors(client: Any) -> Iterator[None]:
    """Within it, redis-py's errors become this package's.

    Args:
        client: any of redis-py's, of which the message tells the address.

    Raises:
        UnreachableError: no connection, or no answer in time.
        AccessDeniedError: bad credentials, or the ACL forbids the command or key.
        RefusedError: the server refused the command, for want of memory for example.
    """
    try:
        yield
    except FAILURES as error:
        raise translated(address_of(client), error) from error


_DENIED = (exceptions.AuthenticationError, exceptions.NoPermissionError)
# A primary that has become a replica, a replica that has lost its primary, a slot that is on its
# way to another node: all of it is about to change.
_UNREACHABLE = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.ClusterError,
    exceptions.TryAgainError,
    exceptions.AskError,
    exceptions.SlotNotCoveredError,
)


def translated(where: str, error: BaseException) -> ServerError | exceptions.WatchError:
    """The error of this package that says what an error of redis-py means.

    That of an optimistic transaction is none, but an answer, and stays as it is.
    """
    if isinstance(error, exceptions.WatchError):
        return error
    if isinstance(error, exceptions.RedisClusterException) and error.__cause__:
        # Why it could not look for the nodes.
        return translated(where, error.__cause__)
    if isinstance(error, _DENIED):
        return AccessDeniedError(where, error)
    if isinstance(error, _UNREACHABLE):
        return UnreachableError(where, error)
    return RefusedError(where, str(error))


def _backoff() -> ExponentialWithJitterBackoff:
    return ExponentialWithJitterBackoff(base=0.05, cap=0.5)
