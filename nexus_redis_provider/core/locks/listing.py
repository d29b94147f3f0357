"""Which locks there are. Nothing keeps a list of them, so the server is asked for its keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import redis

from nexus_redis_provider.core.errors import AccessDeniedError, ServerError, UnreachableError
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE, LockKeys
from nexus_redis_provider.core.keyspace.walks import scan
from nexus_redis_provider.core.locks.protocol import inspect
from nexus_redis_provider.core.locks.states import LockState
from nexus_redis_provider.core.scripts import Call, run, run_all

_INSPECTED = 200


def lock_names(client: redis.Redis, namespace: str = DEFAULT_NAMESPACE) -> Iterator[str]:
    """Every lock that the server remembers the whole time, free ones included, once, in no order.

    Args:
        client: of the server, without `decode_responses`.
        namespace: first part of the keys.

    Raises:
        UnreachableError: no answer within the client's timeouts and retries.
        AccessDeniedError: bad credentials, or the ACL forbids SCAN.

    Cost: one SCAN for every thousand keys of the database, of whatever kind; blocks nobody.
    """
    seen = set[str]()
    for key in scan(client, LockKeys.pattern(namespace), kind="hash"):
        name = _name_of(key, namespace)
        if name is not None and name not in seen:
            seen.add(name)
            yield name


def lock_states(
    client: redis.Redis, names: Iterable[str], *, namespace: str = DEFAULT_NAMESPACE
) -> Iterator[tuple[str, LockState | ServerError]]:
    """Each of the locks with its holders and the length of its line, in the order of the names.

    A lock that cannot be read, as when something else wrote to its keys, comes with the error, so
    that it does not hide the others.

    Args:
        client: of the server, without `decode_responses`.
        names: of the locks, in any number.
        namespace: first part of the keys.

    Raises:
        UnreachableError, AccessDeniedError: as `lock_names`.

    Cost: one round trip for every 200 locks.
    """
    left = iter(names)
    while batch := list(islice(left, _INSPECTED)):
        states = run_all(client, [_call(name, namespace) for name in batch])
        for name, state in zip(batch, states, strict=True):
            yield name, _again(client, name, namespace) if isinstance(state, ServerError) else state


def _call(name: str, namespace: str) -> Call[LockState]:
    return inspect(name, waiters=0, namespace=namespace)


def _again(client: redis.Redis, name: str, namespace: str) -> LockState | ServerError:
    # By itself, a refused script says whether it is the lock, or we who may not ask.
    try:
        return run(client, _call(name, namespace))
    except (AccessDeniedError, UnreachableError):
        raise
    except ServerError as error:
        return error


def _name_of(key: bytes, namespace: str) -> str | None:
    """The lock whose hash this is; None for its other keys, and for keys that no lock has."""
    try:
        text = key.decode()
        name = LockKeys.name_of(text)
        return name if LockKeys(name, namespace).lock == text else None
    except ValueError:
        return None
