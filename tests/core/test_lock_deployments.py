"""A lease does not speak for a run: who belongs to its deployment asks whether it lives."""

from __future__ import annotations

from typing import Any

import redis

from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks.protocol import (
    steal,
    who_holds,
)
from nexus_redis_provider.core.scripts import run
from tests.core.lock_calls import DAY, Perform, take


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


async def test_a_run_without_lease_is_remembered_for_a_year(
    perform: Perform, namespace: str, client: redis.Redis
) -> None:
    await perform(take("a", "run", 60, deployment="d", namespace=namespace))
    assert client.ttl(LockKeys("a", namespace).lock) > 364 * DAY
