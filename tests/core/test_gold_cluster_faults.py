"""A Cluster in motion: slots move and nodes fail over while rows are written and read."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from redis.crc import key_slot

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import PublishError, UnreachableError
from nexus_redis_provider.core.gold import pacing
from nexus_redis_provider.core.gold.bucket_writers import BucketWriter
from nexus_redis_provider.core.gold.history import history
from nexus_redis_provider.core.gold.manifests import Layout
from nexus_redis_provider.core.gold.node_streams import NodeStreams
from nexus_redis_provider.core.gold.owners import Owners
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import GoldDataset, live_manifest
from nexus_redis_provider.core.gold.specs import Report
from nexus_redis_provider.core.gold.writers import PartitionWriter
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.core.scripts import Call, arun, run
from nexus_redis_provider.embedded import find_server
from tests.conftest import need_server, new_namespace
from tests.core.gold_datasets import batch, numbers, packed_batch, publish, publish_packed, spec
from tests.gold_faults import (
    DELTA,
    JSON,
    PACKED,
    Reader,
    Shape,
    assert_nothing_left,
    assert_settled,
)
from tests.topologies import ClusterDeployment, kill

pytestmark = pytest.mark.usefixtures("small_batches")

SHAPES = (JSON, PACKED, DELTA)


@pytest.fixture
def keys() -> GoldKeys:
    return GoldKeys("sales", new_namespace())


@pytest.fixture
def returned(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many commands nodes returned, by what they said."""
    counted: Counter[str] = Counter()
    send_again = NodeStreams._send_again

    def counting(self: NodeStreams, writes: Any, things: Any, patience: Any) -> Any:
        counted.update(thing.reply.decode().split()[0] for thing in things)
        return send_again(self, writes, things, patience)

    monkeypatch.setattr(NodeStreams, "_send_again", counting)
    return counted


def published(endpoint: Endpoint, shape: Shape, keys: GoldKeys, version: int) -> None:
    plan = spec(keys.namespace, layout=shape.layout, mode=shape.mode)
    publish_as: Any = publish_packed if shape.layout is Layout.PACKED else publish
    publish_as(endpoint, shape.rows(version), plan)


def key_of(row: str, publication: Publication) -> str:
    return publication.spec.keys.row_prefix(publication.version) + row


# Slots that move.


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_slots_move_while_versions_are_published_and_read(
    deployment: ClusterDeployment, keys: GoldKeys, shape: Shape, returned: Counter[str]
) -> None:
    endpoint = deployment.endpoint
    published(endpoint, shape, keys, 1)
    # Slots of buckets, and that of the dataset itself; rows are in any.
    tags = [*(f"{{{share}.{number}}}" for share in range(3) for number in range(3)), keys.head]
    with Reader(endpoint, keys, shape) as reader, endpoint.client() as client:
        with deployment.moving_on(tags) as moved:
            version = 1
            while moved() < 30 or not returned:
                version += 1
                published(endpoint, shape, keys, version)
        assert_settled(client, reader, live=version)
    assert returned["-MOVED"] or returned["-ASK"]


