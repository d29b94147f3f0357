"""Publishing where Sentinels watch: a failover ends a load, and never half-publishes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ConfigurationError, PublishError, UnreachableError
from nexus_redis_provider.core.gold.bucket_writers import BucketWriter
from nexus_redis_provider.core.gold.manifests import Layout
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.gold.writers import PartitionWriter
from nexus_redis_provider.embedded import find_server
from tests.conftest import need_server
from tests.core.gold_datasets import (
    batch,
    hashes,
    numbers,
    packed_batch,
    publish,
    publish_packed,
    spec,
)
from tests.topologies import SentinelDeployment


@pytest.fixture(scope="module")
def deployment() -> Iterator[SentinelDeployment]:
    need_server(find_server)
    with SentinelDeployment(replicas=4) as deployment:
        yield deployment


@pytest.mark.parametrize("layout", list(Layout))
def test_a_failover_in_the_middle_of_a_load(deployment: SentinelDeployment, layout: Layout) -> None:
    packed = layout is Layout.PACKED
    publish_as: Any = publish_packed if packed else publish
    writer_of: Any = BucketWriter if packed else PartitionWriter
    rows_of: Any = {Layout.JSON: batch, Layout.HASH: hashes, Layout.PACKED: packed_batch}[layout]
    endpoint, what = deployment.endpoint, spec(f"failover-{layout}", layout=layout)
    publish_as(endpoint, numbers(0, 500, 1), what)
    with deployment.primary.endpoint.client() as client:
        # Two of its four replicas may be dead, after the failovers of the tests before.
        assert client.wait(2, 4_000) >= 2
    publication = Publication.begin(endpoint, what)

    def load() -> None:
        with writer_of(publication, 0, "a") as writer:
            writer.write(*rows_of(numbers(0, 500, 2)))
            deployment.fail_over()
            writer.write(*rows_of(numbers(500, 500, 2)))
            writer.finish()

    with pytest.raises(UnreachableError):
        load()
    # Spark would try the task again, with success, on the new primary.
    with writer_of(publication, 0, "b") as writer:
        writer.write(*rows_of(numbers(0, 500, 2)))
        report = writer.finish()
    with pytest.raises(PublishError, match="restarted or failed over"):
        publication.commit([report])
    publication.abort()
    with endpoint.client() as client:
        dataset = GoldDataset(client, "sales", namespace=what.namespace)
        assert dataset.verify().rows == 500
        assert {row["n"] for row in dataset.scan()} == {1}
        publish_as(endpoint, numbers(0, 500, 3), what)
        assert dataset.get("k7") == {"id": "k7", "n": 3}


def test_what_no_cluster_can_do_is_refused_before_anything_is_sent(namespace: str) -> None:
    cluster = Endpoint.from_url("redis+cluster://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="layout='json' or layout='packed', or to"):
        Publication.begin(cluster, spec(namespace, layout=Layout.HASH))
