"""Who follows a dataset hears of everything, whoever is away meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from nexus_redis_provider.core.errors import UnreachableError
from nexus_redis_provider.core.gold.events import Event, Follower
from nexus_redis_provider.core.gold.history import rollback
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.embedded import find_server
from tests.conftest import need_server
from tests.core.gold_datasets import publish, spec
from tests.guarded import own_server
from tests.topologies import ClusterDeployment

pytestmark = pytest.mark.usefixtures("rows_may_stay")


@asynccontextmanager
async def following(endpoint, namespace, name="me"):
    """A queue of what a follower hears, once it is listening."""
    heard: asyncio.Queue[Event] = asyncio.Queue()
    async with Follower(endpoint, "sales", name, namespace=namespace) as follower:

        async def listen() -> None:
            async for event in follower.events():
                heard.put_nowait(event)

        listening = asyncio.create_task(listen())
        try:
            yield follower, heard
        finally:
            listening.cancel()
            await asyncio.wait([listening])
            assert listening.cancelled()


async def next_of(heard):
    return await asyncio.wait_for(heard.get(), 10)


def is_known(client, namespace, name="me"):
    return client.hexists(GoldKeys("sales", namespace).watchers, name)


async def test_publishes_and_rollbacks_are_heard_in_order(endpoint, client, namespace, eventually):
    publish(endpoint, {"a": 0}, spec(namespace))  # Before anybody listened.
    async with following(endpoint, namespace) as (_, heard):
        await eventually(lambda: is_known(client, namespace))
        one = publish(endpoint, {"a": 1}, spec(namespace))
        two = publish(endpoint, {"a": 2, "b": 2}, spec(namespace, fence=3))
        rollback(client, "sales", namespace=namespace)
        events = [await next_of(heard) for _ in range(3)]
    assert [(event.kind, event.version, event.rows, event.fence) for event in events] == [
        ("publish", one.version, 1, None),
        ("publish", two.version, 2, 3),
        ("rollback", one.version, 1, None),
    ]
    assert events[2].published_ms == one.published_ms
    assert {event.dataset for event in events} == {"sales"}


async def test_a_dataset_that_does_not_exist_yet(endpoint, client, namespace, eventually):
    async with following(endpoint, namespace) as (_, heard):
        await eventually(lambda: is_known(client, namespace))
        one = publish(endpoint, {}, spec(namespace))
        assert (await next_of(heard)).version == one.version


async def test_what_was_not_said_to_be_heard_comes_again(endpoint, client, namespace, eventually):
    async with following(endpoint, namespace) as (follower, heard):
        await eventually(lambda: is_known(client, namespace))
        versions = [publish(endpoint, {}, spec(namespace)).version for _ in range(3)]
        first = await next_of(heard)
        await follower.heard(first.id)
    versions.append(publish(endpoint, {}, spec(namespace)).version)  # While nobody listens.
    async with following(endpoint, namespace) as (_, heard):
        assert [(await next_of(heard)).version for _ in range(3)] == versions[1:]
        assert heard.empty()


async def test_each_name_hears_everything(endpoint, client, namespace, eventually):
    async with (
        following(endpoint, namespace, "a") as (_, one),
        following(endpoint, namespace, "b") as (_, other),
    ):
        await eventually(lambda: is_known(client, namespace, "a"))
        await eventually(lambda: is_known(client, namespace, "b"))
        version = publish(endpoint, {}, spec(namespace)).version
        assert (await next_of(one)).version == version == (await next_of(other)).version


@pytest.mark.parametrize("durable", ["yes", "no"])
async def test_a_server_that_restarts(durable, eventually):
    with own_server("--appendonly", durable, "--appendfsync", "always") as server:
        endpoint = replace(server.endpoint, retries=0)
        async with following(endpoint, "nexus") as (follower, heard):
            with endpoint.client() as client:
                await eventually(lambda: is_known(client, "nexus"))
            publish(endpoint, {}, spec("nexus"))
            first = await next_of(heard)
            await asyncio.to_thread(server.stop)
            with pytest.raises(UnreachableError):
                await follower.heard(first.id)
            await asyncio.to_thread(server.start)
            second = publish(endpoint, {}, spec("nexus"))
            assert (await next_of(heard)).version == second.version
            assert heard.empty(), "what was heard before does not come again"


async def test_a_dataset_whose_slot_moves_to_another_node(eventually):
    need_server(find_server)
    keys = GoldKeys("sales")
    fields = {"kind": "publish", "version": "m1", "published_ms": 1, "rows": 2, "fence": ""}
    with ClusterDeployment(primaries=2) as cluster, cluster.endpoint.client() as client:
        async with following(cluster.endpoint, "nexus") as (follower, heard):
            await eventually(lambda: client.hexists(keys.watchers, "me"))
            client.xadd(keys.events, fields)
            first = await next_of(heard)
            assert (first.version, first.rows, first.fence) == ("m1", 2, None)
            await asyncio.to_thread(cluster.move_slot, keys.events)
            client.xadd(keys.events, fields | {"version": "m2"})
            assert (await next_of(heard)).version == "m2"
            await follower.heard(first.id)
            assert client.hget(keys.watchers, "me") == first.id.encode()


async def test_one_connection_that_is_closed(endpoint, client, namespace, eventually):
    before = len(client.client_list())
    async with following(endpoint, namespace) as (_, _heard):
        await eventually(lambda: client.info("clients")["blocked_clients"] == 1)
        assert len(client.client_list()) == before + 1
    await eventually(lambda: len(client.client_list()) == before)


async def test_one_cancellation_is_enough(endpoint, namespace):
    for turns in range(0, 300, 10):
        async with following(endpoint, namespace):
            for _ in range(turns):
                await asyncio.sleep(0)
