"""From an Airflow connection to Redis clients, sync and async."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self
from weakref import finalize

from airflow.providers.redis.hooks.redis import RedisHook

from nexus_redis_provider.core.addresses import Node, Topology, nodes_of
from nexus_redis_provider.core.diagnosis import diagnose
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ConfigurationError, NexusRedisError
from nexus_redis_provider.core.options import (
    FLAG,
    TLS_FILES,
    WHOLE,
    Wrong,
    endpoint_settings,
    read_option,
)
from nexus_redis_provider.core.sharing import borrow, give_back
from nexus_redis_provider.hooks.inspecting import Inspecting

if TYPE_CHECKING:
    from collections.abc import Mapping

    import redis.asyncio
    from airflow.sdk import Connection

CONNECTION_TYPE = "nexus_redis"
_TYPES = (CONNECTION_TYPE, "redis", "rediss")
_NO_EXTRAS = ("", "{}", "[]", "null")


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
    try:
        return _described_by(connection, connection.extra_dejson if extra is None else extra)
    except ConfigurationError as error:
        if str(error).startswith(named := _named(connection)):
            raise
        raise ConfigurationError(f"{named}: {error}") from None


def _described_by(connection: Connection, given: Mapping[str, Any]) -> Endpoint:
    if connection.conn_type not in _TYPES:
        raise _wrong(
            connection,
            f"has the type {connection.conn_type!r}, not {CONNECTION_TYPE!r}; its URI begins with "
            "nexus-redis://, and says by topology=sentinel or topology=cluster what it is of",
        )
    if not (connection.host or "").strip():
        raise _wrong(connection, "has no host")
    wrong = partial(_wrong, connection)
    # Airflow reads what is no JSON as an empty object.
    is_unread = not given and "".join((connection.extra or "").split()) not in _NO_EXTRAS
    if is_unread or not isinstance(given or {}, dict):
        raise wrong("has extras that are not a JSON object")
    # A form sends what was left empty as null or as an empty text.
    extras = {name: value for name, value in (given or {}).items() if value not in (None, "")}
    topology = _topology_of(extras, wrong)
    nodes = _nodes_of(connection, extras, topology, wrong)
    encrypted = read_option("ssl", extras.pop("ssl", connection.conn_type == "rediss"), FLAG, wrong)
    if not encrypted and (files := [name for name in TLS_FILES if name in extras]):
        # All else there is for TLS, the official form stores even where that is off.
        raise wrong(f"has {', '.join(files)}, but no TLS; say ssl=true, or leave them empty")
    db = _database_of(connection.schema, extras.pop("db", None), wrong)
    literals = {
        "password": _password(connection.password, connection),
        "sentinel_password": _password(extras.pop("sentinel_password", None), connection),
    }
    return Endpoint(
        nodes=nodes,
        topology=topology,
        db=db,
        username=connection.login or None,
        **endpoint_settings(extras, literals, encrypted=encrypted, wrong=wrong),
    )


class NexusRedisHook(Inspecting, RedisHook):
    """Clients of the Redis that a connection describes, with bounded timeouts and retries.

    Takes the place of the official `RedisHook`, whose connections it also reads. A hook has one
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
        """A client for this hook until it is closed, which connects on first use.

        Replies are bytes. All hooks of a process with the same connection share its pool.
        """
        if self._client is None:
            self._client = borrow(self.endpoint)
            self._return = finalize(self, give_back, self.endpoint, self._client)
        return self._client

    async def get_async_conn(self) -> redis.asyncio.Redis:
        """A new asyncio client, which the caller closes.

        Example:
            async with await hook.get_async_conn() as client:
                await client.ping()
        """
        return (await self.get_endpoint()).async_client()

    def get_read_conn(self) -> redis.Redis:
        """A new client for reads that may be stale, which the caller closes.

        It goes to a replica where the connection says `read_from=replica`.
        """
        return self.endpoint.read_client()

    async def get_async_read_conn(self) -> redis.asyncio.Redis:
        """The asyncio twin of `get_read_conn`."""
        return (await self.get_endpoint()).async_read_client()

    def close(self) -> None:
        """End the use of this hook's sync client; harmless when it has none."""
        if self._client is not None:
            self._client = None
            self._return()

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
    return ConfigurationError(f"{_named(connection)} {what}.")


def _named(connection: Connection) -> str:
    return f"Airflow connection {connection.conn_id!r}"


def _topology_of(extras: dict[str, Any], wrong: Wrong) -> Topology:
    text = str(extras.pop("topology", Topology.STANDALONE))
    if read_option("cluster", extras.pop("cluster", False), FLAG, wrong):
        if text not in (Topology.STANDALONE, Topology.CLUSTER):
            raise wrong(f"has topology={text!r}, and the extra `cluster`; give one")
        return Topology.CLUSTER
    if text not in list(Topology):
        raise wrong(f"has topology={text!r}, which must be one of {', '.join(Topology)}")
    return Topology(text)


def _nodes_of(
    connection: Connection, extras: dict[str, Any], topology: Topology, wrong: Wrong
) -> tuple[Node, ...]:
    host = _host_in(str(connection.host))
    port = None if host.startswith("/") else connection.port
    nodes = [Node(host, topology.default_port if port is None else port)]
    for extra in ("nodes", "startup_nodes"):
        if further := extras.pop(extra, None):
            if topology is Topology.STANDALONE:
                # Before an @ stands a password.
                shown = extra if "@" in str(further) else f"{extra}={further!r}"
                raise wrong(
                    f"has {shown}, but one server; say by the extra `topology` whether they are "
                    "sentinel or cluster"
                )
            try:
                nodes.extend(nodes_of(str(further), topology.default_port))
            except ConfigurationError as error:
                raise wrong(f"has a bad extra {extra}: {error}".rstrip(".")) from None
    return tuple(dict.fromkeys(nodes))


def _host_in(field: str) -> str:
    """What is meant by the field of a form: spaces were pasted, and brackets are of URLs."""
    host = field.strip()
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _database_of(schema: Any, db: Any, wrong: Wrong) -> int:
    found: set[int] = {
        read_option(name, value, WHOLE, wrong)
        for name, value in (("schema", schema), ("db", db))
        if value not in (None, "")
    }
    if len(found) > 1:
        raise wrong("names two databases, one as schema and one as extra `db`")
    return found.pop() if found else 0


def _password(given: Any, connection: Connection) -> str:
    text = str(given or "")
    # The official hook takes these for none, which is what some deployments store for that.
    is_none = connection.conn_type != CONNECTION_TYPE and text.lower() in ("none", "false")
    return "" if is_none else text
