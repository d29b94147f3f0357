"""Publishing where Sentinels watch: a failover ends a load, and never half-publishes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ConfigurationError, PublishError, UnreachableError
from nexus_redis_provider.core.gold.bucket_writers import BucketWriter
from nexus_redis_provider.core.gold.deltas import DeltaWriter
from nexus_redis_provider.core.gold.manifests import Layout, Mode
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.specs import Report
from nexus_redis_provider.core.gold.writers import PartitionWriter
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.embedded import find_server
from tests.conftest import need_server
from tests.core.gold_datasets import arguments, dealt, packed_batch, spec
from tests.gold_faults import SHAPES, Reader, Shape, assert_settled, publish
from tests.topologies import SentinelDeployment


@pytest.fixture(scope="module")
def deployment() -> Iterator[SentinelDeployment]:
    need_server(find_server)
    with SentinelDeployment(replicas=5) as deployment:
        yield deployment


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_failover_in_the_middle_of_a_load(deployment: SentinelDeployment, shape: Shape) -> None:
    endpoint, keys = deployment.endpoint, GoldKeys("sales", f"failover-{shape}")
    plan = spec(keys.namespace, layout=shape.layout, mode=shape.mode)
    publish(endpoint, keys, shape, 1)
    with deployment.primary.endpoint.client() as client:
        # Most of its replicas may be dead, after the failovers of the tests before.
        assert client.wait(2, 4_000) >= 2
    with endpoint.client() as client, Reader(endpoint, keys, shape) as reader:
        reader.reads_on()
        publication = Publication.begin(endpoint, plan, 2)
        parts = dealt(shape.rows(2), 2)
        with pytest.raises(UnreachableError):
            load(publication, parts[0], meanwhile=deployment.fail_over)
        # Spark would try the task again, with success, on the new primary.
        reports = [load(publication, rows, part, "again") for part, rows in enumerate(parts)]
        with pytest.raises(PublishError) as caught:
            publication.commit(reports)
        publication.abort()
        says = "restarted or failed over during the load"
        assert_settled(client, reader, live=1, error=caught.value, says=says)
        publish(endpoint, keys, shape, 3)
        assert_settled(client, reader, live=3)


def load(
    publication: Publication,
    rows: dict[str, int],
    part: int = 0,
    attempt: str = "first",
    meanwhile: Callable[[], object] = lambda: None,
) -> Report:
    """One attempt at a part; something happens when half of its rows are written."""
    if publication.spec.layout is not Layout.PACKED:
        writer_of, rows_of = PartitionWriter, partial(arguments, publication)
    else:
        is_delta = publication.spec.mode is Mode.DELTA
        writer_of, rows_of = DeltaWriter if is_delta else BucketWriter, packed_batch
    pairs = list(rows.items())
    with writer_of(publication, part, attempt) as writer:
        writer.write(*rows_of(pairs[: len(pairs) // 2]))
        meanwhile()
        writer.write(*rows_of(pairs[len(pairs) // 2 :]))
        return writer.finish()


def test_what_no_cluster_can_do_is_refused_before_anything_is_sent(namespace: str) -> None:
    cluster = Endpoint.from_url("redis+cluster://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="layout='json' or layout='packed', or to"):
        Publication.begin(cluster, spec(namespace, layout=Layout.HASH))
