"""What the scripts of a lock promise its owner: tokens that rise, entries, and a lease."""

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
    leave,
    release,
    renew,
    who_holds,
)
from nexus_redis_provider.core.scripts import run, script
from tests.core.lock_calls import DAY, Perform, line_up, performing, take


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
