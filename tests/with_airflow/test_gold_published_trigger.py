"""What a triggerer does with a watched dataset: it fires for every publish, and forgets none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
import structlog
from airflow.sdk import Asset
from airflow.triggers.base import BaseEventTrigger
from airflow.triggers.shared_stream import SharedStreamManager

from nexus_redis_provider.assets.gold import gold_asset, watched_gold_asset
from nexus_redis_provider.core.clusters import plain_client
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.gold.history import rollback
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.triggers.gold_published import GoldPublishedTrigger
from tests.conftest import CountClients
from tests.core.gold_datasets import PERMANENT_ROWS, publish, spec
from tests.guarded import own_server
from tests.urls import connection_uri
from tests.with_airflow.test_triggers import restored


@pytest.fixture
def permanent(permanent: list[str]) -> list[str]:
    return [*permanent, PERMANENT_ROWS]


def trigger_of(namespace: str, **options: Any) -> GoldPublishedTrigger:
    return GoldPublishedTrigger(dataset="sales", namespace=namespace, **options)


def cursor(client: redis.Redis, namespace: str, watcher: str = "airflow") -> str | None:
    found = client.hget(GoldKeys("sales", namespace).watchers, watcher)
    return None if found is None else found.decode()


class Triggerer:
    """What Airflow's triggerer does with event triggers, by its own shared streams.

    It stores what was fired when `store` is called, as Airflow does once a second.
    """

    def __init__(self) -> None:
        self._streams = SharedStreamManager()
        self._unstored: list[int] = []
        self.fired: asyncio.Queue[tuple[int, dict[str, Any]]] = asyncio.Queue()

    async def run(self, trigger_id: int, trigger: BaseEventTrigger) -> None:
        key = trigger.shared_stream_key()
        stream = self._streams.subscribe(trigger_id=trigger_id, trigger=trigger, key=key)
        try:
            async for event in trigger.filter_shared_stream(stream):
                seq = self._streams.bind_pending_event(trigger_id=trigger_id, key=key)
                assert seq is not None, "it is stored before it counts as heard"
                self._unstored.append(seq)
                self.fired.put_nowait((trigger_id, event.payload))
        finally:
            await self._streams.unsubscribe(trigger_id, key)

    def store(self) -> None:
        self._streams.confirm_persisted(self._unstored)
        self._unstored.clear()

    async def next(self) -> tuple[int, dict[str, Any]]:
        return await asyncio.wait_for(self.fired.get(), 10)


@asynccontextmanager
async def triggerer(*triggers: BaseEventTrigger) -> AsyncIterator[Triggerer]:
    one = Triggerer()
    tasks = [
        asyncio.create_task(one.run(number, restored(trigger)))
        for number, trigger in enumerate(triggers)
    ]
    try:
        yield one
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)


async def test_it_fires_for_publishes_and_rollbacks(
    endpoint: Any, client: redis.Redis, namespace: str, eventually: Any
) -> None:
    async with triggerer(trigger_of(namespace)) as airflow:
        await eventually(lambda: cursor(client, namespace) == "0-0")
        one = publish(endpoint, {"a": 1}, spec(namespace, fence=3))
        publish(endpoint, {}, spec(namespace, fence=4))
        rollback(client, "sales", namespace=namespace)
        fired = [(await airflow.next())[1] for _ in range(3)]
    assert json.loads(json.dumps(fired)) == fired
    assert [event["kind"] for event in fired] == ["publish", "publish", "rollback"]
    facts = {"dataset": "sales", "version": one.version, "rows": 1, "fence": 3}
    assert fired[0] == facts | {
        "kind": "publish",
        "published_ms": one.published_ms,
        "id": fired[0]["id"],
    }
    assert (fired[2]["version"], fired[2]["fence"]) == (one.version, None)


async def test_what_airflow_has_not_stored_is_fired_again(
    endpoint: Any, client: redis.Redis, namespace: str, eventually: Any
) -> None:
    async with triggerer(trigger_of(namespace)) as airflow:
        await eventually(lambda: cursor(client, namespace) == "0-0")
        versions = [publish(endpoint, {}, spec(namespace)).version for _ in range(2)]
        _, stored = await airflow.next()
        airflow.store()
        # Heard is what is stored and behind the trigger.
        await airflow.next()
        await eventually(lambda: cursor(client, namespace) == stored["id"])
    versions.append(publish(endpoint, {}, spec(namespace)).version)  # While nobody listens.
    async with triggerer(trigger_of(namespace)) as airflow:
        again = [(await airflow.next())[1] for _ in range(2)]
        assert [event["version"] for event in again] == versions[1:]
        airflow.store()
        last = publish(endpoint, {}, spec(namespace)).version
        assert (await airflow.next())[1]["version"] == last
        await eventually(lambda: cursor(client, namespace) == again[1]["id"])


async def test_triggers_of_one_dataset_share_a_connection(
    endpoint: Any,
    client: redis.Redis,
    namespace: str,
    eventually: Any,
    count_clients: CountClients,
) -> None:
    before = count_clients()
    every, backs = trigger_of(namespace), trigger_of(namespace, kinds=["rollback"])
    async with triggerer(every, backs) as airflow:
        node = plain_client(client, GoldKeys("sales", namespace).events)
        await eventually(lambda: node.info("clients")["blocked_clients"] == 1)
        assert count_clients() == before + 1
        publish(endpoint, {}, spec(namespace))
        publish(endpoint, {}, spec(namespace))
        rollback(client, "sales", namespace=namespace)
        fired = [await airflow.next() for _ in range(4)]
        assert sorted((number, event["kind"]) for number, event in fired) == [
            (0, "publish"),
            (0, "publish"),
            (0, "rollback"),
            (1, "rollback"),
        ]
    await eventually(lambda: count_clients() == before)


async def test_each_deployment_hears_everything(
    endpoint: Any, client: redis.Redis, namespace: str, eventually: Any
) -> None:
    async with triggerer(trigger_of(namespace), trigger_of(namespace, watcher="b")) as airflow:
        await eventually(lambda: cursor(client, namespace) and cursor(client, namespace, "b"))
        publish(endpoint, {}, spec(namespace))
        assert {(await airflow.next())[0] for _ in range(2)} == {0, 1}


async def test_it_outlives_a_server_that_restarts(
    monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    with own_server() as server:
        address = connection_uri("nexus-redis", server.endpoint, retries="0")
        monkeypatch.setenv("AIRFLOW_CONN_OWN", address)
        async with triggerer(trigger_of("nexus", redis_conn_id="own")) as airflow:
            with server.endpoint.client() as client:
                await eventually(lambda: cursor(client, "nexus"))
            publish(server.endpoint, {}, spec("nexus"))
            await airflow.next()
            with structlog.testing.capture_logs():
                await asyncio.to_thread(server.stop)
                airflow.store()
                await asyncio.to_thread(server.start)
            second = publish(server.endpoint, {}, spec("nexus"))
            assert (await airflow.next())[1]["version"] == second.version


async def test_where_no_streams_are_shared(
    endpoint: Any,
    client: redis.Redis,
    namespace: str,
    eventually: Any,
    count_clients: CountClients,
) -> None:
    before = count_clients()
    fired: list[Any] = []

    async def run() -> None:
        trigger = restored(trigger_of(namespace, kinds=["publish"]))
        async for event in trigger.run():
            fired.append(event.payload)  # noqa: PERF401 - looked at meanwhile

    running = asyncio.create_task(run())
    await eventually(lambda: cursor(client, namespace))
    publish(endpoint, {}, spec(namespace))
    await eventually(lambda: fired and cursor(client, namespace) == fired[0]["id"])
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    await eventually(lambda: count_clients() == before)


@pytest.mark.parametrize("kinds", [[], ["delete"], "publish"])
def test_there_are_no_other_kinds(kinds: Any) -> None:
    with pytest.raises(ConfigurationError, match="kinds are some of publish, rollback"):
        trigger_of("n", kinds=kinds)


def test_equal_watchers_are_one_trigger() -> None:
    """Airflow knows a trigger by what it serializes."""
    one, same = trigger_of("n", kinds=["rollback", "publish"]), trigger_of("n")
    assert one.serialize() == same.serialize()
    assert one.shared_stream_key() == trigger_of("n", kinds=["publish"]).shared_stream_key()
    assert one.shared_stream_key() != trigger_of("m").shared_stream_key()


def test_the_asset_of_a_dataset() -> None:
    asset = gold_asset("sales", group="gold")
    assert asset.uri == "nexus-redis://nexus_redis_default/gold/sales" == asset.name
    assert asset.group == "gold"
    odd = "a/b:c.d-e/"
    uri = "nexus-redis://conn/gold/a%2Fb:c.d-e%2F?namespace=test"
    assert gold_asset(odd, "conn", namespace="test").uri == uri == Asset(uri).uri
    # However it is written, Airflow takes it for the same.
    assert Asset("NEXUS-REDIS://nexus_redis_default/gold/sales/?namespace=nexus").uri == asset.uri


@pytest.mark.parametrize("uri", ["conn/sales", "conn/gold/", "/gold/sales", "conn/gold/a?b=c"])
def test_what_is_no_dataset(uri: str) -> None:
    with pytest.raises(ValueError, match=r"URI of a Gold dataset is|dataset's name"):
        Asset(f"nexus-redis://{uri}")


def test_a_watched_dataset_is_an_asset_of_its_own() -> None:
    asset = watched_gold_asset("sales", "conn", kinds=("publish",), watcher="me")
    assert asset.uri == "nexus-redis://conn/gold/sales?watched=publish" == Asset(asset.uri).uri
    (watcher,) = asset.watchers
    assert watcher.trigger.serialize()[1] == {
        "redis_conn_id": "conn",
        "dataset": "sales",
        "namespace": "nexus",
        "watcher": "me",
        "kinds": ["publish"],
    }
