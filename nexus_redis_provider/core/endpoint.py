"""Where a Redis server is and how to talk to it: one description, clients of both kinds from it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, cast

import redis
import redis.asyncio
from redis.backoff import ExponentialWithJitterBackoff
from redis.cluster import LoadBalancingStrategy
from redis.driver_info import DriverInfo

from nexus_redis_provider.core import connections, following, pools, sentinels
from nexus_redis_provider.core.addresses import DEFAULT_PORT, Node, Tls, Topology, check_once
from nexus_redis_provider.core.bounds import ReadFrom, check_values
from nexus_redis_provider.core.credentials import Secret, SecretSource, credentials_of
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.translations import (
    FAILURES,
    address_of,
    translated,
    translated_errors,
)
from nexus_redis_provider.core.urls import settings_of

URL_VARIABLE = "NEXUS_REDIS_URL"

__all__ = [
    "DEFAULT_PORT",
    "FAILURES",
    "URL_VARIABLE",
    "Endpoint",
    "Node",
    "ReadFrom",
    "Tls",
    "Topology",
    "address_of",
    "translated",
    "translated_errors",
]

_REPLICAS = LoadBalancingStrategy.ROUND_ROBIN_REPLICAS
# Made once: redis-py reads its own version from the metadata of its package for every client.
_DRIVER = DriverInfo()


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One Redis deployment. Immutable, picklable, and its repr shows no password.

    Defaults are chosen so that a silent server costs at most
    `(retries + 1) * (connect_timeout + read_timeout)` = 24 s, where a connection was idle one
    `read_timeout` more, and a refused port well under one second, where redis-py's own ten retries
    take up to 55 s. Commands are retried because every script of this package is idempotent for its
    owner; others that are not should pass `retries=0`.
    Sentinels are asked once each, with the same timeouts, whenever a connection is made.

    Args:
        nodes: addresses: the one server, the Sentinels, or some of a Cluster's nodes.
        topology: how the nodes stand together.
        master: the name by which the Sentinels know the primary.
        db: database number; a Cluster has only 0.
        username: ACL user, or None for the default user.
        password: a `Secret`; a literal one cannot be pickled. What a reference leads to is looked
            up whenever a connection is made.
        sentinel_username, sentinel_password: for the Sentinels, where they ask for it.
        tls: verification settings, or None for plain TCP; for Sentinels, too.
        connect_timeout, read_timeout: seconds per attempt.
        credential_provider: `package.module.Class` that tells user and password whenever a
            connection is made; see `credentials.provider_of`.
        retries: further attempts after a lost connection or a timeout.
        max_connections: of a client's pool; of a Cluster, for each node.
        pool_timeout: seconds to wait for a connection while all of the pool are in use; 0 is
            `PoolExhaustedError` at once.
        health_check_interval: seconds that a connection may be idle before it is tried by a PING
            ahead of a command, so that one which a firewall dropped is noticed; 0 never tries.
        read_from: where `read_client` goes; all other clients go to the primary.
        protocol: 3 or 2: RESP3, or RESP2 for proxies that do not speak that.
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
    credential_provider: str | None = None
    tls: Tls | None = None
    connect_timeout: float = 3.0
    read_timeout: float = 5.0
    retries: int = 2
    max_connections: int = 100
    pool_timeout: float = 0.0
    health_check_interval: float = 30.0
    read_from: ReadFrom = "primary"
    protocol: Literal[2, 3] = 3
    client_name: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "topology", Topology(self.topology))  # Its name does, too.
        self._check_topology()
        self._check_what_excludes_another()
        check_values(self)

    def _check_what_excludes_another(self) -> None:
        if self.credential_provider and (self.username or self.password):
            raise ConfigurationError(
                "credential_provider tells user and password: give it, or those, not both."
            )
        if self.is_cluster and self.pool_timeout:
            raise ConfigurationError(
                "Clients of a Cluster do not wait for a connection that is free: give no "
                f"pool_timeout, and more max_connections than {self.max_connections} if need be."
            )
        if self.topology is Topology.STANDALONE and self.read_from == "replica":
            raise ConfigurationError(
                "read_from='replica' needs Sentinels or a Cluster, which know the replicas. Of a "
                "single server, give the replica's own address as a connection of its own."
            )
        if any(node.is_socket for node in self.nodes) and (
            self.tls or self.topology is not Topology.STANDALONE
        ):
            raise ConfigurationError(
                "A Unix socket is that of a single server on this machine, without TLS."
            )

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
                    "A Sentinel endpoint needs the name of the master: add ?master=NAME, or in a "
                    "connection the extra `master`, as in the line `sentinel monitor NAME ...` of "
                    "the Sentinels' configuration."
                )
            return
        for name in ("master", "sentinel_username", "sentinel_password"):
            if (value := getattr(self, name)) is not None:
                shown = name if isinstance(value, Secret) else f"{name}={value!r}"
                raise ConfigurationError(
                    f"{shown} is for Sentinels; a URL of those begins with redis+sentinel:// or "
                    "rediss+sentinel://."
                )

    @property
    def is_cluster(self) -> bool:
        """Whether keys are spread over nodes: then `core.slots` says which has a key."""
        return self.topology is Topology.CLUSTER

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The endpoint that a URL describes.

        Args:
            url: `redis://[user[:password]@]host[:port][/db][?option=value&...]`; the database may
                be given as `?db=N`, too. For Sentinels
                `redis+sentinel://...@host[:port],host[:port]/db?master=NAME`, for a Cluster
                `redis+cluster://...@host[:port],host[:port]`, each with `rediss` for TLS; for a
                Unix socket `unix://[user[:password]@]/path[?db=N]`. The options are those of
                `options.OPTIONS`, which docs/connections.md explains.

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
        options = self._given(self._retry(), overrides)
        if self.topology is Topology.SENTINEL:
            return following.client_of(sentinels.Primary(self), options, self.pool_timeout)
        if self.is_cluster:
            from nexus_redis_provider.core.clusters import general_client  # it needs endpoints

            return cast("redis.Redis", general_client(self, options))
        kind = connections.kind_of(self.nodes[0], options)
        return pools.client_of(kind, options, self.pool_timeout)

    def async_client(self, **overrides: Any) -> redis.asyncio.Redis:
        """The asyncio twin of `client`; close it with `await client.aclose()`."""
        options = self._given(self._async_retry(), overrides)
        if self.topology is Topology.SENTINEL:
            guide = sentinels.AsyncPrimary(self)
            return following.async_client_of(guide, options, self.pool_timeout)
        if self.is_cluster:
            from nexus_redis_provider.core.clusters import general_async_client

            return cast("redis.asyncio.Redis", general_async_client(self, options))
        kind = connections.async_kind_of(self.nodes[0], options)
        return pools.async_client_of(kind, options, self.pool_timeout)

    def read_client(self, **overrides: Any) -> redis.Redis:
        """A client for reads that may be stale: of a replica where `read_from` says so.

        Else, and while there is no replica, it is of the primary, as `client`. Of a Cluster, it
        sends redis-py's READ_COMMANDS to replicas, and all else to primaries.
        """
        if self.read_from == "primary":
            return self.client(**overrides)
        if self.is_cluster:
            return self.client(load_balancing_strategy=_REPLICAS, **overrides)
        options = self._given(self._retry(), overrides)
        return following.client_of(sentinels.Replica(self), options, self.pool_timeout)

    def async_read_client(self, **overrides: Any) -> redis.asyncio.Redis:
        """The asyncio twin of `read_client`."""
        if self.read_from == "primary":
            return self.async_client(**overrides)
        if self.is_cluster:
            return self.async_client(load_balancing_strategy=_REPLICAS, **overrides)
        options = self._given(self._async_retry(), overrides)
        return following.async_client_of(sentinels.AsyncReplica(self), options, self.pool_timeout)

    def client_for(self, key: str, **overrides: Any) -> redis.Redis:
        """As `client`, but always a plain one, for a key and all that are in its slot.

        So WATCH, MULTI and pipelines do what they always do, as long as all keys have the same
        `{tag}`. Of a Cluster, it goes to the node that has the slot, and after it where it moves;
        while it does, single commands go on, pipelines and transactions may fail.
        """
        if not self.is_cluster:
            return self.client(**overrides)
        from nexus_redis_provider.core.key_clients import key_client

        options = self._given(self._retry(), overrides)
        return key_client(self, key, options, overrides)

    def async_client_for(self, key: str, **overrides: Any) -> redis.asyncio.Redis:
        """The asyncio twin of `client_for`."""
        if not self.is_cluster:
            return self.async_client(**overrides)
        from nexus_redis_provider.core.key_clients import async_key_client

        options = self._given(self._async_retry(), overrides)
        return async_key_client(self, key, options, overrides)

    def at(self, node: Node) -> Endpoint:
        """One server of this deployment by itself, with the same credentials and options."""
        return replace(
            self,
            nodes=(node,),
            topology=Topology.STANDALONE,
            master=None,
            sentinel_username=None,
            sentinel_password=None,
            read_from="primary",
        )

    def sentinel_options(self) -> dict[str, Any]:
        """Options of a client of a Sentinel, but for the address; it asks once."""
        return self._options() | {
            "db": 0,
            "username": self.sentinel_username,
            "password": self.sentinel_password.reveal() if self.sentinel_password else None,
            "credential_provider": None,
            "client_name": None,
            "retry": None,
        }

    def _retry(self) -> redis.retry.Retry:
        return redis.retry.Retry(_backoff(), self.retries)

    def _async_retry(self) -> redis.asyncio.retry.Retry:
        return redis.asyncio.retry.Retry(_backoff(), self.retries)

    def _given(self, retry: Any, overrides: dict[str, Any]) -> dict[str, Any]:
        """Options of a client, of which some are to be others."""
        options = self._options() | {"retry": retry}
        # redis-py takes a provider, or else a user and a password.
        if "credential_provider" in overrides:
            options |= {"username": None, "password": None}
        elif overrides.keys() & {"username", "password"}:
            password = self.password.reveal() if self.password else None
            options |= {"username": self.username, "password": password}
            options["credential_provider"] = None
        return options | overrides

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "db": self.db,
            **credentials_of(self.username, self.password, self.credential_provider),
            "socket_connect_timeout": self.connect_timeout,
            "socket_timeout": self.read_timeout,
            "max_connections": self.max_connections,
            "client_name": self.client_name,
            "driver_info": _DRIVER,
            "health_check_interval": self.health_check_interval,
            # Unless it is told, redis-py speaks RESP3 and answers in the forms that it had before.
            "protocol": None if self.protocol == 3 else self.protocol,
        }
        if self.tls:
            check_once(self.tls)
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


def _backoff() -> ExponentialWithJitterBackoff:
    return ExponentialWithJitterBackoff(base=0.05, cap=0.5)
