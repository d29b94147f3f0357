"""Waiting for locks in an event loop: few connections, few commands, nobody forgotten."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.clusters import primaries_of
from nexus_redis_provider.core.endpoint import Endpoint, Node
from nexus_redis_provider.core.errors import UnreachableError
from nexus_redis_provider.core.locks import AsyncLock
from nexus_redis_provider.core.locks.protocol import inspect, release, who_holds
from nexus_redis_provider.core.locks.waiting import Place, WaitingRoom
from nexus_redis_provider.core.scripts import run
from tests.conftest import CountClients
from tests.core.lock_calls import take
from tests.guarded import own_server
from tests.kinds import unspread
from tests.servers import scripts_run


@pytest.fixture
async def room(endpoint: Endpoint) -> AsyncIterator[WaitingRoom]:
    async with WaitingRoom.of(endpoint) as room:
        yield room


async def turn(place: Place) -> None:
    while not (await place.news()).is_turn:
        pass


@unspread
async def test_a_room_is_subscribed_once_however_many_locks_came_and_went(
    endpoint: Endpoint, client: redis.Redis, namespace: str, eventually: Any
) -> None:
    """Nothing is unsubscribed: there is but one channel, and it ends with its connection."""
    named = replace(endpoint, client_name=namespace)

    def ours(kind: str) -> list[dict[str, str]]:
        return [one for one in client.client_list(_type=kind) if one["name"] == namespace]

    def subscriptions() -> int:
        return sum(int(one["sub"]) for one in ours("pubsub"))

    async with WaitingRoom.of(named) as room:
        for n in range(30):
            with room.place(f"lock-{n}", "me", namespace=namespace) as place:
                await turn(place)
        await eventually(subscriptions)
        assert subscriptions() == 1
        killed = ours("pubsub")[0]["id"]
        client.client_kill_filter(_id=killed)
        await eventually(lambda: subscriptions() and ours("pubsub")[0]["id"] != killed)
        assert subscriptions() == 1
    await eventually(lambda: not ours("pubsub") and not ours("normal"))


async def test_a_thousand_waiters_share_two_connections(
    endpoint: Endpoint,
    client: redis.Redis,
    namespace: str,
    eventually: Any,
    count_clients: CountClients,
) -> None:
    held = run(client, take("a", "holder", namespace=namespace))
    for n in range(1000):
        run(client, take("a", f"w{n:04}", stay=60, namespace=namespace))
    before = count_clients()
    async with AsyncExitStack() as stack:
        room = await stack.enter_async_context(WaitingRoom.of(endpoint))
        places = {
            f"w{n:04}": stack.enter_context(
                room.place("a", f"w{n:04}", poll=1, namespace=namespace)
            )
            for n in range(1000)
        }
        standings = await asyncio.gather(*(place.news() for place in places.values()))
        assert [standing.position for standing in standings] == list(range(1, 1001))
        assert standings[0].is_first
        assert {standing.holders[0].owner for standing in standings} == {"holder"}
        assert count_clients() == before + 2

        # Four scripts a look, and a look a second, give or take a fifth.
        looks, began_at = scripts_run(client), time.monotonic()
        await asyncio.sleep(3)
        assert 4 <= scripts_run(client) - looks <= 4 * (time.monotonic() - began_at + 1)

        # Only the head is woken, time and again.
        token = held.token
        run(client, release("a", "holder", token, namespace=namespace))
        for owner in ("w0000", "w0001", "w0002"):
            await asyncio.wait_for(turn(places[owner]), 5)
            assert not any(
                place._news.is_set() and place._standing.is_turn
                for other, place in places.items()
                if other != owner
            )
            token = run(client, take("a", owner, stay=60, namespace=namespace)).token
            run(client, release("a", owner, token, namespace=namespace))
    await eventually(lambda: count_clients() == before)
    assert WaitingRoom._rooms[asyncio.get_running_loop()] == {}


async def test_a_stranger_is_sent_to_ask(
    room: WaitingRoom, client: redis.Redis, namespace: str
) -> None:
    run(client, take("a", "holder", namespace=namespace))
    with room.place("a", "never asked", namespace=namespace) as place:
        assert (await asyncio.wait_for(place.news(), 5)).is_turn


async def test_two_rooms_may_attend_the_same_place(
    endpoint: Endpoint, client: redis.Redis, namespace: str
) -> None:
    held = run(client, take("a", "holder", namespace=namespace))
    run(client, take("a", "w", stay=60, namespace=namespace))
    elsewhere = replace(endpoint, client_name="elsewhere")
    async with AsyncExitStack() as stack:
        places = []
        for one in (endpoint, elsewhere):
            room = await stack.enter_async_context(WaitingRoom.of(one))
            places.append(stack.enter_context(room.place("a", "w", poll=0.2, namespace=namespace)))
            assert not (await places[-1].news()).is_turn
        run(client, release("a", "holder", held.token, namespace=namespace))
        await asyncio.wait_for(asyncio.gather(*map(turn, places)), 5)
    assert run(client, who_holds("a", namespace=namespace)) is None, "waiting takes nothing"


async def test_waiting_goes_on_while_the_server_is_away(namespace: str) -> None:
    with own_server("--appendonly", "yes", "--appendfsync", "always") as server:
        with server.endpoint.client() as client:
            held = run(client, take("a", "holder", namespace=namespace))
            run(client, take("a", "w", stay=60, namespace=namespace))
        async with WaitingRoom.of(replace(server.endpoint, retries=0)) as room:
            with room.place("a", "w", poll=0.1, namespace=namespace) as place:
                assert (await place.news()).position == 1
                await asyncio.to_thread(server.stop)
                while not (standing := await asyncio.wait_for(place.news(), 10)).error:
                    pass
                assert isinstance(standing.error, UnreachableError)
                await asyncio.to_thread(server.start)
                while (standing := await asyncio.wait_for(place.news(), 10)).error:
                    pass
                assert standing.position == 1
                with server.endpoint.client() as client:
                    run(client, release("a", "holder", held.token, namespace=namespace))
                await asyncio.wait_for(turn(place), 10)


async def test_a_wake_up_that_got_lost_costs_one_look(
    room: WaitingRoom, client: redis.Redis, namespace: str
) -> None:
    held = run(client, take("a", "holder", namespace=namespace))
    run(client, take("a", "w", stay=60, namespace=namespace))
    with room.place("a", "w", poll=0.3, namespace=namespace) as place:
        assert not (await place.news()).is_turn
        for primary in primaries_of(client):
            primary.client.client_kill_filter(_type="pubsub")
        run(client, release("a", "holder", held.token, namespace=namespace))
        await asyncio.wait_for(turn(place), 5)


async def test_the_head_looks_when_a_lease_ends(
    room: WaitingRoom, client: redis.Redis, namespace: str
) -> None:
    run(client, take("a", "dies", 0.3, namespace=namespace))
    run(client, take("a", "w", stay=60, namespace=namespace))
    with room.place("a", "w", poll=30, namespace=namespace) as place:
        await asyncio.wait_for(turn(place), 5)


async def test_the_head_that_never_comes_is_passed_over(
    room: WaitingRoom, client: redis.Redis, namespace: str
) -> None:
    held = run(client, take("a", "holder", namespace=namespace))
    run(client, take("a", "dead", stay=0.3, namespace=namespace))
    run(client, take("a", "w", stay=60, namespace=namespace))
    with room.place("a", "w", poll=0.1, namespace=namespace) as place:
        run(client, release("a", "holder", held.token, namespace=namespace))
        await asyncio.wait_for(turn(place), 5)
    assert run(client, take("a", "w", stay=60, namespace=namespace)).acquired


EAGER = pytest.param(
    getattr(asyncio, "eager_task_factory", None),
    marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="no task is eager"),
    id="eager",
)


@pytest.fixture(params=[None, EAGER])
async def tasks(request: pytest.FixtureRequest) -> None:
    """When tasks of the loop begin: with its next turn, or at once."""
    asyncio.get_running_loop().set_task_factory(request.param)


@pytest.mark.usefixtures("tasks")
async def test_locks_of_a_loop_share_connections(
    endpoint: Endpoint,
    client: redis.Redis,
    namespace: str,
    eventually: Any,
    count_clients: CountClients,
) -> None:
    before = count_clients()
    locks = [AsyncLock(endpoint, f"l{n}", namespace=namespace) for n in range(50)]
    async with AsyncExitStack() as stack:
        for lock in locks:
            await stack.enter_async_context(lock)
        assert count_clients() == before + len(primaries_of(client)), "one to each server"
    await eventually(lambda: count_clients() == before)


async def test_a_cancelled_wait_leaves_line_and_room(
    endpoint: Endpoint,
    client: redis.Redis,
    namespace: str,
    eventually: Any,
    count_clients: CountClients,
) -> None:
    run(client, take("a", "holder", namespace=namespace))
    before = count_clients()

    async def wait() -> None:
        async with AsyncLock(endpoint, "a", wait=60, namespace=namespace):
            pytest.fail("two holders")

    for pause in (0, 0.001, 0.002, 0.005, 0.05):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(pause)
        waiting.cancel()
        await asyncio.wait_for(asyncio.wait([waiting]), 10)
        assert waiting.cancelled()
    await eventually(lambda: run(client, inspect("a", namespace=namespace)).length == 0)
    await eventually(lambda: count_clients() == before)


async def test_a_silent_server_keeps_nobody_waiting_for_another(endpoint: Endpoint) -> None:
    asked = 0

    async def answer_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(answer_nothing, "127.0.0.1", 0)
    node = Node("127.0.0.1", silent.sockets[0].getsockname()[1])
    mute = replace(endpoint, nodes=(node,), read_timeout=0.3, connect_timeout=0.3, retries=0)
    asked_by_then: list[int] = []

    async def enter(number: int) -> None:
        with pytest.raises(UnreachableError):
            await AsyncLock(mute, f"l{number}").__aenter__()
        asked_by_then.append(asked)

    await asyncio.gather(*(enter(number) for number in range(8)))
    silent.close()
    assert asked_by_then[0] == 8, "side by side, not one after the other"


async def test_waiting_goes_on_after_an_answer_that_makes_no_sense(
    room: WaitingRoom, client: redis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = run(client, take("a", "holder", namespace=namespace))
    run(client, take("a", "w", stay=60, namespace=namespace))
    use = room.use

    async def nonsense(_: Any) -> Any:
        monkeypatch.setattr(room, "use", use)
        raise redis.exceptions.InvalidResponse("nonsense")

    monkeypatch.setattr(room, "use", nonsense)
    with room.place("a", "w", poll=0.1, namespace=namespace) as place:
        assert "nonsense" in str((await place.news()).error)
        run(client, release("a", "holder", held.token, namespace=namespace))
        await asyncio.wait_for(turn(place), 5)
