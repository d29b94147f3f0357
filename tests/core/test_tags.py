"""Tags: an invalidated one gives no entry back, and whatever Redis loses costs misses only."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from nexus_redis_provider.core import tags
from nexus_redis_provider.core.clients import thread_client
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import (
    AccessDeniedError,
    ConfigurationError,
    RefusedError,
    ReplicationLagError,
    UnreachableError,
)
from nexus_redis_provider.core.keys import generation_key
from nexus_redis_provider.core.nodes import AsyncNodes
from nexus_redis_provider.core.replication import await_replicas
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.embedded import EmbeddedServer
from tests.conftest import WaitUntil, new_namespace
from tests.core.gold_datasets import user
from tests.guarded import own_server
from tests.topologies import ClusterDeployment, until

Ask = Callable[..., Any]
ODD = ["a b", "a{b}c", "ünïcødé 日本", "line\nbreak", "\x00", "{", "%7B", "*", "x" * 512, "é" * 256]


class Face:
    """Both kinds of client by one name, in one namespace."""

    def __init__(self, kind: str, client: Any, namespace: str) -> None:
        self.stamp = partial(self._ask, tags.stamp, tags.astamp)
        self.invalidate = partial(self._ask, tags.invalidate, tags.ainvalidate)
        self._kind, self._client, self._namespace = kind, client, namespace

    async def _ask(self, ask: Ask, aask: Ask, names: Any, **options: Any) -> Any:
        options = {"namespace": self._namespace} | options
        if self._kind == "async":
            return await aask(self._client, names, **options)
        return ask(self._client, names, **options)


@pytest.fixture
async def face(kind: str, endpoint: Endpoint, namespace: str) -> AsyncIterator[Face]:
    if kind == "async":
        async with endpoint.async_client() as client:
            yield Face(kind, client, namespace)
    else:
        with endpoint.client() as client:
            yield Face(kind, client, namespace)


async def test_a_stamp_stays_until_one_of_its_tags_is_invalidated(face: Face) -> None:
    stamp = await face.stamp(["a", "b"])
    assert re.fullmatch(r"[A-Za-z0-9_-]{16}", stamp)
    assert await face.stamp(("b", "a", "b")) == stamp
    other = await face.stamp(["c"])
    assert list(await face.invalidate(["b", "c"])) == ["b", "c"]
    assert await face.stamp(["c"]) != other
    later = await face.stamp(["a", "b"])
    assert later != stamp
    assert await face.stamp(["a", "b"]) == later


async def test_stamps_of_different_tags_differ(face: Face, client: redis.Redis) -> None:
    for tag in "ab":
        client.set(generation_key(tag, face._namespace), 5, ex=3600)
    stamps = [await face.stamp(names) for names in (["a"], ["b"], ["a", "b"])]
    assert len(set(stamps)) == 3
    assert stamps[2] == tags.stamp_of({"b": 5, "a": 5})


async def test_namespaces_are_apart(face: Face, namespace: str) -> None:
    stamp = await face.stamp(["a"])
    await face.invalidate(["a"], namespace=f"{namespace}-2")
    assert await face.stamp(["a"]) == stamp


async def test_any_text_may_be_a_tag(face: Face, client: redis.Redis, namespace: str) -> None:
    before = {tag: await face.stamp([tag]) for tag in ODD}
    assert len(set(before.values())) == len(ODD)
    assert len(list(client.scan_iter(f"{namespace}:tag:*"))) == len(ODD)
    for tag in ODD:
        assert await face.invalidate([tag])
        changed = [one for one in ODD if await face.stamp([one]) != before[one]]
        assert changed == [tag]
        before[tag] = await face.stamp([tag])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "Give 1 to 1,000 tags, not 0"),
        ([str(n) for n in range(1001)], "Give 1 to 1,000 tags, not 1,001"),
        ("prices", "must be a list of names, not the text 'prices'"),
        (["a", ""], "1 to 512 bytes in UTF-8, not 0: ''"),
        (["x" * 513], "1 to 512 bytes in UTF-8, not 513: 'xxx"),
        (["é" * 257], "1 to 512 bytes in UTF-8, not 514"),
        (["\ud800"], "must be text that UTF-8 has"),
        (["a", 5], "A tag must be text, not 5"),
        (["a", ["b"]], r"A tag must be text, not \['b'\]"),
    ],
)
async def test_names_that_are_refused(face: Face, client, namespace: str, names, said) -> None:
    for ask in (face.stamp, face.invalidate):
        with pytest.raises(ConfigurationError, match=said):
            await ask(names)
    assert not client.keys(f"{namespace}*")


async def test_options_that_are_refused(face: Face) -> None:
    for ask in (face.stamp, face.invalidate):
        with pytest.raises(ConfigurationError, match="ttl must be a positive number"):
            await ask(["a"], ttl=0)
        with pytest.raises(ConfigurationError, match="A namespace must be"):
            await ask(["a"], namespace="{a}")


async def test_a_generation_is_renewed_while_it_is_read(face: Face, client, namespace) -> None:
    key = generation_key("a", namespace)
    stamp = await face.stamp(["a"])
    month = timedelta(days=30) / timedelta(milliseconds=1)
    assert month - 10**6 < client.pttl(key) <= month
    for left, ttl, renewed in ((70, 100, False), (49, 100, True), (1000, 100, False)):
        client.expire(key, left)
        assert await face.stamp(["a"], ttl=ttl) == stamp
        assert (client.pttl(key) > left * 1000) == renewed
    client.persist(key)
    assert await face.stamp(["a"], ttl=100) == stamp
    assert 0 < client.pttl(key) <= 100_000, "what never expires is a leak"


async def test_an_invalidation_shortens_no_ttl(face: Face, client, namespace: str) -> None:
    key = generation_key("a", namespace)
    await face.invalidate(["a"], ttl=1000)
    assert 900_000 < client.pttl(key) <= 1_000_000
    await face.invalidate(["a"], ttl=10)
    assert client.pttl(key) > 900_000
    await face.invalidate(["a"], ttl=timedelta(seconds=5000))
    assert client.pttl(key) > 4_000_000


async def test_what_was_computed_before_is_not_found_after(face: Face, client, namespace) -> None:
    """The order that readers must keep: stamp, then compute, then store."""

    async def key() -> str:
        return f"{namespace}:entry:{await face.stamp(['a'])}"

    source = "old"
    slow = await key()
    computed = source
    source = "new"
    await face.invalidate(["a"])
    client.set(slow, computed, ex=60)
    assert client.get(await key()) is None
    client.set(await key(), source, ex=60)
    client.set(slow, computed, ex=60)
    assert client.get(await key()) == b"new"


async def test_a_lost_generation_does_not_come_back(face: Face, client, namespace: str) -> None:
    key = generation_key("a", namespace)
    seen = {await face.stamp(["a"])}
    for lose in (client.delete, partial(client.pexpire, time=0)):
        lose(key)
        stamp = await face.stamp(["a"])
        assert stamp not in seen
        lose(key)
        (generation,) = (await face.invalidate(["a"])).values()
        assert generation == int(client.get(key))
        seen |= {stamp, await face.stamp(["a"])}
    assert len(seen) == 5


async def test_an_expired_generation_does_not_come_back(
    face: Face, client, namespace: str, wait_until: WaitUntil
) -> None:
    stamp = await face.stamp(["a"], ttl=0.01)
    wait_until(lambda: not client.exists(generation_key("a", namespace)))
    assert await face.stamp(["a"]) != stamp


async def test_the_clock_was_set_back(face: Face, client, namespace: str) -> None:
    seconds, _ = client.time()
    ahead = (seconds + 3600) * 10**6
    client.set(generation_key("a", namespace), ahead, ex=3600)
    stamp = await face.stamp(["a"])
    assert await face.invalidate(["a"]) == {"a": ahead + 1}
    assert await face.invalidate(["a"]) == {"a": ahead + 2}
    assert await face.stamp(["a"]) not in {stamp, tags.stamp_of({"a": ahead + 1})}


def test_generations_are_of_the_servers_clock(client: redis.Redis, namespace: str) -> None:
    times = [client.time()]
    begun = run(client, tags.read_generation("a", namespace=namespace))
    times.append(client.time())
    moved = run(client, tags.advance_generation("a", namespace=namespace))
    times.append(client.time())
    first, between, last = (seconds * 10**6 + us for seconds, us in times)
    assert first <= begun <= between <= moved <= last


def test_no_stale_entry_among_threads(
    endpoint: Endpoint, namespace: str, wait_until: WaitUntil
) -> None:
    """Readers and writers at once: what is found is of the last invalidation, or newer."""
    source = confirmed = 0
    is_over, errors, hits = threading.Event(), list[BaseException](), list[int]()

    def read() -> None:
        try:
            with endpoint.client() as mine:
                while not is_over.is_set():
                    least = confirmed
                    key = f"{namespace}:entry:{tags.stamp(mine, ['a'], namespace=namespace)}"
                    if (found := mine.get(key)) is not None:
                        assert int(found) >= least
                        hits.append(int(found))
                    else:
                        computed = source
                        time.sleep(0.001)  # the longer it takes, the more comes in between
                        mine.set(key, computed, ex=60)
        except BaseException as error:  # noqa: BLE001 - the test fails by it, not a thread
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        with endpoint.client() as client:
            for source in range(1, 61):
                tags.invalidate(client, ["a", "b"], namespace=namespace)
                confirmed = source
                if source % 3 == 0:
                    wait_until(lambda now=source: errors or now in hits[-1:], timeout=60)
    finally:
        is_over.set()
        for reader in readers:
            reader.join()
    assert not errors, errors


@pytest.fixture
def small(binary: Path, request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    """A server of the same kind with little memory, and a policy."""
    options = ("--maxmemory", "4mb", "--maxmemory-policy", request.param)
    with own_server(*options, binary=binary) as small:
        yield small


def fill(client: redis.Redis, is_done: Callable[[], bool]) -> None:
    for number in itertools.takewhile(lambda _: not is_done(), itertools.count()):
        client.set(f"filler:{number}", "x" * 10_000)


@pytest.mark.parametrize("small", ["allkeys-lru"], indirect=True)
def test_an_evicted_generation_does_not_come_back(small: EmbeddedServer) -> None:
    with small.endpoint.client() as client:
        stamps = {tags.stamp(client, [tag]): tag for tag in "abcdefgh"}
        keys = list(map(generation_key, stamps.values()))
        fill(client, lambda: client.exists(*keys) < len(keys))
        gone = [tag for tag in stamps.values() if not client.exists(generation_key(tag))]
        assert not {tags.stamp(client, [tag]) for tag in gone} & set(stamps)


@pytest.mark.parametrize("small", ["noeviction"], indirect=True)
def test_a_full_server_keeps_nothing_stale(small: EmbeddedServer) -> None:
    with small.endpoint.client() as client:
        stamp = tags.stamp(client, ["a"])
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            fill(client, lambda: False)
        # What is freed between two commands is too much, else, for scripts to be refused.
        client.config_set("maxmemory", 1)
        assert tags.stamp(client, ["a"]) == stamp
        tags.invalidate(client, ["a"])
        assert tags.stamp(client, ["a"]) not in {stamp, tags.stamp(client, ["b"])}


@pytest.fixture
def pair(binary: Path) -> Iterator[tuple[EmbeddedServer, EmbeddedServer]]:
    """A primary and its replica, of the same kind."""
    at_once = ("--repl-diskless-sync-delay", "0")
    with own_server(*at_once, binary=binary) as primary:
        follow = ("--replicaof", f"127.0.0.1 {primary.port}")
        with own_server(*follow, binary=binary) as replica:
            with primary.endpoint.client() as client:
                until(lambda: client.info("replication")["connected_slaves"], "a replica")
            yield primary, replica


async def test_a_replica_refuses(kind: str, pair: tuple[EmbeddedServer, EmbeddedServer]) -> None:
    """It may not know of the last invalidation."""
    primary, replica = pair
    async with AsyncExitStack() as stack:
        client = stack.enter_context(primary.endpoint.client())
        tags.stamp(client, ["a"])
        await_replicas(client, poll_interval=0.05)
        if kind == "async":
            behind: Any = await stack.enter_async_context(replica.endpoint.async_client())
        else:
            behind = stack.enter_context(replica.endpoint.client())
        with pytest.raises(UnreachableError, match="read only replica"):
            await Face(kind, behind, "nexus").stamp(["a"])


def test_what_a_failover_loses(pair: tuple[EmbeddedServer, EmbeddedServer]) -> None:
    old, new = pair
    with old.endpoint.client() as client, new.endpoint.client() as successor:
        before = tags.stamp(client, ["a"])
        tags.invalidate(client, ["a"])
        await_replicas(client, poll_interval=0.05)
        successor.replicaof("NO", "ONE")
        confirmed, begun = tags.stamp(client, ["a"]), tags.stamp(client, ["b"])
        assert tags.stamp(successor, ["a"]) == confirmed != before
        assert tags.stamp(successor, ["b"]) != begun, "one that was lost does not come back"
        tags.invalidate(client, ["a"])
        with pytest.raises(ReplicationLagError):
            await_replicas(client, timeout=0.1, poll_interval=0.05)


async def test_what_the_server_refuses_is_one_error(face: Face, client, namespace: str) -> None:
    client.hset(generation_key("b", namespace), "f", 1)
    client.expire(generation_key("b", namespace), 60)
    for ask in (face.stamp, face.invalidate):
        with pytest.raises(RefusedError, match="WRONGTYPE"):
            await ask(["a", "b", "c"])


def test_without_the_right(client: redis.Redis, endpoint: Endpoint, namespace: str) -> None:
    keys = f"(~{namespace}:tag:* +evalsha +eval +script|load +get +pttl +pexpire +setnx +time)"
    # The latter two only in a Cluster.
    rights = (keys, "+cluster|slots", "+command")
    name = f"reader-{namespace}"
    with user(client, endpoint, name, *rights) as reading, reading.client() as reader:
        stamp = tags.stamp(reader, ["a", "b"], namespace=namespace)
        with pytest.raises(AccessDeniedError):
            tags.invalidate(reader, ["a", "b"], namespace=namespace)
        assert tags.stamp(client, ["b", "a"], namespace=namespace) == stamp


WAYS = ("sync", "async", "thread", "loop")
MANY = [f"tag-{number}" for number in range(30)]


@asynccontextmanager
async def clustered(way: str, endpoint: Endpoint) -> AsyncIterator[Face]:
    """With a client of a whole Cluster, or one for scripts."""
    namespace = new_namespace()
    match way:
        case "sync":
            with endpoint.client() as client:
                yield Face("sync", client, namespace)
        case "async":
            async with endpoint.async_client() as client:
                yield Face("async", client, namespace)
        case "thread":
            yield Face("sync", thread_client(endpoint), namespace)
        case "loop":
            async with aclosing(AsyncNodes(endpoint)) as nodes:
                yield Face("async", nodes, namespace)


@pytest.mark.parametrize("way", WAYS)
async def test_in_a_cluster(deployment: ClusterDeployment, way: str) -> None:
    for server in deployment.servers:
        with server.endpoint.client() as client:
            client.script_flush()
    async with clustered(way, deployment.endpoint) as face:
        keys = [generation_key(tag, face._namespace) for tag in MANY]
        assert {deployment.server_of(key) for key in keys} == deployment.owners()
        first = await face.stamp(MANY)
        assert await face.stamp(MANY[::-1]) == first
        assert list(await face.invalidate(MANY[:2])) == MANY[:2]
        second = await face.stamp(MANY)
        assert second != first
        deployment.move_slot(keys[0])
        assert await face.stamp(MANY) == second
        deployment.move_slot(keys[1])
        told = await face.invalidate(MANY)
        assert list(told) == MANY
        with deployment.endpoint.client() as client:
            kept = [client.get(generation_key(tag, face._namespace)) for tag in MANY]
        assert list(map(int, kept)) == list(told.values())
        assert await face.stamp(MANY) not in {first, second}


@pytest.mark.parametrize("way", WAYS)
async def test_while_a_slot_moves(deployment: ClusterDeployment, way: str) -> None:
    async with clustered(way, deployment.endpoint) as face:
        first = await face.stamp(MANY)
        with deployment.moving(generation_key(MANY[0], face._namespace)):
            assert await face.stamp(MANY) == first
            assert list(await face.invalidate(MANY)) == MANY
            second = await face.stamp(MANY)
        assert second != first
        assert await face.stamp(MANY) == second


async def test_many_tasks_at_once(endpoint: Endpoint, namespace: str) -> None:
    """Who find no generation begin the same one."""
    async with endpoint.async_client() as client:
        asked = [tags.astamp(client, ["a", "b"], namespace=namespace) for _ in range(20)]
        assert len(set(await asyncio.gather(*asked))) == 1
