"""The promises of a lock, kept by every client on every server."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    LockHeldError,
    LockLostError,
    UnreachableError,
)
from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks import AsyncLock, Lock, acquire, inspect, release, renew
from nexus_redis_provider.core.scripts import Call, arun, run, script

NOWHERE = Endpoint.from_url("redis://127.0.0.1:1?retries=0")
Perform = Callable[[Call[Any]], Awaitable[Any]]


@asynccontextmanager
async def performing(kind: str, endpoint: Endpoint) -> AsyncIterator[Perform]:
    if kind == "async":
        async with endpoint.async_client() as client:
            yield partial(arun, client)
    else:
        with endpoint.client() as client:

            async def perform(call: Call[Any]) -> Any:
                return run(client, call)

            yield perform


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def perform(kind: str, endpoint: Endpoint) -> AsyncIterator[Perform]:
    async with performing(kind, endpoint) as perform:
        yield perform


@asynccontextmanager
async def holding(kind: str, endpoint: Endpoint, name: str, **options: Any) -> AsyncIterator[Any]:
    if kind == "async":
        async with AsyncLock(endpoint, name, **options) as lock:
            yield lock
        return
    lock = Lock(endpoint, name, **options)
    await asyncio.to_thread(lock.__enter__)
    try:
        yield lock
    finally:
        await asyncio.to_thread(lock.__exit__, None, None, None)


async def test_one_owner_at_a_time(perform: Perform, namespace: str) -> None:
    ours = await perform(acquire("a", "me", 60, description={"run": 1}, namespace=namespace))
    theirs = await perform(acquire("a", "you", 60, namespace=namespace))
    assert ours.acquired
    assert not theirs.acquired
    assert theirs.holder.owner == "me"
    assert theirs.holder.description == {"run": 1}
    assert theirs.holder.token == ours.holder.token
    assert 59 < theirs.holder.expires_in <= 60


async def test_names_are_told_apart(perform: Perform, namespace: str) -> None:
    for name in ("a", "a b", "a{b}", "{a}b", "a:b", "ä", "a%7Bb%7D"):
        assert (await perform(acquire(name, f"owner of {name}", 60, namespace=namespace))).acquired


async def test_the_owner_reenters_with_the_same_token(perform: Perform, namespace: str) -> None:
    first = await perform(acquire("a", "me", 60, namespace=namespace))
    again = await perform(acquire("a", "me", 1, namespace=namespace))
    assert again.acquired
    assert again.holder.token == first.holder.token
    assert again.holder.since == first.holder.since
    assert again.holder.expires_in > 59, "a re-entry must not shorten the lease"


async def test_release_is_repeatable_and_only_for_the_owner(
    perform: Perform, namespace: str
) -> None:
    token = (await perform(acquire("a", "me", 60, namespace=namespace))).holder.token
    assert not await perform(release("a", "you", token, namespace=namespace))
    assert not await perform(release("a", "me", token - 1, namespace=namespace))
    assert await perform(release("a", "me", token, namespace=namespace))
    assert not await perform(release("a", "me", token, namespace=namespace))
    other = await perform(acquire("a", "you", 60, namespace=namespace))
    assert other.acquired
    assert not await perform(release("a", "me", token, namespace=namespace))
    assert (await perform(inspect("a", namespace=namespace))).owner == "you"


async def test_an_expired_lease_goes_to_the_next(
    perform: Perform, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    first = (await perform(acquire("a", "me", 0.05, namespace=namespace))).holder
    await eventually(lambda: run(client, inspect("a", namespace=namespace)).expires_in <= 0)
    second = await perform(acquire("a", "you", 60, namespace=namespace))
    assert second.acquired
    assert second.holder.token > first.token
    assert await perform(renew("a", "me", first.token, 60, namespace=namespace)) == "you"
    assert not await perform(release("a", "me", first.token, namespace=namespace))


async def test_an_expired_lease_that_nobody_took_is_still_the_owners(
    perform: Perform, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    token = (await perform(acquire("a", "me", 0.05, namespace=namespace))).holder.token
    await eventually(lambda: run(client, inspect("a", namespace=namespace)).expires_in <= 0)
    assert await perform(renew("a", "me", token, 60, namespace=namespace)) is None
    assert (await perform(inspect("a", namespace=namespace))).expires_in > 59
    assert await perform(renew("b", "me", token, 60, namespace=namespace)) == ""


async def test_tokens_rise_even_without_their_counter(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    tokens = []
    for turn in range(6):
        token = (await perform(acquire("a", f"o{turn}", 60, namespace=namespace))).holder.token
        await perform(release("a", f"o{turn}", token, namespace=namespace))
        tokens.append(token)
        if turn % 2:
            assert client.delete(LockKeys("a", namespace).fence) == 1
    assert tokens == sorted(set(tokens))


async def test_tokens_rise_even_if_the_clock_falls_back(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    ahead = 4_000_000_000_000_000
    client.set(LockKeys("a", namespace).fence, ahead, ex=60)
    assert (await perform(acquire("a", "me", 60, namespace=namespace))).holder.token == ahead + 1


async def test_inspect_of_a_free_lock(perform: Perform, namespace: str) -> None:
    assert await perform(inspect("a", namespace=namespace)) is None


async def test_every_key_is_caught_by_a_net(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    await perform(acquire("a", "me", 60, namespace=namespace))
    keys = LockKeys("a", namespace)
    day = 24 * 3600
    assert 0 < client.ttl(keys.holder) <= day + 60
    assert 29 * day < client.ttl(keys.fence) <= 30 * day


@pytest.mark.parametrize(("name", "owner"), [("", "me"), ("a", "")])
def test_a_lock_has_a_name_and_an_owner(name: str, owner: str) -> None:
    with pytest.raises(ConfigurationError, match="name and an owner"):
        acquire(name, owner, 60)


@pytest.mark.parametrize("verb", ["acquire", "renew", "release"])
async def test_a_lost_reply_costs_nothing(
    *, verb: str, kind: str, namespace: str, endpoint: Endpoint, client: redis.Redis, proxy: Any
) -> None:
    for name in ("acquire_lock", "renew_lock", "release_lock"):
        client.script_load(script(name).source)
    async with performing(kind, replace(endpoint, nodes=(proxy.node,))) as perform:
        await perform(inspect("warm up", namespace=namespace))
        if verb == "acquire":
            proxy.lose_reply()
        first = await perform(acquire("a", "me", 60, namespace=namespace))
        assert first.acquired
        token = first.holder.token
        assert run(client, inspect("a", namespace=namespace)).token == token
        if verb == "renew":
            proxy.lose_reply()
            assert await perform(renew("a", "me", token, 90, namespace=namespace)) is None
            assert run(client, inspect("a", namespace=namespace)).expires_in > 89
        if verb == "release":
            proxy.lose_reply()
            await perform(release("a", "me", token, namespace=namespace))
            assert run(client, inspect("a", namespace=namespace)) is None
    (lost,) = proxy.lost
    if verb == "acquire":
        assert str(token).encode() in lost, "the token that was minted first"


async def test_a_context_holds_and_gives_back(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis
) -> None:
    async with holding(kind, endpoint, "a", namespace=namespace) as lock:
        assert lock.held
        lock.ensure_held()
        assert run(client, inspect("a", namespace=namespace)).token == lock.token
        with pytest.raises(LockHeldError) as refused:
            async with holding(kind, endpoint, "a", namespace=namespace):
                pytest.fail("two holders")
        assert refused.value.owner == lock.owner
    assert not lock.held
    assert run(client, inspect("a", namespace=namespace)) is None


async def test_a_context_waits_its_turn(kind: str, endpoint: Endpoint, namespace: str) -> None:
    async def turn(order: list[str]) -> None:
        async with holding(kind, endpoint, "a", namespace=namespace, wait=10, poll=0.01):
            order.append("in")
            await asyncio.sleep(0)
            order.append("out")

    order: list[str] = []
    await asyncio.gather(*(turn(order) for _ in range(5)))
    assert order == ["in", "out"] * 5


async def test_a_wait_ends(kind: str, endpoint: Endpoint, namespace: str) -> None:
    async with holding(kind, endpoint, "a", namespace=namespace):
        with pytest.raises(LockHeldError, match="after waiting"):
            async with holding(kind, endpoint, "a", namespace=namespace, wait=0.05, poll=0.01):
                pytest.fail("two holders")


async def test_a_context_renews_its_lease(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    seen = set()
    async with holding(kind, endpoint, "a", namespace=namespace, lease=0.5) as lock:

        def renewed_five_times() -> bool:
            seen.add(client.hget(LockKeys("a", namespace).holder, "expires_ms"))
            return len(seen) > 5

        # Five renewals at a third of the lease take longer than the lease.
        await eventually(renewed_five_times)
        lock.ensure_held()
        assert not lock.lost.is_set()


async def test_a_context_is_told_of_its_loss(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    async with holding(kind, endpoint, "a", namespace=namespace, lease=0.5) as lock:
        client.delete(LockKeys("a", namespace).holder)
        run(client, acquire("a", "thief", 60, namespace=namespace))
        await eventually(lock.lost.is_set)
        with pytest.raises(LockLostError, match="thief"):
            lock.ensure_held()
    assert run(client, inspect("a", namespace=namespace)).owner == "thief"


async def test_a_silent_server_is_a_loss(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    async with holding(kind, endpoint, "a", namespace=namespace, lease=0.5) as lock:
        client.client_pause(1000)
        await eventually(lock.lost.is_set)
        assert not lock.held
        client.client_unpause()


async def test_the_error_of_the_work_is_not_hidden(
    kind: str, endpoint: Endpoint, namespace: str
) -> None:
    async def fail_when_the_server_is_gone() -> None:
        async with holding(kind, endpoint, "a", namespace=namespace) as lock:
            lock._endpoint = NOWHERE
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_when_the_server_is_gone()


async def test_async_contexts_end_even_amid_a_renewal(endpoint: Endpoint, namespace: str) -> None:
    async def hold_for(turns: int) -> None:
        name = f"a{turns}"
        async with AsyncLock(endpoint, name, namespace=namespace, lease=0.1):
            for _ in range(turns):
                await asyncio.sleep(0)

    await asyncio.wait_for(asyncio.gather(*map(hold_for, range(0, 400, 4))), 20)


async def test_without_a_server_there_is_no_lock(kind: str) -> None:
    with pytest.raises(UnreachableError):
        async with holding(kind, NOWHERE, "a"):
            pytest.fail("a lock from nowhere")


def add_ones(endpoint: Endpoint, namespace: str, path: str, times: int) -> None:
    """Counts in a file by read, add, write: any overlap loses a count."""
    file = Path(path)
    for _ in range(times):
        with Lock(endpoint, "counter", namespace=namespace, wait=60, poll=0.002) as lock:
            count, token = map(int, file.read_text().split())
            assert lock.token > token, "tokens must rise in the order of holding"
            file.write_text(f"{count + 1} {lock.token}")


def test_processes_never_overlap(endpoint: Endpoint, namespace: str, tmp_path: Path) -> None:
    file = tmp_path / "count"
    file.write_text("0 0")
    context = multiprocessing.get_context("spawn")
    arguments = (endpoint, namespace, str(file), 25)
    processes = [context.Process(target=add_ones, args=arguments) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 6
    assert file.read_text().split()[0] == "150"


def test_a_lock_is_not_entered_twice(endpoint: Endpoint, namespace: str) -> None:
    lock = Lock(endpoint, "twice", namespace=namespace)
    with lock:
        with pytest.raises(ConfigurationError, match="held by this very object"), lock:
            pass
        lock.ensure_held()
    with lock:
        lock.ensure_held()
