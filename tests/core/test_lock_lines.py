"""Who waits for a lock stands in a line: first come, first served, and the head is woken."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks.protocol import (
    attend,
    break_lock,
    inspect,
    leave,
    release,
    steal,
    who_holds,
)
from nexus_redis_provider.core.scripts import run
from tests.core.lock_calls import DAY, Perform, line_of, line_up, take


@pytest.fixture
def dead_waiters(client: redis.Redis, namespace: str, wait_until: Any) -> Any:
    """Waits until these are passed over."""

    def wait(*owners: str) -> None:
        def all_silent() -> bool:
            state = run(client, inspect("a", namespace=namespace))
            heard = {waiter.owner: waiter.heard_for for waiter in state.waiters}
            return all(heard.get(owner, 0) <= 0 for owner in owners)

        wait_until(all_silent)

    return wait


async def test_a_list_rings_but_once(perform: Perform, namespace: str, client: redis.Redis) -> None:
    held = await perform(take("a", "holder", namespace=namespace))
    await perform(take("a", "first", stay=60, bell="list:me", namespace=namespace))
    await perform(release("a", "holder", held.token, namespace=namespace))
    for number in range(20):
        assert not (await perform(take("a", f"passer-by {number}", namespace=namespace))).acquired
    bell = LockKeys("a", namespace).wake("me")
    assert client.llen(bell) == 1
    assert 0 < client.ttl(bell) <= 60


async def test_first_come_first_served(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    held = await perform(take("a", "holder", namespace=namespace))
    places = await line_up(perform, namespace, "w1", "w2", "w3")
    assert [place.position for place in places] == [1, 2, 3]
    assert [place.length for place in places] == [1, 2, 3]
    assert line_of(client, namespace) == ["w1", "w2", "w3"]
    # Asking again keeps the place.
    again = await perform(take("a", "w1", stay=60, namespace=namespace))
    assert (again.ticket, again.position) == (places[0].ticket, 1)

    await perform(release("a", "holder", held.token, namespace=namespace))
    for newcomer in ("w3", "w2", "from outside", "holder"):
        refused = await perform(take("a", newcomer, namespace=namespace))
        assert not refused.acquired, f"{newcomer} is not the first in line"
        assert refused.holders == ()
    token = held.token
    for owner in ("w1", "w2", "w3"):
        taken = await perform(take("a", owner, stay=60, namespace=namespace))
        assert taken.acquired
        assert taken.token > token
        token = taken.token
        await perform(release("a", owner, token, namespace=namespace))
    assert line_of(client, namespace) == []


async def test_who_only_asks_stands_in_no_line(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    await perform(take("a", "holder", namespace=namespace))
    refused = await perform(take("a", "asker", namespace=namespace))
    assert (refused.position, refused.ticket) == (0, 0)
    assert line_of(client, namespace) == []


async def test_the_dead_are_passed_over_and_get_their_place_back(
    perform: Perform, namespace: str, client: redis.Redis, dead_waiters: Any
) -> None:
    held = await perform(take("a", "holder", namespace=namespace))
    (dead,) = await line_up(perform, namespace, "dead", stay=0.05)
    await line_up(perform, namespace, "w2", "w3")
    dead_waiters("dead")
    await perform(release("a", "holder", held.token, namespace=namespace))
    second = await perform(take("a", "w2", stay=60, namespace=namespace))
    assert second.acquired
    assert line_of(client, namespace) == ["w3"], "who is passed over left the line"

    returned = await perform(take("a", "dead", stay=60, namespace=namespace))
    assert (returned.ticket, returned.position) == (dead.ticket, 1)
    await perform(release("a", "w2", second.token, namespace=namespace))
    assert not (await perform(take("a", "w3", stay=60, namespace=namespace))).acquired
    taken = await perform(take("a", "dead", stay=60, namespace=namespace))
    assert taken.acquired
    assert taken.waited > 0


async def test_others_that_ask_do_not_keep_the_dead_alive(
    perform: Perform, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    held = await perform(take("a", "holder", namespace=namespace))
    await line_up(perform, namespace, "dead", stay=0.3)
    await perform(release("a", "holder", held.token, namespace=namespace))
    asker = take("a", "asker", stay=60, namespace=namespace)
    await eventually(lambda: run(client, asker).acquired)


async def test_a_place_is_taken_up_again_by_attending(
    perform: Perform, namespace: str, client: redis.Redis, dead_waiters: Any
) -> None:
    await perform(take("a", "holder", namespace=namespace))
    await line_up(perform, namespace, "w1", stay=0.05)
    await line_up(perform, namespace, "w2")
    dead_waiters("w1")
    assert not (await perform(take("a", "w2", stay=60, namespace=namespace))).acquired
    run(client, leave("a", "nobody", namespace=namespace))
    attendance = await perform(attend("a", ["w1", "w2", "stranger"], namespace=namespace))
    assert attendance.positions == {"w1": 1, "w2": 2, "stranger": 0}
    assert attendance.strangers == {"stranger"}
    assert attendance.turns == frozenset()
    assert attendance.head == "w1"
    assert attendance.length == 2
    assert [holder.owner for holder in attendance.holders] == ["holder"]


async def test_attending_tells_whose_turn_it_is(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    held = await perform(take("a", "holder", permits=2, namespace=namespace))
    for owner in ("w1", "w2", "w3"):
        await perform(take("a", owner, stay=60, namespace=namespace))
    assert not (await perform(attend("a", ["w1", "w2"], namespace=namespace))).turns
    await perform(release("a", "holder", held.token, namespace=namespace))
    assert (await perform(attend("a", ["w1", "w2"], namespace=namespace))).turns == {"w1"}
    assert not (await perform(attend("a", ["w2", "w3"], namespace=namespace))).turns
    assert await perform(leave("a", "w1", namespace=namespace))
    assert not await perform(leave("a", "w1", namespace=namespace))
    assert (await perform(attend("a", ["w2", "w3"], namespace=namespace))).turns == {"w2"}


async def test_a_ticket_outlives_the_servers_memory(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    await perform(take("a", "holder", namespace=namespace))
    first, second = await line_up(perform, namespace, "w1", "w2")
    client.delete(*LockKeys("a", namespace).state)
    await perform(take("a", "holder", namespace=namespace))
    for owner, place in (("w2", second), ("w1", first)):
        again = await perform(take("a", owner, stay=60, ticket=place.ticket, namespace=namespace))
        assert again.ticket == place.ticket
    assert line_of(client, namespace) == ["w1", "w2"]


async def test_who_is_silent_for_a_day_is_forgotten(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    await perform(take("a", "holder", namespace=namespace))
    await line_up(perform, namespace, "old", "new")
    client.zadd(LockKeys("a", namespace).heard, {"old": 1})
    await perform(take("a", "new", stay=60, namespace=namespace))
    assert client.hkeys(LockKeys("a", namespace).waiters) == [b"new"]
    for key in LockKeys("a", namespace).state:
        assert 0 < client.ttl(key) <= 30 * DAY


def wakes(client: redis.Redis, namespace: str) -> tuple[Any, str]:
    channel = LockKeys.channel(namespace)
    listener = client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(channel)
    listener.get_message(timeout=5)
    return listener, channel


def next_wake(listener: Any, *, within: float = 10) -> str | None:
    message = listener.get_message(timeout=within)
    return message and message["data"].decode().partition("\n")[2]


@pytest.mark.parametrize("how", ["release", "steal", "break", "leave", "expiry"])
async def test_only_the_head_is_woken(
    *,
    how: str,
    perform: Perform,
    namespace: str,
    client: redis.Redis,
    wait_until: Any,
) -> None:
    # Long enough for three to stand in line meanwhile.
    lease = 0.5 if how == "expiry" else 60
    held = await perform(take("a", "holder", lease, deployment="d", namespace=namespace))
    listener, channel = wakes(client, namespace)
    for owner in ("first", "second", "third"):
        await perform(take("a", owner, stay=60, bell=channel, namespace=namespace))
    assert next_wake(listener, within=0.05) is None
    holder = run(client, who_holds("a", namespace=namespace))
    if how == "release":
        await perform(release("a", "holder", held.token, namespace=namespace))
    elif how == "steal":
        assert await perform(steal(holder, namespace=namespace)) is not None
    elif how == "break":
        assert await perform(break_lock("a", by="me", why="test", namespace=namespace))
    elif how == "expiry":
        wait_until(lambda: run(client, who_holds("a", namespace=namespace)).expires_in <= 0)
        assert not (await perform(take("a", "passer-by", namespace=namespace))).acquired
    else:
        await perform(release("a", "holder", held.token, namespace=namespace))
        assert next_wake(listener) == "first"
        await perform(leave("a", "first", namespace=namespace))
    assert next_wake(listener) == ("second" if how == "leave" else "first")
    assert next_wake(listener, within=0.05) is None, "nobody but the head"
    listener.close()
