"""Connections that break anywhere, in either direction, while a version is published."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import UnreachableError
from nexus_redis_provider.core.gold.manifests import Layout
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.specs import Report
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.embedded import EmbeddedServer, find_server
from tests.conftest import need_server
from tests.core.gold_datasets import dealt, spec, write, write_packed
from tests.gold_faults import SHAPES, Reader, Shape, assert_settled
from tests.guarded import own_server
from tests.proxies import FaultyProxy

pytestmark = pytest.mark.usefixtures("rows_may_stay", "small_batches")

PARTS, ATTEMPTS = 2, 4


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """One will do: what breaks is not the server."""
    need_server(find_server)
    with own_server() as server:
        yield server


def publish(driver: Endpoint, tasks: Endpoint, shape: Shape, namespace: str, version: int) -> None:
    """As Spark does: a task whose connection breaks is tried again."""
    plan = spec(namespace, layout=shape.layout, mode=shape.mode)
    publication = Publication.begin(driver, plan, PARTS)
    away = replace(publication, endpoint=tasks)
    parts = dealt(shape.rows(version), publication.shares if "packed" in shape.layout else PARTS)
    publication.commit([staged(away, rows, part) for part, rows in enumerate(parts)])


def staged(publication: Publication, rows: dict[str, int], part: int) -> Report:
    write_as = write_packed if publication.spec.layout is Layout.PACKED else write
    for attempt in range(1, ATTEMPTS):
        try:
            return write_as(publication, rows, part, str(attempt))
        except UnreachableError:
            pass
    return write_as(publication, rows, part, str(ATTEMPTS))


def rehearsed(endpoint: Endpoint, proxy: FaultyProxy, shape: Shape, namespace: str) -> None:
    """So that the proxy knows how long connections are; those of a delta are of its second."""
    for version, where in enumerate((endpoint, proxy.endpoint), 1):
        publish(where, where, shape, namespace, version)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tasks_that_are_cut_off_are_tried_again(  # noqa: PLR0917
    endpoint: Endpoint,
    client: redis.Redis,
    namespace: str,
    proxy: FaultyProxy,
    shape: Shape,
    seed: int,
) -> None:
    rehearsed(endpoint, proxy, shape, namespace)
    with Reader(endpoint, GoldKeys("sales", namespace), shape) as reader:
        reader.reads_on()
        proxy.cut_at_random(random.Random(f"{shape} {seed}"), times=ATTEMPTS - 1)
        publish(endpoint, replace(proxy.endpoint, retries=0), shape, namespace, 3)
        assert proxy.cuts
        assert_settled(client, reader, live=3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_driver_that_is_cut_off_says_so_and_the_next_publish_is_whole(  # noqa: PLR0917
    endpoint: Endpoint,
    client: redis.Redis,
    namespace: str,
    proxy: FaultyProxy,
    shape: Shape,
    seed: int,
) -> None:
    rehearsed(endpoint, proxy, shape, namespace)
    keys, error = GoldKeys("sales", namespace), None
    with Reader(endpoint, keys, shape) as reader:
        reader.reads_on()
        # Of its own accord the client asks again once, or never.
        hasty = replace(proxy.endpoint, retries=seed % 2)
        proxy.cut_at_random(random.Random(f"{shape} {seed}"), times=ATTEMPTS - 1)
        before = client.hget(keys.head, "newest")
        try:
            publish(hasty, hasty, shape, namespace, 3)
        except UnreachableError as caught:
            error = caught
        # Who was cut off in the commit does not know what has come of it.
        committed = error is None or client.hget(keys.head, "newest") != before
        says = f"Redis at {proxy.endpoint} cannot be reached"
        assert_settled(client, reader, live=3 if committed else 2, error=error, says=says)
        publish(endpoint, endpoint, shape, namespace, 4)
        assert_settled(client, reader, live=4)
