"""A dataset that is taken from its readers, until it is published again."""

from __future__ import annotations

import pytest

from nexus_redis_provider.core.errors import GoldError, NotPublishedError, StaleFenceError
from nexus_redis_provider.core.gold.history import versions
from nexus_redis_provider.core.gold.manifests import Mode
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.gold.sweeping import sweep
from nexus_redis_provider.core.gold.unpublishing import retire, unpublish
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.core.keyspace.walks import scan
from nexus_redis_provider.core.requirements import Requirement
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.core.warmth import probe
from nexus_redis_provider.embedded import find_server
from tests.conftest import need_server
from tests.core.gold_datasets import numbers, publish, publish_packed, spec, write
from tests.topologies import ClusterDeployment

pytestmark = pytest.mark.usefixtures("rows_may_stay")


def test_nothing_is_left(client, endpoint, namespace, keys, dataset) -> None:
    first = publish(endpoint, {"a": 1}, spec(namespace))
    second = publish(endpoint, {"a": 2}, spec(namespace))
    assert unpublish(client, "sales", namespace=namespace) == second.version
    with pytest.raises(NotPublishedError):
        dataset.get("a")
    assert versions(client, "sales", namespace=namespace) == []
    assert not probe(client, Requirement(dataset="sales", namespace=namespace)).is_warm
    assert sorted(sweep(client, keys)) == [first.version, second.version]
    assert list(client.scan_iter(f"{namespace}:gold:sales:*")) == []
    assert unpublish(client, "sales", namespace=namespace) is None


@pytest.mark.parametrize("kind", ["snapshot", "delta"])
def test_the_next_publish_is_seen(client, endpoint, namespace, delta, kind) -> None:
    def again(number: int) -> None:
        if kind == "delta":
            publish_packed(endpoint, {"a": number}, delta)
        else:
            publish(endpoint, {"a": number}, spec(namespace))

    again(1)
    unpublish(client, "sales", namespace=namespace)
    again(3)
    assert GoldDataset(client, "sales", namespace=namespace).get("a")["n"] == 3


def test_a_publish_under_way_is_not_stopped(client, endpoint, namespace, dataset) -> None:
    publish(endpoint, {"a": 1}, spec(namespace))
    publication = Publication.begin(endpoint, spec(namespace))
    report = write(publication, {"a": 2})
    unpublish(client, "sales", namespace=namespace)
    publication.commit([report])
    assert dataset.get("a")["n"] == 2


def test_an_older_token_is_refused(client, endpoint, namespace, dataset) -> None:
    publish(endpoint, {"a": 1}, spec(namespace, fence=7))
    with pytest.raises(StaleFenceError):
        unpublish(client, "sales", fence=6, namespace=namespace)
    assert dataset.get("a")["n"] == 1
    unpublish(client, "sales", fence=8, namespace=namespace)
    with pytest.raises(StaleFenceError):
        publish(endpoint, {"a": 2}, spec(namespace, fence=7))


def test_what_became_live_meanwhile_stays(client, endpoint, namespace, keys, dataset) -> None:
    seen = publish(endpoint, {"a": 1}, spec(namespace))
    now = publish(endpoint, {"a": 2}, spec(namespace))
    reply = run(client, retire(keys, seen.version, fence=None))
    assert reply == [b"moved", now.version.encode()]
    assert dataset.get("a")["n"] == 2


def test_an_upserted_one_is_refused(client, endpoint, namespace) -> None:
    shape = spec(namespace, f"{namespace}:row:{{id}}", mode=Mode.UPSERT, ttl=60)
    publish(endpoint, {"a": 1}, shape)
    with pytest.raises(GoldError, match="upserted in place"):
        unpublish(client, "sales", namespace=namespace)
    assert client.exists(f"{namespace}:row:a")


def test_an_unknown_one(client, namespace) -> None:
    assert unpublish(client, "nothing", namespace=namespace) is None


def test_on_a_cluster() -> None:
    need_server(find_server)
    with ClusterDeployment() as cluster, cluster.endpoint.client() as client:
        for number in range(2):
            publish(cluster.endpoint, numbers(0, 50, number), spec("ns"))
        keys = GoldKeys("sales", "ns")
        assert unpublish(client, "sales", namespace="ns")
        assert len(sweep(client, keys)) == 2
        assert set(scan(client)) == {keys.head.encode(), keys.events.encode()}
