"""What an error of redis-py means, as an error of this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import exceptions

from nexus_redis_provider.core.addresses import DEFAULT_PORT, host_and_port
from nexus_redis_provider.core.credentials import SecretError
from nexus_redis_provider.core.errors import (
    AccessDeniedError,
    NoPasswordError,
    PoolExhaustedError,
    RefusedError,
    ServerError,
    UnreachableError,
)
from nexus_redis_provider.core.faults import Fault


def address_of(client: Any) -> str:
    """`host:port/db` of a client, or what it follows, for messages."""
    if (pool := getattr(client, "connection_pool", None)) is None:
        if (nodes := getattr(client, "startup_nodes", None)) is None:
            return str(client)
        return f"Cluster {','.join(host_and_port(node.host, node.port) for node in nodes)}"
    options = pool.connection_kwargs
    if "guide" in options:
        return str(options["guide"])
    # A pool of redis-py's own, of a URL for example, has no more than it was given.
    where = options.get("path") or getattr(pool, "service_name", None)
    if where is None:
        where = host_and_port(options.get("host", "localhost"), options.get("port", DEFAULT_PORT))
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
        NoPasswordError: the password is no longer where it is to come from.
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
    exceptions.InvalidResponse,
)

# What servers say, where redis-py has no class for it.
NON_LOCAL = "attempted to access a non local key"
"""To a script that made the name of a key itself, while its slot is on its way."""
CLUSTER_DOWN_WITHIN = "while the cluster is down"
"""To a script, where `cluster-allow-reads-when-down` let it begin."""
NO_REPLICAS = "NOREPLICAS"
TOO_MANY_CLIENTS = "max number of clients"
# To a script; Redis 7.0 says the latter.
_DENIED_WITHIN = ("ACL failure in script", "The user executing the script can't")


def translated(where: str, error: BaseException) -> ServerError | exceptions.WatchError:
    """The error of this package that says what an error of redis-py means.

    That of an optimistic transaction is none, but an answer, and stays as it is.
    """
    if isinstance(error, exceptions.WatchError):
        return error
    if isinstance(error, exceptions.RedisClusterException) and (why := _why(error)):
        # It could not look for the nodes.
        return translated(where, why)
    if isinstance(error, exceptions.MaxConnectionsError):
        return PoolExhaustedError(where, error)
    if isinstance(error, _DENIED) or str(error).startswith(_DENIED_WITHIN):
        kind = NoPasswordError if isinstance(error, SecretError) else AccessDeniedError
        return kind(where, error)
    if isinstance(error, _UNREACHABLE) or is_split(error) or _is_down(error):
        return _unreachable(where, error)
    return RefusedError(where, str(error))


def _why(error: BaseException) -> BaseException | None:
    # An answer that a node gave stands behind what redis-py takes it for: no Cluster.
    answer = error.__context__ if isinstance(error.__context__, exceptions.ResponseError) else None
    return error.__cause__ or answer


def is_split(error: BaseException | None) -> bool:
    """Whether an error of redis-py says that no node has all the keys, as their slot moves."""
    # What it raises when it has met that too often has no class of its own.
    is_said = isinstance(error, exceptions.TryAgainError) or type(error) is exceptions.ClusterError
    return is_said or NON_LOCAL in str(error)


def _is_down(error: BaseException) -> bool:
    return isinstance(error, exceptions.ClusterDownError) or CLUSTER_DOWN_WITHIN in str(error)


# By a part of what was said.
_ADVICES = (
    (NO_REPLICAS, "See INFO replication for what holds them up."),
    (TOO_MANY_CLIENTS, Fault.TOO_MANY_CLIENTS.advice),
    ("Protocol error", Fault.NOT_REDIS.advice),
)


def _unreachable(where: str, error: BaseException) -> UnreachableError:
    """With the next step, where it is another one than to look whether the server is there."""
    for one in (error, error.__cause__):
        # Its own text has two numbers, and does not say of what.
        if isinstance(one, exceptions.AskError):
            what = f"slot {one.slot_id} moves to {one.host}:{one.port}"
            return UnreachableError(where, what, "Try again when it has moved.")
    if is_split(error):
        return UnreachableError(where, f"a slot moves ({error})", "Try again when it has moved.")
    if _is_down(error):
        return UnreachableError(where, error, Fault.CLUSTER_DOWN.advice)
    advice = next((advice for said, advice in _ADVICES if said in str(error)), None)
    return UnreachableError(where, error, advice) if advice else UnreachableError(where, error)
