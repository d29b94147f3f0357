"""A lock whose task is cancelled, or ends, at any moment."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.locks import AsyncLock
from nexus_redis_provider.core.locks.protocol import who_holds
from nexus_redis_provider.core.scripts import run


async def test_async_contexts_end_even_amid_a_renewal(endpoint: Endpoint, namespace: str) -> None:
    async def hold_for(turns: int) -> None:
        name = f"a{turns}"
        async with AsyncLock(endpoint, name, namespace=namespace, lease=0.1):
            for _ in range(turns):
                await asyncio.sleep(0)

    await asyncio.wait_for(asyncio.gather(*map(hold_for, range(0, 400, 4))), 20)


async def test_whoever_cancels_the_end_of_a_block_keeps_no_lock(
    endpoint: Endpoint, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    async def hold(number: int) -> None:
        async with AsyncLock(endpoint, f"c{number}", namespace=namespace):
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(hold(number)) for number in range(30)]
    for turn, task in enumerate(tasks):
        asyncio.get_running_loop().call_later(0.01 + turn * 0.0007, task.cancel)
    await asyncio.wait(tasks)

    def all_free() -> bool:
        names = (f"c{number}" for number in range(30))
        return not any(run(client, who_holds(name, namespace=namespace)) for name in names)

    await eventually(all_free)


async def test_a_lock_helps_to_clean_up_after_a_cancellation(
    endpoint: Endpoint, namespace: str
) -> None:
    cleaned = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            async with AsyncLock(endpoint, "cleanup", namespace=namespace) as lock:
                cleaned.append(lock.token)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert cleaned


def test_a_generator_that_nobody_has_closed_gives_back_its_lock_when_the_loop_ends(
    endpoint: Endpoint, namespace: str, client: redis.Redis
) -> None:
    async def locked() -> AsyncIterator[AsyncLock]:
        async with AsyncLock(endpoint, "g", namespace=namespace) as lock:
            yield lock

    opened = locked()

    async def work() -> None:
        assert (await anext(opened)).token

    # A loop that does not end is not to keep the tests from ending.
    loop = threading.Thread(target=asyncio.run, args=(work(),), daemon=True)
    loop.start()
    loop.join(60)
    assert not loop.is_alive()
    assert run(client, who_holds("g", namespace=namespace)) is None
