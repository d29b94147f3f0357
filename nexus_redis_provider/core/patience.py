"""Scripts in a Cluster whose keys are on their way from one node to another.

As long as a slot is, none of its nodes runs a script with some keys that have moved and some that
have not. redis-py has patience for a third of a second, a slot may take longer. And what a script
looks for that is not among its keys, it may take for missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from redis import exceptions

from nexus_redis_provider.core.endpoint import FAILURES
from nexus_redis_provider.core.translations import NON_LOCAL

T = TypeVar("T")
Missed = Callable[[T], Iterable[str]]
"""Keys that a script has not found, as its reply says."""
_PAUSE = 0.02


def patiently(client: Any, action: Callable[[], T], missed: Missed[T]) -> T:
    """The result of an action, tried again for as long as the client waits for a reply.

    Args:
        client: of the whole Cluster.
        action: raises redis-py's errors.
        missed: see there.
    """
    until = _until(client)
    while True:
        try:
            result = action()
            if any(client.exists(key) for key in missed(result)):
                raise _on_its_way()
        except FAILURES as error:
            if not _will_pass(error) or time.monotonic() > until:
                raise
            time.sleep(_PAUSE)
        else:
            return result


async def apatiently(client: Any, action: Callable[[], Awaitable[T]], missed: Missed[T]) -> T:
    """The asyncio twin of `patiently`."""
    until = _until(client)
    while True:
        try:
            result = await action()
            for key in missed(result):
                if await client.exists(key):
                    raise _on_its_way()
        except FAILURES as error:
            if not _will_pass(error) or time.monotonic() > until:
                raise
            await asyncio.sleep(_PAUSE)
        else:
            return result


def _until(client: Any) -> float:
    timeout: float = client.get_connection_kwargs()["socket_timeout"]
    return time.monotonic() + timeout


def _on_its_way() -> Exception:
    return exceptions.TryAgainError("a key that a script looked for is on its way to another node")


def _will_pass(error: Exception) -> bool:
    passing = isinstance(error, exceptions.ClusterError | exceptions.TryAgainError)
    return passing or NON_LOCAL in str(error)
