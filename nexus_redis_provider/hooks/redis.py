"""From an Airflow connection to Redis clients, sync and async."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from airflow.providers.redis.hooks.redis import RedisHook

from nexus_redis_provider.core.addresses import nodes_of
from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.diagnosis import diagnose
from nexus_redis_provider.core.endpoint import Endpoint, Node, Tls, Topology
from nexus_redis_provider.core.errors import ConfigurationError, NexusRedisError
from nexus_redis_provider.hooks.inspecting import Inspecting

if TYPE_CHECKING:
    from collections.abc import Mapping

    import redis.asyncio
    from airflow.sdk import Connection

CONNECTION_TYPE = "nexus_redis"
_TYPES = (CONNECTION_TYPE, "redis", "rediss")
_TLS_EXTRAS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_CLIENT_EXTRAS: dict[str, type[int | float | str]] = {
    "connect_timeout": float,
    "read_timeout": float,
    "retries": int,
    "max_connections": int,
    "client_name": str,
    "master": str,
    "sentinel_username": str,
}


def endpoint_of(connection: Connection, extra: Mapping[str, Any] | None = None) -> Endpoint:
    """The endpoint that a connection of type `nexus_redis` or `redis` describes.

    Args:
        connection: host, port, login and password; the database is its schema or the extra `db`.
            The extra `topology` is `standalone`, `sentinel` or `cluster`, and `nodes` names
            further Sentinels or nodes than the host; of the official provider, `cluster` and
            `startup_nodes` say the same.
        extra: its extras, where they were already read (as a trigger must, without blocking);
            by default `connection.extra_dejson`.

    Raises:
        ConfigurationError: an extra is unknown or bad, or the host is missing. The message names
            connection and extra and never a password.
    """
    if connection.conn_type not in _TYPES:
        raise _wrong(connection, f"has the type {connection.conn_type!r}, not {CONNECTION_TYPE!r}")
    if not connection.host:
        raise _wrong(connection, "has no host")
    given = connection.extra_dejson if extra is None else extra
    # A form sends what was left empty as null or as an empty text.
    extras = {name: value for name, value in given.items() if value not in (None, "")}
    topology = _topology_of(connection, extras)
    nodes = _nodes_of(connection, extras, topology)
    tls = _tls_of(connection, extras)
    settings = {
        name: _converted(connection, name, kind, extras.pop(name))
        for name, kind in _CLIENT_EXTRAS.items()
        if name in extras
    }
    db = _database_of(connection, extras)
    sentinel_password = _secret_of(extras.pop("sentinel_password", None))
    if extras:
        raise _wrong(connection, f"has unknown extra(s): {', '.join(sorted(extras))}")
    return Endpoint(
        nodes=nodes,
        topology=topology,
        db=db,
        username=connection.login or None,
        password=_secret_of(connection.password),
        sentinel_password=sentinel_password,
        tls=tls,
        **settings,
    )


class NexusRedisHook(Inspecting, RedisHook):
    """Clients of the Redis that a connection describes, with bounded timeouts and retries.

    Takes the place of the official `RedisHook`, whose connections it also reads. One hook keeps one
    sync client; close it, or use the hook as a context manager. What `Inspecting` adds is about all
    keys and servers.

    Example:
        with NexusRedisHook("my_redis") as hook:
            hook.get_conn().ping()
    """

    conn_name_attr = "redis_conn_id"
    default_conn_name = "nexus_redis_default"
    conn_type = CONNECTION_TYPE
    hook_name = "Nexus Redis"

    def __init__(self, redis_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        """Remember the connection's id; it is looked up on first use.

        Args:
            redis_conn_id: connection of type `nexus_redis` or `redis`.
        """
        super().__init__(redis_conn_id, **kwargs)
        self._client: redis.Redis | None = None
        self._endpoint: Endpoint | None = None

    @property
    def endpoint(self) -> Endpoint:
        """Where the server is.

        Raises:
            AirflowNotFoundException: there is no such connection.
            ConfigurationError: the connection is wrong.
        """
        if self._endpoint is None:
            self._endpoint = endpoint_of(self.get_connection(self.redis_conn_id))
        return self._endpoint

    async def get_endpoint(self) -> Endpoint:
        """The asyncio twin of `endpoint`, which never blocks the event loop of a triggerer."""
        if self._endpoint is None:
            connection = await self.aget_connection(self.redis_conn_id)
            self._endpoint = endpoint_of(connection, await _extra_of(connection))
        return self._endpoint

    def get_conn(self) -> redis.Redis:
        """This hook's one client, which connects on first use; replies are bytes."""
        if self._client is None:
            self._client = self.endpoint.client()
        return self._client

    async def get_async_conn(self) -> redis.asyncio.Redis:
        """A new asyncio client, which the caller closes.

        Example:
            async with await hook.get_async_conn() as client:
                await client.ping()
        """
        return (await self.get_endpoint()).async_client()

    def close(self) -> None:
        """Close this hook's sync client; harmless when it has none."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def test_connection(self) -> tuple[bool, str]:
        """Whether the servers can be used, and what they say of themselves or what is wrong.

        What is wrong begins with what to correct: host, port, TLS, password, Sentinel master name.
        """
        try:
            diagnosis = diagnose(self.endpoint)
        except NexusRedisError as error:
            return False, str(error)
        return diagnosis.fault is None, diagnosis.message


async def _extra_of(connection: Connection) -> Mapping[str, Any]:
    # Airflow before 3.3.2 can only mask the secrets in extras by a blocking call.
    read = getattr(connection, "aextra_dejson", None)
    return await read() if read else connection.extra_dejson


def _wrong(connection: Connection, what: str) -> ConfigurationError:
    return ConfigurationError(f"Airflow connection {connection.conn_id!r} {what}.")


def _topology_of(connection: Connection, extras: dict[str, Any]) -> Topology:
    text = str(extras.pop("topology", Topology.STANDALONE))
    if "cluster" in extras and _flag(connection, "cluster", extras.pop("cluster")):
        if text not in (Topology.STANDALONE, Topology.CLUSTER):
            raise _wrong(connection, f"has topology={text!r}, and the extra `cluster`; give one")
        return Topology.CLUSTER
    if text not in list(Topology):
        known = ", ".join(Topology)
        raise _wrong(connection, f"has topology={text!r}, which must be one of {known}")
    return Topology(text)


def _nodes_of(
    connection: Connection, extras: dict[str, Any], topology: Topology
) -> tuple[Node, ...]:
    nodes = [Node(str(connection.host), connection.port or topology.default_port)]
    for extra in ("nodes", "startup_nodes"):
        if further := extras.pop(extra, None):
            if topology is Topology.STANDALONE:
                raise _wrong(
                    connection,
                    f"has {extra}={further!r}, but one server; say by the extra `topology` "
                    "whether they are sentinel or cluster",
                )
            try:
                nodes.extend(nodes_of(str(further), topology.default_port))
            except ConfigurationError as error:
                raise _wrong(connection, f"has a bad extra {extra}: {error}".rstrip(".")) from None
    return tuple(dict.fromkeys(nodes))


def _tls_of(connection: Connection, extras: dict[str, Any]) -> Tls | None:
    settings = {name: extras.pop(name) for name in _TLS_EXTRAS if name in extras}
    wanted = connection.conn_type == "rediss"
    if "ssl" in extras:
        wanted = _flag(connection, "ssl", extras.pop("ssl"))
    # The official form stores its defaults of the other fields even where `ssl` is off.
    if not wanted:
        return None
    hostname = settings.pop("ssl_check_hostname", True)
    return Tls(
        check_hostname=_flag(connection, "ssl_check_hostname", hostname),
        **{name.removeprefix("ssl_"): str(value) for name, value in settings.items()},
    )


def _database_of(connection: Connection, extras: dict[str, Any]) -> int:
    found = {
        _converted(connection, name, int, value)
        for name, value in (("schema", connection.schema), ("db", extras.pop("db", None)))
        if value not in (None, "")
    }
    if len(found) > 1:
        raise _wrong(connection, "names two databases, one as schema and one as extra `db`")
    return int(found.pop()) if found else 0


def _secret_of(password: Any) -> Secret | None:
    # As the official hook: the texts "None" and "False" are what some deployments store for none.
    if str(password).lower() in ("none", "false", ""):
        return None
    return Secret(SecretSource.LITERAL, str(password))


def _flag(connection: Connection, name: str, value: Any) -> bool:
    text = str(value).lower()
    if text not in ("true", "false"):
        raise _wrong(connection, f"has {name}={value!r}, which must be true or false")
    return text == "true"


def _converted(connection: Connection, name: str, kind: type, value: Any) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise _wrong(connection, f"has {name}={value!r}, which must be a number") from None
