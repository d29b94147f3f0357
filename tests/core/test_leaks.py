"""No connection is left by threads, event loops and processes that are done."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.clusters import primaries_of
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.locks import AsyncLock, Lock
from nexus_redis_provider.core.sharing import LoopClient, borrow, give_back
from nexus_redis_provider.core.slots import Slots
from nexus_redis_provider.embedded import EmbeddedServer
from tests.conftest import CountClients, Eventually, WaitUntil
from tests.servers import Server, counting, shared_server
from tests.topologies import ClusterDeployment


@pytest.fixture
def own(binary: Path) -> Iterator[Server]:
    """A server that nobody else is connected to, of the same kind."""
    with shared_server(binary) as own:
        yield own


@pytest.fixture
def count(own: Server) -> Iterator[CountClients]:
    """How many clients the server has."""
    with counting(own) as count:

        def counted() -> int:
            gc.collect()
            return count()

        yield counted


def hold(endpoint: Endpoint, name: str) -> None:
    """A lock for longer than a third of its lease, so that it is renewed."""
    with Lock(endpoint, name, lease=1, wait=20) as lock:
        renewed = lock._hold.renewed_at  # type: ignore[union-attr]
        while lock._hold.renewed_at == renewed:  # type: ignore[union-attr]
            assert not lock.lost.wait(0.02)


def test_threads(own: Server, count: CountClients, wait_until: WaitUntil) -> None:
    threads = [threading.Thread(target=hold, args=(own.endpoint, f"{n}")) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: count() == 0)


def test_event_loops(own: Server, count: CountClients, wait_until: WaitUntil) -> None:
    async def work() -> None:
        async def one(name: str) -> None:
            async with AsyncLock(own.endpoint, name, wait=20, lease=0.3):
                await asyncio.sleep(0.15)

        async with own.endpoint.async_client() as client, asyncio.TaskGroup() as group:
            await client.ping()
            for number in range(6):
                group.create_task(one(str(number % 3)))

    for _ in range(5):
        asyncio.run(work())
    wait_until(lambda: count() == 0)


def test_loops_that_are_interrupted(
    own: Server, count: CountClients, wait_until: WaitUntil
) -> None:
    async def work() -> None:
        holding = AsyncLock(own.endpoint, "a", wait=20)
        async with holding:
            waiting = asyncio.create_task(AsyncLock(own.endpoint, "a", wait=20).__aenter__())
            await asyncio.sleep(0.1)
            waiting.cancel()
            await asyncio.wait([waiting])

    for _ in range(5):
        asyncio.run(work())
    wait_until(lambda: count() == 0)


async def _read(endpoint: Endpoint) -> None:
    async with LoopClient.of(endpoint) as shared:
        assert await shared.use(lambda client: client.get("a")) is None


async def _look(endpoint: Endpoint) -> None:
    await Slots(endpoint).anode_of("a")


_USES = pytest.mark.parametrize(
    ("servers", "use"),
    [(EmbeddedServer, _read), (ClusterDeployment, _read), (ClusterDeployment, _look)],
)
Use = Callable[[Endpoint], Coroutine[Any, Any, None]]


@_USES
async def test_uses_that_are_cancelled_again_and_again(
    servers: type[Server], use: Use, binary: Path
) -> None:
    async def is_done(turns: int, pause: int) -> bool:
        """Whether so many turns of the loop are enough; after them, it is cancelled."""
        using = asyncio.create_task(use(own.endpoint))
        for _ in range(turns):
            await asyncio.sleep(0)
        if using.done():
            return True
        while not using.done():
            using.cancel()
            for _ in range(pause):
                await asyncio.sleep(0)
        return False

    with servers(binary=binary) as own:
        for pause in (1, 2, 3):
            turns = 0
            while not await is_done(turns, pause):
                turns += 1
    gc.collect()  # Of a connection that nobody has closed, it warns, which fails the test.


@_USES
def test_uses_that_a_loop_does_not_wait_for(servers: type[Server], use: Use, binary: Path) -> None:
    async def is_done(turns: int) -> bool:
        using = asyncio.create_task(use(own.endpoint))
        for _ in range(turns):
            await asyncio.sleep(0)
        return using.done()

    with servers(binary=binary) as own:
        turns = 0
        while not asyncio.run(is_done(turns)):
            turns += 1
    gc.collect()


def _child(endpoint: Endpoint) -> None:
    hold(endpoint, "child")
    client = borrow(endpoint)
    client.ping()
    # Ended without a word, as by os._exit: the server finds out by the end of the connection.


def test_forks(own: Server, count: CountClients, wait_until: WaitUntil) -> None:
    borrowed = borrow(own.endpoint)
    with Lock(own.endpoint, "parent"):
        borrowed.ping()
        before = count()
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=_child, args=(own.endpoint,)) for _ in range(4)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0] * 4
        wait_until(lambda: count() == before)
        assert borrowed.ping(), "what the parent has is still its own"
    give_back(own.endpoint, borrowed)
    # The thread that holds locks keeps its one connection.
    wait_until(lambda: count() == 1)


def test_users_of_a_process_share_a_pool(own: Server, count: CountClients) -> None:
    elsewhere = replace(own.endpoint, client_name="elsewhere")
    first, second, other = borrow(own.endpoint), borrow(own.endpoint), borrow(elsewhere)
    assert first is second
    assert other is not first
    give_back(elsewhere, other)
    assert not first.exists("a")
    servers = len(primaries_of(first))  # That connects to one of them.
    before = count()
    assert 1 <= before <= servers, "each server has one at most"
    assert not second.exists("a")
    assert count() == before
    give_back(own.endpoint, first)
    assert not second.exists("a"), "one of the two still has it"
    assert count() == before
    give_back(own.endpoint, second)
    give_back(own.endpoint, second)
    assert count() == 0
    again = borrow(own.endpoint)
    assert again is not first
    give_back(own.endpoint, again)


async def test_users_of_a_loop_share_a_few_connections(
    own: Server, count: CountClients, eventually: Eventually
) -> None:
    inside = most = 0

    async def look(client: redis.asyncio.Redis) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        assert not await client.exists("a")
        inside -= 1

    async def wait() -> None:
        async with LoopClient.of(own.endpoint) as shared:
            for _ in range(3):
                await shared.use(look)
                await asyncio.sleep(0.01)

    await asyncio.gather(*(wait() for _ in range(300)))
    assert most <= 8
    await eventually(lambda: count() == 0)
    async with LoopClient.of(own.endpoint) as shared:
        await shared.use(look)
        assert 1 <= count() <= 3, "one to each server"
    await eventually(lambda: count() == 0)


def test_a_server_that_does_not_answer_as_one_is_ended(binary: Path) -> None:
    server = EmbeddedServer(binary=binary, config='rename-command HELLO ""')
    with pytest.raises(redis.exceptions.ResponseError, match="HELLO"):
        server.__enter__()
    assert server._process.poll() is not None
