"""A version in parts: together they have every row once, and none that is lost goes unnoticed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import GoldError, NotPublishedError
from nexus_redis_provider.core.gold.manifests import Manifest, Mode
from nexus_redis_provider.core.gold.parts import plan_parts, read_part
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.keys import GoldKeys
from tests.core.gold_datasets import keyspace, numbers, publish_packed

pytestmark = pytest.mark.usefixtures("rows_may_stay")

_LISTPACK = "hash-max-listpack-entries"


@pytest.fixture
def tiny_buckets(client: redis.Redis) -> Iterator[None]:
    """Of one row on average, so that a third of them has none."""
    before = client.config_get(_LISTPACK)[_LISTPACK]
    client.config_set(_LISTPACK, 3)
    yield
    client.config_set(_LISTPACK, before)


def names_in_parts(client: redis.Redis, manifest: Manifest, namespace: str) -> list[str]:
    keys = GoldKeys("sales", namespace)
    return [
        name.decode()
        for part in plan_parts(client, keys, manifest, 3)
        for rows in read_part(client, keys, manifest, part)
        for name, _ in rows
    ]


@pytest.mark.parametrize("count", [0, 1, 40, 3_000])
def test_parts_have_every_row_once(
    endpoint: Endpoint, delta: Any, client: redis.Redis, namespace: str, count: int
) -> None:
    rows = numbers(0, count)
    for mode in (Mode.SNAPSHOT, Mode.DELTA, Mode.DELTA):
        manifest = publish_packed(endpoint, rows, replace(delta, mode=mode))
        assert sorted(names_in_parts(client, manifest, namespace)) == sorted(rows)
        rows |= {"k0": 1, "new": 2}


def test_buckets_without_rows_are_not_missed(
    *,
    endpoint: Endpoint,
    delta: Any,
    dataset: GoldDataset,
    client: redis.Redis,
    namespace: str,
    tiny_buckets: None,
) -> None:
    rows = numbers(0, 300)
    for step in range(6):
        mode = Mode.SNAPSHOT if step in {0, 4} else Mode.DELTA
        publish_packed(endpoint, rows, replace(delta, mode=mode, keep=1))
        manifest = dataset.verify()
        assert all(share.is_mapped for share in manifest.shares)
        assert {row["id"]: row["n"] for row in dataset.scan()} == rows
        assert dataset.get_many([*rows, "nobody"])[-2:] == [{"id": [*rows][-1], "n": 0}, None]
        assert sorted(names_in_parts(client, manifest, namespace)) == sorted(rows)
        for key in [*rows][:60]:
            del rows[key]
        rows |= numbers(1_000 * (step + 1), 30)
    last = publish_packed(endpoint, rows, replace(delta, mode=Mode.SNAPSHOT, keep=0))
    maps = {key for key in keyspace(client, namespace) if ":map:" in key}
    assert maps == {
        GoldKeys("sales", namespace).bucket_map(last.version, f"{number}.{share.task}")
        for number, share in enumerate(last.shares)
    }


@pytest.mark.parametrize("lost", ["bucket", "overlay", "beneath"])
def test_a_bucket_that_was_evicted_is_missed(
    *,
    endpoint: Endpoint,
    delta: Any,
    dataset: GoldDataset,
    client: redis.Redis,
    namespace: str,
    lost: str,
) -> None:
    rows = numbers(0, 2_000)
    first = manifest = publish_packed(endpoint, rows, delta)
    if lost != "bucket":
        # Of as many rows as before, so that no count tells which ones are of an old version.
        manifest = publish_packed(endpoint, rows | {"k7": 1}, delta)
    own = [key for key in keyspace(client, namespace) if f"}}:{manifest.version}." in key]
    one = min(own)
    client.unlink(one.replace(manifest.version, first.version) if lost == "beneath" else one)
    with pytest.raises(GoldError, match="removed or expired"):
        names_in_parts(client, manifest, namespace)
    with pytest.raises(NotPublishedError):
        list(dataset.scan())
    with pytest.raises(GoldError, match="2000 with"):
        dataset.verify()
