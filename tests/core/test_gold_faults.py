"""The judges of the tests of faults: whatever a reader must not see, or must not be left, shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.gold.history import rollback
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.keys import GoldKeys
from tests.core.gold_datasets import keyspace, spec
from tests.gold_faults import (
    JSON,
    SHAPES,
    Reader,
    Shape,
    assert_nothing_left,
    assert_settled,
    publish,
)
from tests.topologies import until

pytestmark = pytest.mark.usefixtures("rows_may_stay")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_versions_that_follow_each_other_are_right(
    endpoint: Endpoint, client: redis.Redis, namespace: str, keys: GoldKeys, shape: Shape
) -> None:
    publish(endpoint, keys, shape, 1)
    with Reader(endpoint, keys, shape) as reader:
        reader.reads_on()
        for version in range(2, 8):
            publish(endpoint, keys, shape, version)
        assert_settled(client, reader, live=7)
    assert reader.seen[1] >= 1


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (lambda client, row: client.unlink(row), "version 1 without 1 of its rows|no version"),
        (lambda client, row: client.set(row, '{"id":"k7","n":2}'), r"a mix of versions \[1, 2\]"),
        (lambda client, row: client.set(row, "{"), "Error"),
    ],
    ids=["gap", "mix", "no row"],
)
def test_what_no_reader_may_see_shows(  # noqa: PLR0917
    endpoint: Endpoint, client: redis.Redis, namespace: str, keys: GoldKeys, fault: Any, text: str
) -> None:
    publish(endpoint, keys, JSON, 1)
    version = client.hget(keys.head, "live").decode()
    with Reader(endpoint, keys, JSON) as reader:
        reader.reads_on()
        fault(client, f"{keys.row_prefix(version)}k7")
        until(lambda: reader.wrong, "what is wrong")
        with pytest.raises(AssertionError, match=text):
            assert_settled(client, reader, live=1)


def test_a_step_back_shows(
    endpoint: Endpoint, client: redis.Redis, namespace: str, keys: GoldKeys
) -> None:
    for version in (1, 2):
        publish(endpoint, keys, JSON, version)
    with Reader(endpoint, keys, JSON) as reader:
        reader.reads_on()
        rollback(client, "sales", namespace=namespace)
        with pytest.raises(AssertionError, match="version 1 after 2"):
            assert_settled(client, reader, live=1)


def test_the_wrong_version_and_the_wrong_words_show(
    endpoint: Endpoint, client: redis.Redis, namespace: str, keys: GoldKeys
) -> None:
    publish(endpoint, keys, JSON, 1)
    with Reader(endpoint, keys, JSON) as reader:
        with pytest.raises(AssertionError):
            assert_settled(client, reader, live=2)
        with pytest.raises(AssertionError, match="too vague"):
            assert_settled(client, reader, live=1, error=OSError("too vague"), says="restarted")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_left_shows(
    endpoint: Endpoint, client: redis.Redis, namespace: str, keys: GoldKeys, shape: Shape
) -> None:
    publish(endpoint, keys, replace(shape, count=3), 1)
    for key in keyspace(client, namespace) - {keys.events, keys.head, keys.versions}:
        twin = f"{key}x"
        # Not by COPY: they are on two nodes of a Cluster.
        client.restore(twin, 0, client.dump(key))
        with pytest.raises(AssertionError, match="nobody will ever remove"):
            assert_nothing_left(client, keys)
        client.expire(twin, 60)
        assert_nothing_left(client, keys)
        client.unlink(twin)


def test_what_awaits_the_next_sweep_is_not_left(
    endpoint: Endpoint, client: redis.Redis, namespace: str, keys: GoldKeys
) -> None:
    publish(endpoint, keys, JSON, 1)
    before = keyspace(client, namespace)
    Publication.begin(endpoint, spec(namespace))
    assert_nothing_left(client, keys)
    assert keyspace(client, namespace) == before
