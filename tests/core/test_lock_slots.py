"""Locks while their slot is on its way from one node of a Cluster to another, key by key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.crc import key_slot

from nexus_redis_provider.core import nodes
from nexus_redis_provider.core.durations import uptime
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import UnreachableError
from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks import Lock
from nexus_redis_provider.core.locks.protocol import inspect, release, renew, who_holds
from nexus_redis_provider.core.locks.protocol import leave as leave_line
from nexus_redis_provider.core.nodes import Nodes
from nexus_redis_provider.core.scripts import run, run_all
from tests.conftest import Eventually
from tests.core.lock_calls import enter, in_line, leave, lock_of, renewed_since, take
from tests.topologies import ClusterDeployment

WITH_REPLICAS = True


@pytest.fixture
def endpoint(deployment: ClusterDeployment) -> Endpoint:
    return deployment.endpoint


@pytest.fixture
def given_up(monkeypatch: pytest.MonkeyPatch) -> list[UnreachableError]:
    """Patience with a slot ends ten times sooner, no other timeout does; the errors it ended in."""
    given_up, pause_after = list[UnreachableError](), nodes._Trial.pause_after

    def noted(trial: Any, error: UnreachableError) -> float:
        try:
            return pause_after(trial, error)
        except UnreachableError:
            given_up.append(error)
            raise

    monkeypatch.setattr(nodes, "uptime", lambda: 10 * uptime())
    monkeypatch.setattr(nodes._Trial, "pause_after", noted)
    return given_up


@pytest.fixture(params=[0, 1], ids=["hash still here", "hash gone"])
def gone(request: pytest.FixtureRequest) -> int:
    """How many keys of the slot have moved: a lock in whose line nobody is has but one."""
    return int(request.param)


async def test_a_lock_is_given_back_and_taken_while_its_slot_moves(
    kind: str, gone: int, namespace: str, deployment: ClusterDeployment
) -> None:
    """No node has all keys that its scripts are given: there is no line, here or there."""
    locks = [lock_of(kind, deployment.endpoint, "a", namespace=namespace) for _ in range(3)]
    await enter(locks[0])
    with deployment.moving(LockKeys("a", namespace).lock, keys=gone):
        for lock in locks[1:]:
            await leave(locks[0])
            await enter(lock)
            assert lock.token > locks[0].token
            locks[0] = lock
    with deployment.endpoint.client() as client:
        assert run(client, who_holds("a", namespace=namespace)).owner == locks[2].owner
    await leave(locks[2])


async def test_a_lock_that_nobody_ever_had_is_taken_while_its_slot_moves(
    kind: str, namespace: str, deployment: ClusterDeployment
) -> None:
    lock = lock_of(kind, deployment.endpoint, "a", replicas=1, namespace=namespace)
    key = LockKeys("a", namespace).lock
    with deployment.moving(key, keys=0) as target:
        await enter(lock)
        assert lock.held
        with target.endpoint.client() as client:
            assert client.cluster("COUNTKEYSINSLOT", key_slot(key.encode())) == 1
    with deployment.endpoint.client() as client:
        assert run(client, who_holds("a", namespace=namespace)).token == lock.token
    await leave(lock)


async def test_a_lease_is_renewed_while_its_slot_moves(
    kind: str, gone: int, namespace: str, deployment: ClusterDeployment
) -> None:
    lock = lock_of(kind, deployment.endpoint, "a", lease=9, namespace=namespace)
    await enter(lock)
    with deployment.moving(LockKeys("a", namespace).lock, keys=gone):
        moved_at = lock._hold.renewed_at
        await asyncio.to_thread(renewed_since, lock, moved_at)
        assert lock.held
    await leave(lock)


def test_a_client_of_the_whole_does_so_as_well(
    gone: int, namespace: str, deployment: ClusterDeployment
) -> None:
    """As the operators of a DAG run do."""
    where = {"namespace": namespace}
    with deployment.endpoint.client() as client:
        token = run(client, take("a", "me", **where)).token
        with deployment.moving(LockKeys("a", namespace).lock, keys=gone):
            assert run(client, renew("a", "me", token, 60, **where)) is None
            (state,) = run_all(client, [inspect("a", **where)])
            assert [holder.owner for holder in state.holders] == ["me"]
            assert run(client, who_holds("a", **where)).token == token
            assert run(client, take("a", "me", **where)).entries == 2
            assert not run(client, leave_line("a", "other", **where))
            assert run(client, release("a", "me", token, **where)) is not None
            assert run(client, take("a", "other", **where)).token > token


async def test_a_lock_with_a_line_goes_on_where_all_of_it_is(
    kind: str, namespace: str, deployment: ClusterDeployment
) -> None:
    endpoint, options = deployment.endpoint, {"wait": 60, "poll": 0.2, "namespace": namespace}
    holder, waiter = (lock_of(kind, endpoint, "a", **options) for _ in range(2))
    await enter(holder)
    waiting = asyncio.create_task(enter(waiter))
    with endpoint.client() as client:
        await in_line(client, "a", namespace)
        with deployment.moving(LockKeys("a", namespace).lock, keys=100):
            await leave(holder)
            await waiting
            assert waiter.token > holder.token
            await leave(waiter)
        assert run(client, who_holds("a", namespace=namespace)) is None


@pytest.mark.usefixtures("given_up")
async def test_a_lock_is_given_back_while_its_line_is_elsewhere(
    kind: str, gone: int, namespace: str, deployment: ClusterDeployment
) -> None:
    keys = LockKeys("a", namespace)
    holder = lock_of(kind, deployment.endpoint, "a", namespace=namespace)
    waiter = lock_of(kind, deployment.endpoint, "a", wait=60, poll=0.2, namespace=namespace)
    await enter(holder)
    waiting = asyncio.create_task(enter(waiter))
    with deployment.endpoint.client() as client:
        await in_line(client, "a", namespace)
    with deployment.moving(keys.lock, named=[keys.lock if gone else keys.line]):
        with pytest.raises(UnreachableError, match=r"a slot moves .*line of the lock may be on"):
            run(Nodes(deployment.endpoint), inspect("a", namespace=namespace))
        await leave(holder)
        with pytest.raises(UnreachableError, match=r"a slot moves .*Try again when it has moved"):
            await enter(lock_of(kind, deployment.endpoint, "a", namespace=namespace))
        assert not waiting.done()
    await waiting
    assert waiter.token > holder.token
    await leave(waiter)


async def test_who_may_wait_does_so_until_the_slot_has_moved(
    *,
    kind: str,
    namespace: str,
    deployment: ClusterDeployment,
    given_up: list[UnreachableError],
    eventually: Eventually,
) -> None:
    """No node makes a line for a lock that has none, as long as the lock has not moved."""
    holder = lock_of(kind, deployment.endpoint, "a", namespace=namespace)
    waiter = lock_of(kind, deployment.endpoint, "a", wait=60, poll=0.2, namespace=namespace)
    await enter(holder)
    with deployment.moving(LockKeys("a", namespace).lock, keys=0):
        with pytest.raises(UnreachableError, match="a slot moves"):
            await enter(lock_of(kind, deployment.endpoint, "a", namespace=namespace))
        before = len(given_up)
        waiting = asyncio.create_task(enter(waiter))
        # For longer than it has patience with a slot.
        await eventually(lambda: waiting.done() or len(given_up) > before + 1)
        assert not waiting.done()
    with deployment.endpoint.client() as client:
        await in_line(client, "a", namespace)
    await leave(holder)
    await waiting
    assert waiter.token > holder.token
    await leave(waiter)


async def test_a_bell_that_cannot_be_rung_while_its_slot_moves(
    namespace: str, deployment: ClusterDeployment
) -> None:
    """A script makes the name of the list itself: no node knows that it needs that, too."""
    key = LockKeys("a", namespace).lock
    lock = Lock(deployment.endpoint, "a", wait=60, poll=0.2, namespace=namespace)
    holder = Lock(deployment.endpoint, "a", namespace=namespace)
    await enter(holder)
    waiting = asyncio.create_task(enter(lock))
    with deployment.endpoint.client() as client:
        await in_line(client, "a", namespace)
        client.set(f"{key}:other", 1, ex=60)
        with deployment.moving(key, named=[f"{key}:other"]):
            # All keys of the lock are where they were, but for the list, which is nowhere.
            freeing = release("a", holder.owner, holder.token, namespace=namespace)
            assert run(client, freeing) is not None
            await waiting
    assert lock.token > holder.token
    await leave(holder)
    await leave(lock)


def test_a_bell_is_not_rung_where_a_slot_goes_that_may_come_along(
    namespace: str, deployment: ClusterDeployment
) -> None:
    """A list of the same name, made on both sides, would keep the slot from moving."""
    where, keys = {"namespace": namespace}, LockKeys("a", namespace)
    with deployment.endpoint.client() as client:
        token = run(client, take("a", "holder", **where)).token
        assert not run(client, take("a", "first", stay=60, bell="list:first", **where)).acquired
        assert run(client, release("a", "holder", token, **where)) is not None
        assert client.exists(keys.wake("first"))
        with deployment.moving(keys.lock, named=keys.state):
            # Whoever asks tells the first one again that it is its turn.
            assert not run(client, take("a", "second", stay=60, **where)).acquired
        assert client.llen(keys.wake("first")) == 1
        assert run(client, take("a", "first", **where)).acquired


def test_a_script_that_empties_the_line_is_not_left_half_done(
    namespace: str, deployment: ClusterDeployment
) -> None:
    """To a node that a slot leaves, a key that it has just deleted is the other one's."""
    where, key = {"namespace": namespace}, LockKeys("a", namespace).lock
    with deployment.endpoint.client() as client:
        client.set(f"{key}:other", 1, ex=60)
        token = run(client, take("a", "holder", **where)).token
        assert not run(client, take("a", "dead", stay=0.001, **where)).acquired
        with deployment.moving(key, named=[f"{key}:other"]):
            # Takes the dead one out of the line, and looks for another.
            assert run(client, release("a", "holder", token, **where)) is not None
        assert run(client, who_holds("a", **where)) is None
        assert run(client, leave_line("a", "dead", **where))
        assert run(client, take("a", "new", **where)).token > token
        assert not run(client, take("a", "waiter", stay=60, **where)).acquired
        client.set(f"{key}:other", 1, ex=60)
        with deployment.moving(key, named=[f"{key}:other"]):
            assert run(client, leave_line("a", "waiter", **where))
            # Nobody is in line any more, or else it could not be told.
            state = run(client, inspect("a", **where))
        assert [holder.owner for holder in state.holders] == ["new"]


def test_who_was_passed_over_enters_although_nobody_is_left_in_line(
    namespace: str, deployment: ClusterDeployment
) -> None:
    """The script takes the dead out of the line, its own owner too, and then forgets its place."""
    where, key = {"namespace": namespace}, LockKeys("a", namespace).lock
    with deployment.endpoint.client() as client:
        client.set(f"{key}:other", 1, ex=60)
        token = run(client, take("a", "holder", **where)).token
        assert not run(client, take("a", "late", stay=0.001, **where)).acquired
        # Nobody looks through the line.
        assert run(client, release("a", "holder", token, **where).part) is not None
        with deployment.moving(key, named=[f"{key}:other"]):
            assert run(client, take("a", "late", **where)).acquired
            assert run(client, inspect("a", **where)).length == 0
