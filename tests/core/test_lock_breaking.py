"""From outside: who looks at a lock changes nothing, and who breaks it is written down."""

from __future__ import annotations

import pytest
import redis

from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks.protocol import (
    break_lock,
    inspect,
    release,
    renew,
    who_holds,
)
from nexus_redis_provider.core.scripts import run
from tests.core.lock_calls import DAY, Perform, take


async def test_inspect_of_a_free_lock(perform: Perform, namespace: str) -> None:
    assert await perform(who_holds("a", namespace=namespace)) is None


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
