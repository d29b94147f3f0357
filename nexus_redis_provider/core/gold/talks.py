"""Who does the talking for `versions`: its generators, driven through a client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import redis
import redis.asyncio

from nexus_redis_provider.core.exchanges import aexecute_all, execute_all
from nexus_redis_provider.core.gold.versions import Found, Talk, Walk

T = TypeVar("T")


def talk(client: redis.Redis, steps: Talk[T]) -> T:
    """What the steps find out. Raises as they do, and as `execute_all`."""
    try:
        commands = next(steps)
        while True:
            commands = steps.send(execute_all(client, commands))
    except StopIteration as end:
        found: T = end.value
        return found


def walk(client: redis.Redis, steps: Walk) -> Iterator[Found]:
    """What the steps find. Raises as they do, and as `execute_all`."""
    replies: Any = None
    with suppress(StopIteration):
        while True:
            step = steps.send(replies)
            if isinstance(step, Found):
                yield step
            replies = None if isinstance(step, Found) else execute_all(client, step)


async def atalk(client: redis.asyncio.Redis, steps: Talk[T]) -> T:
    """The asyncio twin of `talk`."""
    try:
        commands = next(steps)
        while True:
            commands = steps.send(await aexecute_all(client, commands))
    except StopIteration as end:
        found: T = end.value
        return found


async def awalk(client: redis.asyncio.Redis, steps: Walk) -> AsyncIterator[Found]:
    """The asyncio twin of `walk`."""
    replies: Any = None
    with suppress(StopIteration):
        while True:
            step = steps.send(replies)
            if isinstance(step, Found):
                yield step
            replies = None if isinstance(step, Found) else await aexecute_all(client, step)