@pytest.mark.parametrize("shape", [JSON, PACKED], ids=str)
def test_rows_follow_a_slot_to_where_it_is(
    deployment: ClusterDeployment,
    keys: GoldKeys,
    shape: Shape,
    returned: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Once it has begun, nothing but what nodes return tells it where slots are.
    monkeypatch.setattr(pacing, "_LOOK_SECONDS", 600)
    endpoint, packed = deployment.endpoint, shape is PACKED
    plan = spec(keys.namespace, layout=shape.layout, ttl=600)
    publication = Publication.begin(endpoint, plan)
    kind: Any = BucketWriter if packed else PartitionWriter
    rows_of: Any = packed_batch if packed else batch
    with kind(publication, 0, "a") as writer:
        # What it knows of the slots is of now.
        with deployment.moving("{0.1}" if packed else key_of("k7", publication)):
            writer.write(*rows_of(numbers(0, 300, 1)))
            report = writer.finish()
        assert returned.keys() == {"-ASK"}
    if not packed:
        with PartitionWriter(publication, 1, "a") as other:
            other.write(*batch(numbers(300, 50, 1)))
            deployment.move_slot(key_of("k400", publication))
            other.write(*batch(numbers(350, 250, 1)))
            reports = [report, other.finish()]
        assert returned.keys() == {"-ASK", "-MOVED"}
    publication.commit([report] if packed else reports)
    with endpoint.client() as client:
        dataset = GoldDataset(client, "sales", namespace=keys.namespace)
        assert dataset.verify().rows == (300 if packed else 600)
        found = client.scan_iter(f"{keys.namespace}:gold:sales:*", count=10_000)
        assert all(client.ttl(key) > 0 for key in found)
        assert_nothing_left(client, keys)


def test_a_dataset_whose_own_slot_is_long_on_its_way(
    deployment: ClusterDeployment, keys: GoldKeys
) -> None:
    """Meanwhile, no script runs that has keys on both nodes; redis-py gives up after 0.35 s."""
    endpoint = deployment.endpoint
    published(endpoint, JSON, keys, 1)
    is_moving, done = threading.Event(), threading.Event()

    def move() -> None:
        with deployment.moving(keys.head, keys=2):
            is_moving.set()
            done.wait(1)

    mover = threading.Thread(target=move)
    mover.start()
    is_moving.wait()
    published(endpoint, JSON, keys, 2)
    done.set()
    mover.join()
    with endpoint.client() as client:
        assert GoldDataset(client, "sales", namespace=keys.namespace).get("k7") == {
            "id": "k7", "n": 2,
        }  # fmt: skip


def test_a_node_that_joins_is_welcome(keys: GoldKeys, returned: Counter[str]) -> None:
    need_server(find_server)
    with ClusterDeployment(primaries=2) as deployment, deployment.endpoint.client() as client:
        publication = Publication.begin(deployment.endpoint, spec(keys.namespace))
        with PartitionWriter(publication, 0, "a") as writer:
            writer.write(*batch(numbers(0, 300)))
            new = deployment.join()
            for row in ("k7", "k301"):
                with deployment.moving(key_of(row, publication), to=new):
                    pass
            writer.write(*batch(numbers(300, 300)))
            publication.commit([writer.finish()])
        assert returned["-MOVED"]
        with new.endpoint.client() as node:
            assert node.get(key_of("k301", publication)) == b'{"id":"k301","n":0}'
            assert node.dbsize() >= 2
        assert GoldDataset(client, "sales", namespace=keys.namespace).verify().rows == 600


@pytest.mark.parametrize("gone", ["head", "manifest"])
async def test_half_of_what_a_script_reads_has_moved(
    kind: str, gone: str, deployment: ClusterDeployment, keys: GoldKeys
) -> None:
    """A script makes the name of the manifest: no node knows that it needs that, too."""
    endpoint = deployment.endpoint
    with endpoint.client() as client:
        published(endpoint, JSON, keys, 1)
        version = run(client, live_manifest("sales", namespace=keys.namespace)).version
        moved = keys.head if gone == "head" else keys.manifest(version)
        with deployment.moving(keys.head, named=[moved]):
            asked = [
                asyncio.create_task(answer(kind, endpoint, call("sales", namespace=keys.namespace)))
                for call in (live_manifest, history)
            ]
            await asyncio.sleep(0.1)
        live, seen = [await answered for answered in asked]
    assert live.version == version
    assert seen.live_version.is_readable


async def answer(kind: str, endpoint: Endpoint, call: Call[Any]) -> Any:
    if kind == "async":
        async with endpoint.async_client() as client:
            return await arun(client, call)
    with endpoint.client() as client:
        return await asyncio.to_thread(run, client, call)


class Slot:
    """One of a key, which the nodes lose and find again."""

    def __init__(self, deployment: ClusterDeployment, key: str) -> None:
        self._nodes = deployment.servers
        self.owner, self.number = deployment.server_of(key), key_slot(key.encode())

    def lose(self) -> None:
        for server in self._nodes:
            with server.endpoint.client() as node:
                node.cluster("DELSLOTS", self.number)

    def restore(self) -> None:
        with self.owner.endpoint.client() as own:
            owner = own.cluster("MYID")
        for server in sorted(self._nodes, key=lambda node: node is not self.owner):
            with server.endpoint.client() as node:
                node.cluster("SETSLOT", self.number, "NODE", owner)


@pytest.fixture
def uncovered() -> Iterator[ClusterDeployment]:
    """One that goes on without some of its slots."""
    need_server(find_server)
    alone = ("--cluster-require-full-coverage", "no")
    with ClusterDeployment(primaries=2, server_options=alone) as deployment:
        yield deployment


def test_a_slot_that_nobody_has_is_waited_for(
    uncovered: ClusterDeployment, keys: GoldKeys, returned: Counter[str]
) -> None:
    publication = Publication.begin(uncovered.endpoint, spec(keys.namespace))
    impatient = replace(uncovered.endpoint, read_timeout=0.5)
    slot = Slot(uncovered, key_of("k7", publication))
    with PartitionWriter(replace(publication, endpoint=impatient), 0, "a") as writer:
        slot.lose()
        writer.write(*batch(numbers(0, 50)))
        with pytest.raises(UnreachableError, match=r"found no node for 0\.5 s"):
            writer.finish()
        slot.restore()
    assert returned.pop("-CLUSTERDOWN")
    slot.lose()
    with PartitionWriter(publication, 0, "b") as writer:
        timer = threading.Timer(0.2, slot.restore)
        timer.start()
        writer.write(*batch(numbers(0, 100)))
        publication.commit([writer.finish()])
        timer.join()
    assert returned["-CLUSTERDOWN"]
    with uncovered.endpoint.client() as client:
        assert GoldDataset(client, "sales", namespace=keys.namespace).verify().rows == 100


def test_a_slot_that_nobody_had_is_found_where_it_is_now(uncovered: ClusterDeployment) -> None:
    (slot := Slot(uncovered, "k7")).lose()
    with uncovered.endpoint.client() as client:
        owners, which = Owners(client), np.array([slot.number], np.int64)
        address = slot.owner.endpoint.nodes[0]
        owners.learn(slot.number, address.host, address.port)
        ((node, _),) = owners.groups(which)
        assert (node.host, node.port) == (address.host, address.port)


# Nodes that fail over, and connections that break.


@pytest.mark.parametrize("shape", [JSON, PACKED], ids=str)
def test_a_connection_that_breaks_is_told_and_the_next_attempt_publishes(
    deployment: ClusterDeployment, keys: GoldKeys, shape: Shape
) -> None:
    endpoint, packed = deployment.endpoint, shape is PACKED
    publication = Publication.begin(endpoint, spec(keys.namespace, layout=shape.layout))
    broken = next(iter(deployment.owners()))

    def load(attempt: str, *, breaks: bool = False) -> Report:
        kind: Any = BucketWriter if packed else PartitionWriter
        rows_of: Any = packed_batch if packed else batch
        with kind(publication, 0, attempt) as writer:
            writer.write(*rows_of(numbers(0, 300)))
            if breaks:
                follow = writer._stream._followed

                def cut(*sent: Any) -> Any:
                    with broken.endpoint.client() as node:
                        node.client_kill_filter(_type="normal", skipme=True)
                    return follow(*sent)

                writer._stream._followed = cut
            writer.write(*rows_of(numbers(300, 300)))
            report: Report = writer.finish()
            return report

    with pytest.raises(UnreachableError, match=f"127.0.0.1:{broken.port} cannot be reached"):
        load("a", breaks=True)
    publication.commit([load("b")])
    with endpoint.client() as client:
        assert GoldDataset(client, "sales", namespace=keys.namespace).verify().rows == 600
        assert_nothing_left(client, keys)


@pytest.mark.parametrize("shape", [JSON, PACKED], ids=str)
def test_a_failover_in_the_middle_of_a_load(shape: Shape) -> None:
    need_server(find_server)
    keys = GoldKeys("sales", "failover")
    with ClusterDeployment(with_replicas=True) as deployment:
        endpoint = deployment.endpoint
        published(endpoint, shape, keys, 1)
        for primary in deployment.owners():
            with primary.endpoint.client() as node:
                node.wait(1, 4_000)
        with Reader(endpoint, keys, shape) as reader, endpoint.client() as client:
            fail(deployment, endpoint, keys, shape)
            assert_settled(client, reader, live=1)
            published(endpoint, shape, keys, 2)
            assert_settled(client, reader, live=2)


def fail(deployment: ClusterDeployment, endpoint: Endpoint, keys: GoldKeys, shape: Shape) -> None:
    """A load whose node dies: with JSON another than the dataset's own, with buckets that."""
    publication = Publication.begin(endpoint, spec(keys.namespace, layout=shape.layout))
    own = deployment.server_of(keys.head)
    victim = own if shape is PACKED else next(iter(deployment.owners() - {own}))
    kind: Any = BucketWriter if shape is PACKED else PartitionWriter
    rows_of: Any = packed_batch if shape is PACKED else batch

    def load() -> None:
        with kind(publication, 0, "a") as writer:
            writer.write(*rows_of(numbers(0, 300, 2)))
            kill(victim)
            writer.write(*rows_of(numbers(300, 300, 2)))
            writer.finish()

    with pytest.raises(UnreachableError):
        load()
    deployment.fail_over(victim)
    # Spark would try the task again, with success, on the new primary.
    with kind(publication, 0, "b") as writer:
        writer.write(*rows_of(numbers(0, 600, 2)))
        report = writer.finish()
    with pytest.raises(PublishError, match=f":{victim.port} restarted or failed over"):
        publication.commit([report])
    publication.abort()
