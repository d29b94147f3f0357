"""What the scripts of a lock promise: owners, tokens, leases, the line, permits and modes."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks.protocol import (
    Claim,
    acquire,
    attend,
    break_lock,
    inspect,
    leave,
    release,
    renew,
    steal,
    who_holds,
)
from nexus_redis_provider.core.scripts import run, script
from tests.core.lock_calls import Perform, performing, take

DAY = 24 * 3600


async def test_one_owner_at_a_time(perform: Perform, namespace: str) -> None:
    ours = await perform(take("a", "me", 60, description={"run": 1}, namespace=namespace))
    theirs = await perform(take("a", "you", 60, namespace=namespace))
    assert ours.acquired
    assert not theirs.acquired
    assert theirs.holders[0].owner == "me"
    assert theirs.holders[0].description == {"run": 1}
    assert theirs.holders[0].token == ours.token
    assert 59 < theirs.holders[0].expires_in <= 60


async def test_names_are_told_apart(perform: Perform, namespace: str) -> None:
    for name in ("a", "a b", "a{b}", "{a}b", "a:b", "ä", "a%7Bb%7D"):
        assert (await perform(take(name, f"owner of {name}", 60, namespace=namespace))).acquired


async def test_the_owner_reenters_with_the_same_token(perform: Perform, namespace: str) -> None:
    first = await perform(take("a", "me", 60, namespace=namespace))
    again = await perform(take("a", "me", 1, namespace=namespace))
    assert again.acquired
    assert again.token == first.token
    assert again.since == first.since
    assert again.expires_in > 59, "a re-entry must not shorten the lease"


async def test_a_request_that_arrives_twice_enters_once(perform: Perform, namespace: str) -> None:
    call = take("a", "me", namespace=namespace)
    first, late = await perform(call), await perform(call)
    assert (first.entries, late.entries) == (1, 1)
    again = await perform(take("a", "me", namespace=namespace))
    assert again.entries == 2
    assert None is await perform(release("a", "me", first.token, 1, namespace=namespace))
    assert await perform(release("a", "me", first.token, 2, namespace=namespace)) is not None


async def test_a_late_copy_of_an_earlier_request_is_no_entry(
    perform: Perform, namespace: str
) -> None:
    def asked(request: str) -> Any:
        return acquire(Claim("a", "me", namespace=namespace), 60, request=request)

    token = (await perform(asked("x.1"))).token
    assert (await perform(asked("x.2"))).entries == 2
    assert (await perform(asked("x.1"))).entries == 2
    assert (await perform(asked("x.10"))).entries == 3
    assert (await perform(asked("y.1"))).entries == 4
    assert await perform(release("a", "me", token, 4, namespace=namespace)) is not None


async def test_a_list_rings_but_once(perform: Perform, namespace: str, client: redis.Redis) -> None:
    held = await perform(take("a", "holder", namespace=namespace))
    await perform(take("a", "first", stay=60, bell="list:me", namespace=namespace))
    await perform(release("a", "holder", held.token, namespace=namespace))
    for number in range(20):
        assert not (await perform(take("a", f"passer-by {number}", namespace=namespace))).acquired
    bell = LockKeys("a", namespace).wake("me")
    assert client.llen(bell) == 1
    assert 0 < client.ttl(bell) <= 60


async def test_release_is_repeatable_and_only_for_the_owner(
    perform: Perform, namespace: str
) -> None:
    token = (await perform(take("a", "me", 60, namespace=namespace))).token
    assert None is await perform(release("a", "you", token, namespace=namespace))
    assert None is await perform(release("a", "me", token - 1, namespace=namespace))
    assert await perform(release("a", "me", token, namespace=namespace)) is not None
    assert None is await perform(release("a", "me", token, namespace=namespace))
    other = await perform(take("a", "you", 60, namespace=namespace))
    assert other.acquired
    assert None is await perform(release("a", "me", token, namespace=namespace))
    assert (await perform(who_holds("a", namespace=namespace))).owner == "you"


async def test_an_expired_lease_goes_to_the_next(
    perform: Perform, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    first = await perform(take("a", "me", 0.05, namespace=namespace))
    await eventually(lambda: run(client, who_holds("a", namespace=namespace)).expires_in <= 0)
    second = await perform(take("a", "you", 60, namespace=namespace))
    assert second.acquired
    assert second.token > first.token
    assert await perform(renew("a", "me", first.token, 60, namespace=namespace)) == "you"
    assert None is await perform(release("a", "me", first.token, namespace=namespace))


async def test_an_expired_lease_that_nobody_took_is_still_the_owners(
    perform: Perform, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    token = (await perform(take("a", "me", 0.05, namespace=namespace))).token
    await eventually(lambda: run(client, who_holds("a", namespace=namespace)).expires_in <= 0)
    assert await perform(renew("a", "me", token, 60, namespace=namespace)) is None
    assert (await perform(who_holds("a", namespace=namespace))).expires_in > 59
    assert await perform(renew("b", "me", token, 60, namespace=namespace)) == ""


async def test_tokens_rise_even_without_their_counter(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    tokens = []
    for turn in range(6):
        token = (await perform(take("a", f"o{turn}", 60, namespace=namespace))).token
        await perform(release("a", f"o{turn}", token, namespace=namespace))
        tokens.append(token)
        if turn % 2:
            assert client.delete(LockKeys("a", namespace).lock) == 1
    assert tokens == sorted(set(tokens))


async def test_tokens_rise_even_if_the_clock_falls_back(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    ahead = 4_000_000_000_000_000
    client.hset(LockKeys("a", namespace).lock, "", f"{ahead} 0")
    assert (await perform(take("a", "me", 60, namespace=namespace))).token == ahead + 1


async def test_inspect_of_a_free_lock(perform: Perform, namespace: str) -> None:
    assert await perform(who_holds("a", namespace=namespace)) is None


async def test_every_key_is_caught_by_a_net(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    await perform(take("a", "me", 60, namespace=namespace))
    assert 29 * DAY < client.ttl(LockKeys("a", namespace).lock) <= 30 * DAY


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "name and an owner, not ''"),
        ({"owner": ""}, "name and an owner, not 'a' and ''"),
        ({"mode": "exklusiv"}, "mode must be exclusive or shared, not 'exklusiv'"),
        ({"permits": 0}, "permits must be a whole number from 1, not 0"),
        ({"permits": True}, "not True"),
        ({"permits": 2, "mode": "shared"}, "permits=2 is for a semaphore"),
        ({"deployment": "two words"}, "deployment's id must be .* not 'two words'"),
        ({"namespace": "{}"}, "namespace must be"),
    ],
)
def test_what_a_claim_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        take(**{"name": "a", "owner": "me"} | options)


@pytest.mark.parametrize("verb", ["acquire", "renew", "release"])
async def test_a_lost_reply_costs_nothing(
    *, verb: str, kind: str, namespace: str, endpoint: Endpoint, client: redis.Redis, proxy: Any
) -> None:
    for name in ("acquire_lock", "renew_lock", "release_lock"):
        client.script_load(script(name).source)
    async with performing(kind, proxy.endpoint) as perform:
        await perform(who_holds("warm up", namespace=namespace))
        if verb == "acquire":
            proxy.lose_reply()
        first = await perform(take("a", "me", 60, namespace=namespace))
        assert first.acquired
        token = first.token
        assert run(client, who_holds("a", namespace=namespace)).token == token
        if verb == "renew":
            proxy.lose_reply()
            assert await perform(renew("a", "me", token, 90, namespace=namespace)) is None
            assert run(client, who_holds("a", namespace=namespace)).expires_in > 89
        if verb == "release":
            proxy.lose_reply()
            await perform(release("a", "me", token, namespace=namespace))
            assert run(client, who_holds("a", namespace=namespace)) is None
    (lost,) = proxy.lost
    if verb == "acquire":
        assert str(token).encode() in lost, "the token that was minted first"


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


async def line_up(perform: Perform, namespace: str, *owners: str, stay: float = 60) -> list[Any]:
    return [await perform(take("a", owner, stay=stay, namespace=namespace)) for owner in owners]


def line_of(client: redis.Redis, namespace: str) -> list[str]:
    return [waiter.owner for waiter in run(client, inspect("a", namespace=namespace)).waiters]


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


async def test_a_dead_holder_is_robbed_only_if_it_did_not_come_back(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    first = await perform(take("a", "run", deployment="d", namespace=namespace))
    judged = run(client, who_holds("a", namespace=namespace))
    again = await perform(take("a", "run", deployment="d", namespace=namespace))
    assert (again.token, again.entries) == (first.token, 2)
    assert await perform(steal(judged, namespace=namespace)) is None
    assert run(client, who_holds("a", namespace=namespace)).owner == "run"
    judged = run(client, who_holds("a", namespace=namespace))
    assert await perform(steal(judged, namespace=namespace)) is not None
    assert run(client, who_holds("a", namespace=namespace)) is None


async def test_a_lease_does_not_speak_for_a_run_of_the_same_deployment(
    perform: Perform, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    await perform(take("a", "run", 0.05, deployment="d", namespace=namespace))
    await eventually(lambda: run(client, who_holds("a", namespace=namespace)).expires_in <= 0)
    ours = await perform(take("a", "other run", deployment="d", namespace=namespace))
    assert not ours.acquired
    assert ours.holders[0].expires_in <= 0
    foreign = await perform(take("a", "foreign run", deployment="e", namespace=namespace))
    assert foreign.acquired
    assert foreign.expired == 1


async def test_who_is_refused_ends_no_lease_that_ran_out(
    perform: Perform, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    await perform(take("a", "run", 0.05, deployment="d", namespace=namespace))
    ahead = take("a", "other run", stay=60, deployment="d", namespace=namespace)
    assert not (await perform(ahead)).acquired
    await eventually(lambda: run(client, who_holds("a", namespace=namespace)).expires_in <= 0)
    # For one without Airflow the lock is free, but who is ahead has yet to ask if the run lives.
    passer_by = await perform(take("a", "passer-by", namespace=namespace))
    assert not passer_by.acquired
    assert run(client, who_holds("a", namespace=namespace)).owner == "run"
    assert not (await perform(ahead)).acquired


async def test_who_belongs_to_a_deployment_asks_even_if_its_own_hold_is_a_lease(
    perform: Perform, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    await perform(take("a", "run", 0.05, deployment="d", namespace=namespace))
    await eventually(lambda: run(client, who_holds("a", namespace=namespace)).expires_in <= 0)
    task = {"deployment": "d", "lease_only": True, "namespace": namespace}
    assert not (await perform(take("a", "task", **task))).acquired
    await perform(take("b", "task", 0.05, **task))
    assert run(client, who_holds("b", namespace=namespace)).deployment == ""
    await eventually(lambda: run(client, who_holds("b", namespace=namespace)).expires_in <= 0)
    assert (await perform(take("b", "run", deployment="d", namespace=namespace))).acquired


async def test_an_old_attempt_does_not_free_the_lock_of_the_new_one(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    old = await perform(take("a", "work", namespace=namespace))
    new = await perform(take("a", "work", namespace=namespace))
    assert new.token == old.token
    freed = release("a", "work", old.token, old.entries, namespace=namespace)
    assert await perform(freed) is None
    assert run(client, who_holds("a", namespace=namespace)).owner == "work"
    freed = release("a", "work", new.token, new.entries, namespace=namespace)
    assert await perform(freed) is not None


async def test_a_run_without_lease_is_remembered_for_a_year(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    await perform(take("a", "run", 60, deployment="d", namespace=namespace))
    assert client.ttl(LockKeys("a", namespace).lock) > 364 * DAY


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


async def test_an_onlooker_sees_all_and_changes_nothing(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    held = await perform(
        take("a", "h", permits=2, deployment="d", description={"x": "ä"}, namespace=namespace)
    )
    for owner in ("w1", "w2"):
        await perform(take("a", owner, stay=60, description={"of": owner}, namespace=namespace))
    before = {key: client.dump(key) for key in LockKeys("a", namespace).state}
    state = await perform(inspect("a", waiters=1, namespace=namespace))
    assert before == {key: client.dump(key) for key in LockKeys("a", namespace).state}
    assert (state.name, state.token, state.length) == ("a", held.token, 2)
    (holder,) = state.holders
    assert (holder.owner, holder.permits, holder.deployment, holder.entries) == ("h", 2, "d", 1)
    assert holder.description == {"x": "ä"}
    (waiter,) = state.waiters
    assert (waiter.owner, waiter.permits, waiter.description) == ("w1", 1, {"of": "w1"})
    assert 59 < waiter.heard_for <= 60


async def test_breaking_a_lock_is_written_down(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    one = await perform(take("a", "o1", permits=2, namespace=namespace))
    two = await perform(take("a", "o2", permits=2, namespace=namespace))
    by_force = break_lock("a", by="ann", why="stuck", owner="o1", namespace=namespace)
    lost = await perform(by_force)
    assert [(holder.owner, holder.token) for holder in lost] == [("o1", one.token)]
    await perform(take("a", "o1", permits=2, namespace=namespace))
    again = await perform(by_force)
    assert [(holder.owner, holder.token) for holder in again] == [("o1", one.token)]
    returned = run(client, inspect("a", namespace=namespace)).holders[1]
    assert returned.owner == "o1", "the same request breaks no second hold"
    await perform(release("a", "o1", returned.token, namespace=namespace))
    assert await perform(renew("a", "o1", one.token, 60, namespace=namespace)) == "o2"
    assert await perform(renew("a", "o2", two.token, 60, namespace=namespace)) is None
    ((_, entry),) = client.xrange(LockKeys("a", namespace).audit)
    assert entry.pop(b"hold").startswith(str(one.token).encode())
    assert len(entry.pop(b"request")) == 32
    assert entry == {
        b"action": b"force-release",
        b"owner": b"o1",
        b"token": str(one.token).encode(),
        b"by": b"ann",
        b"why": b"stuck",
    }
    assert client.ttl(LockKeys("a", namespace).audit) > 89 * DAY
    assert await perform(break_lock("b", by="ann", why="x", namespace=namespace)) == ()
    assert client.exists(LockKeys("b", namespace).audit) == 0


@pytest.mark.parametrize(("by", "why"), [("", "x"), ("ann", "")])
def test_breaking_a_lock_needs_a_name_and_a_reason(by: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match="who does it and why"):
        break_lock("a", by=by, why=why)


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


async def test_a_full_server_keeps_no_lock_from_being_given_back(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    held = await perform(take("a", "holder", namespace=namespace))
    await line_up(perform, namespace, "w1")
    client.config_set("maxmemory", 1)
    try:
        assert await perform(renew("a", "holder", held.token, 60, namespace=namespace)) is None
        assert await perform(release("a", "holder", held.token, namespace=namespace)) is not None
        assert await perform(leave("a", "w1", namespace=namespace))
    finally:
        client.config_set("maxmemory", 0)
