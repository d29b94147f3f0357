"""Who may hold a lock beside whom: permits of a semaphore, shared holders and exclusive ones."""

from __future__ import annotations

import redis

from nexus_redis_provider.core.locks.protocol import (
    release,
)
from tests.core.lock_calls import Perform, take


async def test_a_semaphore_lets_in_as_many_as_it_permits(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    taken = [await perform(take("a", f"o{n}", permits=3, namespace=namespace)) for n in range(4)]
    assert [one.acquired for one in taken] == [True, True, True, False]
    tokens = [one.token for one in taken[:3]]
    assert tokens == sorted(set(tokens))
    assert len(taken[3].holders) == 3
    # Who is content with fewer others must wait for them.
    assert not (await perform(take("a", "narrow", permits=2, namespace=namespace))).acquired
    await perform(release("a", "o1", tokens[1], namespace=namespace))
    assert not (await perform(take("a", "narrow", permits=2, namespace=namespace))).acquired
    assert (await perform(take("a", "o3", permits=3, namespace=namespace))).acquired


async def test_a_semaphore_keeps_room_for_all_ahead(perform: Perform, namespace: str) -> None:
    held = [await perform(take("a", f"h{n}", permits=2, namespace=namespace)) for n in range(2)]
    for n in range(3):
        await perform(take("a", f"w{n}", permits=2, stay=60, namespace=namespace))
    for n, one in enumerate(held):
        await perform(release("a", f"h{n}", one.token, namespace=namespace))
    # Two are free: the second need not wait for the first to come.
    assert not (await perform(take("a", "w2", permits=2, stay=60, namespace=namespace))).acquired
    assert (await perform(take("a", "w1", permits=2, stay=60, namespace=namespace))).acquired
    assert not (await perform(take("a", "w2", permits=2, stay=60, namespace=namespace))).acquired
    assert (await perform(take("a", "w0", permits=2, stay=60, namespace=namespace))).acquired


async def test_shared_holders_and_exclusive_ones(perform: Perform, namespace: str) -> None:
    readers = [
        await perform(take("a", f"r{n}", mode="shared", namespace=namespace)) for n in range(3)
    ]
    assert all(reader.acquired for reader in readers)
    assert not (await perform(take("a", "writer", stay=60, namespace=namespace))).acquired
    # Later readers do not starve a writer in line.
    late = await perform(take("a", "late", mode="shared", stay=60, namespace=namespace))
    assert not late.acquired
    for n, reader in enumerate(readers):
        await perform(release("a", f"r{n}", reader.token, namespace=namespace))
    assert not (
        await perform(take("a", "late", mode="shared", stay=60, namespace=namespace))
    ).acquired
    writer = await perform(take("a", "writer", stay=60, namespace=namespace))
    assert writer.acquired
    await perform(release("a", "writer", writer.token, namespace=namespace))
    for owner in ("late", "later"):
        assert (await perform(take("a", owner, mode="shared", namespace=namespace))).acquired
