"""Many commands at once, to a server and to all nodes of a Cluster: by both kinds of client."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from nexus_redis_provider.core.clusters import plain_client
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import PoolExhaustedError, RefusedError, UnreachableError
from nexus_redis_provider.core.exchanges import aexecute_all, execute_all
from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks.protocol import who_holds
from nexus_redis_provider.core.scripts import arun, run
from tests.topologies import ClusterDeployment, stopped

Commands = Sequence[Sequence[Any]]


async def send(kind: str, endpoint: Endpoint, rounds: Iterable[Commands]) -> list[list[Any]]:
    """The replies to commands, those of each round sent at once, by one client."""
    if kind == "async":
        async with endpoint.async_client() as client:
            return [await aexecute_all(client, commands) for commands in rounds]

    def send_all() -> list[list[Any]]:
        with endpoint.client() as client:
            return [execute_all(client, commands) for commands in rounds]

    return await asyncio.to_thread(send_all)


@pytest.fixture
def keys() -> list[str]:
    """Of some slots on each node of a Cluster, several in one of them."""
    name = uuid.uuid4().hex
    return [f"{name}:{number}" for number in range(30)] + [f"{{{name}}}:{n}" for n in range(10)]


async def test_replies_come_as_the_server_says_them(
    kind: str, keys: list[str], deployment: ClusterDeployment
) -> None:
    """In the order of the commands, whatever redis-py would make of them."""
    written, read = await send(
        kind,
        replace(deployment.endpoint, protocol=2),
        (
            [("SET", key, number, "EX", 60) for number, key in enumerate(keys)],
            [("TTL", keys[0]), *(("GET", key) for key in keys), ("TYPE", keys[0])],
        ),
    )
    assert written == [b"OK"] * len(keys)
    assert 0 < read[0] <= 60
    assert read[1:-1] == [b"%d" % number for number in range(len(keys))]
    assert read[-1] == b"string"


async def test_no_command_is_lost_while_slots_move(
    kind: str, keys: list[str], deployment: ClusterDeployment
) -> None:
    def rounds() -> Iterator[Commands]:
        number = 0
        while moved() < 5:
            number += 1
            yield [("SET", f"{key}:{number}", number, "EX", 60) for key in keys]
            yield [("INCR", f"{key}:{number}") for key in keys]

    with deployment.moving_on([f"{key}:1" for key in keys]) as moved:
        replies = await send(kind, deployment.endpoint, rounds())
    pairs = zip(replies[::2], replies[1::2], strict=True)
    for number, (written, counted) in enumerate(pairs, start=1):
        assert all(reply in (b"OK", True) for reply in written)
        assert counted == [number + 1] * len(keys)


async def test_a_command_that_is_refused_is_told(
    kind: str, keys: list[str], deployment: ClusterDeployment
) -> None:
    commands = [*(("GET", key) for key in keys), ("LPUSH", keys[0], 1)]
    await send(kind, deployment.endpoint, [[("SET", keys[0], 1, "EX", 60)]])
    with pytest.raises(RefusedError, match="WRONGTYPE"):
        await send(kind, deployment.endpoint, [commands])


async def test_a_node_that_does_not_answer_is_told_and_no_reply_is_taken_for_another(
    kind: str, keys: list[str], deployment: ClusterDeployment
) -> None:
    endpoint = replace(deployment.endpoint, read_timeout=0.5, retries=0)
    reads, values = [("GET", key) for key in keys], [key.encode() for key in keys]
    server = deployment.server_of(keys[0])
    await send(kind, deployment.endpoint, [[("SET", key, key, "EX", 60) for key in keys]])
    if kind == "async":
        async with endpoint.async_client() as client:
            with stopped(server), pytest.raises(UnreachableError):
                await aexecute_all(client, reads)
            for _ in range(20):  # a slow machine needs more than one
                with suppress(UnreachableError):
                    assert await aexecute_all(client, reads) == values
                    break
            else:
                pytest.fail("no replies")
    else:
        with endpoint.client() as client:
            with stopped(server), pytest.raises(UnreachableError):
                execute_all(client, reads)
            for _ in range(20):
                with suppress(UnreachableError):
                    assert execute_all(client, reads) == values
                    break
            else:
                pytest.fail("no replies")


async def test_a_full_pool_is_told_by_name(
    kind: str, keys: list[str], deployment: ClusterDeployment
) -> None:
    reads, lock = [*(("GET", key) for key in keys), ("TTL", LockKeys("a").lock)], who_holds("a")
    narrow = replace(deployment.endpoint, max_connections=1)
    if kind == "async":
        async with narrow.async_client() as client:
            await aexecute_all(client, reads)
            node = client.get_node_from_key(lock.keys[0])
            taken = node.acquire_connection()
            with pytest.raises(PoolExhaustedError, match="Raise max_connections"):
                await aexecute_all(client, reads)
            with pytest.raises(PoolExhaustedError, match="Raise max_connections"):
                await arun(client, lock)
            node.release(taken)
            assert await arun(client, lock) is None
            assert len(await aexecute_all(client, reads)) == len(reads)
    else:
        with narrow.client() as client:
            execute_all(client, reads)
            pool = plain_client(client, lock.keys[0]).connection_pool
            taken = pool.get_connection()
            with pytest.raises(PoolExhaustedError, match="Raise max_connections"):
                execute_all(client, reads)
            with pytest.raises(PoolExhaustedError, match="Raise max_connections"):
                run(client, lock)
            pool.release(taken)
            assert run(client, lock) is None
            assert len(execute_all(client, reads)) == len(reads)
