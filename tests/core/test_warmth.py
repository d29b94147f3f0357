"""What counts as warm, told alike by the sync and the async look."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.gold.manifests import Layout, Manifest, Mode
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.core.requirements import Requirement
from nexus_redis_provider.core.warmth import Warmth, aprobe, probe

Look = Callable[..., Awaitable[Warmth]]
NOW = datetime.now(UTC)
HOUR_MS = 3_600_000


@pytest.fixture(params=["sync", "async"])
def look(request: pytest.FixtureRequest, endpoint: Endpoint) -> Look:
    async def look(**arguments: Any) -> Warmth:
        requirement = Requirement(**arguments)
        # As a trigger gets it.
        assert Requirement.from_dict(json.loads(json.dumps(requirement.to_dict()))) is not None
        if request.param == "sync":
            with endpoint.client() as client:
                return probe(client, requirement)
        async with endpoint.async_client() as client:
            return await aprobe(client, requirement)

    return look


def put_manifest(client: redis.Redis, namespace: str, **facts: Any) -> Manifest:
    client_now_ms = int(client.time()[0]) * 1000
    manifest = Manifest(
        **{
            "dataset": "d",
            "version": "v1",
            "mode": Mode.SNAPSHOT,
            "layout": Layout.JSON,
            "columns": (),
            "key": "{k}",
            "rows": 100,
            "bytes": 1000,
            "checksum": 0,
            "partitions": 1,
            "created_ms": client_now_ms,
            "published_ms": client_now_ms,
        }
        | facts
    )
    keys = GoldKeys("d", namespace)
    client.hset(keys.head, "live", manifest.version)
    client.hset(
        keys.manifest(manifest.version),
        mapping={"body": manifest.to_json(), "published_ms": manifest.published_ms},
    )
    return manifest


async def test_all_keys_are_wanted_by_default(
    look: Look, client: redis.Redis, namespace: str
) -> None:
    keys = tuple(f"{namespace}:{i}" for i in range(10))
    for key in keys[:7]:
        client.set(key, 1, ex=60)
    cold = await look(keys=keys)
    assert not cold.is_warm
    assert cold.missing == keys[7:]
    assert cold.rows == 7
    assert cold.reasons == (f"3 of 10 keys missing: {', '.join(keys[7:])}",)
    assert 59 < cold.ttl <= 60
    assert (await look(keys=keys, min_coverage=0.7)).is_warm
    assert not (await look(keys=keys, min_coverage=0.71)).is_warm
    assert (await look(keys=keys, min_rows=7)).is_warm
    assert not (await look(keys=keys, min_rows=8)).is_warm
    assert (await look(keys=keys[:7])).is_warm


async def test_a_share_is_exact(look: Look, client: redis.Redis, namespace: str) -> None:
    keys = tuple(f"{namespace}:{i}" for i in range(100))
    for key in keys[:7]:
        client.set(key, 1, ex=60)
    assert (await look(keys=keys, min_coverage=0.07)).is_warm


async def test_many_missing_keys_are_sampled_but_kept(look: Look, namespace: str) -> None:
    keys = tuple(f"{namespace}:{i}" for i in range(2500))
    cold = await look(keys=keys)
    assert cold.missing == keys
    assert cold.reasons[0].endswith(f"{keys[4]}, and 2,495 more")


async def test_keys_that_live_too_short_are_missing(
    look: Look, client: redis.Redis, namespace: str
) -> None:
    keys = tuple(f"{namespace}:{i}" for i in range(3))
    client.set(keys[0], 1, ex=40)
    client.set(keys[1], 1, ex=400)
    client.set(keys[2], 1)
    cold = await look(keys=keys, min_ttl=300)
    client.expire(keys[2], 60)
    assert cold.missing == keys[:1]
    assert cold.rows == 2
    assert len(cold.reasons) == 1
    assert cold.reasons[0].startswith("1 of 3 keys live for 40 s or more, less than 5 min: ")
    assert (await look(keys=keys[1:2], min_ttl=timedelta(minutes=5))).is_warm


async def test_a_key_given_twice_counts_once(
    look: Look, client: redis.Redis, namespace: str
) -> None:
    client.set(f"{namespace}:a", 1, ex=60)
    found = await look(keys=(f"{namespace}:a", f"{namespace}:a", f"{namespace}:b"), min_rows=2)
    assert found.rows == 1
    assert not found.is_warm


async def test_a_pattern_needs_one_key_or_as_many_as_said(
    look: Look, client: redis.Redis, namespace: str
) -> None:
    pattern = f"{namespace}:x:*"
    cold = await look(pattern=pattern)
    assert cold.reasons == (f"0 keys like {pattern!r}, fewer than 1",)
    with client.pipeline(transaction=False) as pipe:
        for i in range(3000):
            pipe.set(f"{namespace}:x:{i}", 1, ex=60)
            pipe.set(f"{namespace}:y:{i}", 1, ex=60)
        pipe.execute()
    assert (await look(pattern=pattern)).is_warm
    assert (await look(pattern=pattern, min_rows=3000)).is_warm
    assert (await look(pattern=pattern, min_rows=3001)).rows == 3000
    short = await look(pattern=pattern, min_rows=3000, min_ttl=3600)
    assert short.rows == 0
    assert short.reasons[1].startswith("3000 of 3000 keys live for ")


async def test_a_dataset(look: Look, client: redis.Redis, namespace: str) -> None:
    cold = await look(dataset="d", namespace=namespace)
    assert cold.reasons == ("dataset 'd' has no live version",)
    manifest = put_manifest(client, namespace)
    warm = await look(
        dataset="d",
        namespace=namespace,
        min_rows=100,
        max_age=60,
        min_ttl=60,
        newer_than=manifest.published_at - timedelta(seconds=1),
    )
    assert warm.is_warm
    assert (warm.rows, warm.version, warm.published_at) == (100, "v1", manifest.published_at)
    assert 0 <= warm.age < 10
    assert warm.ttl is None
    assert json.loads(json.dumps(warm.to_dict()))["version"] == "v1"


async def test_what_a_dataset_lacks(look: Look, client: redis.Redis, namespace: str) -> None:
    now_ms = int(client.time()[0]) * 1000
    manifest = put_manifest(
        client, namespace, published_ms=now_ms - 2 * HOUR_MS, expires_from_ms=now_ms + 40_000
    )
    cold = await look(
        dataset="d",
        namespace=namespace,
        min_rows=101,
        max_age=timedelta(hours=1),
        min_ttl=300,
        newer_than=manifest.published_at,
    )
    few, old, not_newer, short = cold.reasons
    assert few == "100 rows, fewer than 101"
    assert old.startswith("published 2 h")
    assert old.endswith(" ago, more than 1 h")
    assert not_newer.startswith("published at ")
    assert short.startswith("lives for ")
    assert short.endswith(" s, less than 5 min")
    assert (await look(dataset="d", namespace=namespace, max_age=3 * 3600, min_ttl=10)).is_warm


async def test_a_dataset_whose_rows_live_as_long_as_each_says(
    look: Look, client: redis.Redis, namespace: str
) -> None:
    now_ms = int(client.time()[0]) * 1000
    facts = {"expires_from_ms": now_ms - 1000, "expires_ms": now_ms + HOUR_MS, "ttl_column": "u"}
    put_manifest(client, namespace, **facts)
    assert (await look(dataset="d", namespace=namespace, min_ttl=60)).is_warm
    assert not (await look(dataset="d", namespace=namespace, min_ttl=3601)).is_warm
    put_manifest(client, namespace, **facts | {"expires_ms": None})
    assert (await look(dataset="d", namespace=namespace, min_ttl=3601)).ttl is None


async def test_rows_that_expire_one_by_one_live_as_long_as_the_first(
    look: Look, client: redis.Redis, namespace: str
) -> None:
    now_ms = int(client.time()[0]) * 1000
    put_manifest(client, namespace, expires_from_ms=now_ms - 1000, expires_ms=now_ms + HOUR_MS)
    found = await look(dataset="d", namespace=namespace)
    assert (found.is_warm, found.ttl) == (True, 0)
    assert not (await look(dataset="d", namespace=namespace, min_ttl=60)).is_warm


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "not none"),
        ({"keys": ("a",), "pattern": "a"}, "not keys and pattern"),
        ({"keys": ()}, "keys must not be empty"),
        ({"keys": "abc"}, "list of keys"),
        ({"dataset": ""}, "dataset must not be empty"),
        ({"dataset": "d", "min_coverage": 0.5}, "min_coverage does not go with dataset"),
        ({"keys": ("a",), "max_age": 1}, "max_age does not go with keys"),
        ({"pattern": "a", "newer_than": NOW}, "newer_than does not go with pattern"),
        ({"keys": ("a",), "min_rows": 2}, "more than the 1 keys"),
        ({"keys": ("a", "b"), "min_rows": 1, "min_coverage": 0.5}, "not both"),
        ({"keys": ("a",), "min_coverage": 0}, "above 0"),
        ({"keys": ("a",), "min_coverage": 1.1}, "at most 1"),
        ({"dataset": "d", "min_rows": 0}, "at least 1"),
        ({"dataset": "d", "max_age": -1}, "max_age must be a positive"),
        ({"keys": ("a",), "min_ttl": 0}, "min_ttl must be a positive"),
        ({"dataset": "d", "newer_than": NOW.replace(tzinfo=None)}, "time zone"),
    ],
)
def test_what_cannot_be_required(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Requirement(**arguments)


def test_a_requirement_survives_as_json() -> None:
    requirement = Requirement(
        dataset="d", min_rows=3, max_age=timedelta(hours=1), min_ttl=5, newer_than=NOW
    )
    again = Requirement.from_dict(json.loads(json.dumps(requirement.to_dict())))
    assert again == Requirement(
        dataset="d", min_rows=3, max_age=3600.0, min_ttl=5.0, newer_than=NOW
    )
    keys = Requirement(keys=("a", "b"))
    assert Requirement.from_dict(json.loads(json.dumps(keys.to_dict()))) == keys
    with pytest.raises(ConfigurationError, match="ISO 8601"):
        Requirement.from_dict({"dataset": "d", "newer_than": "yesterday"})


async def test_the_live_version_may_have_to_be_a_late_one(
    look: Look, client: redis.Redis, namespace: str
) -> None:
    put_manifest(client, namespace, version="m2")
    for version in ("m1", "m2", "zz", "9"):
        found = await look(dataset="d", min_version=version, namespace=namespace)
        assert found.is_warm == (version != "zz")
        found = await look(dataset="d", after_version=version, namespace=namespace)
        assert found.is_warm == (version in {"m1", "9"})
    cold = await look(dataset="d", min_version="100", after_version="m2", namespace=namespace)
    assert cold.reasons == (
        "version m2 is live, older than 100",
        "version m2 is live, not one after m2",
    )
    assert cold.version == "m2"


@pytest.mark.parametrize("name", ["min_version", "after_version"])
def test_what_is_no_version(name: str) -> None:
    for text in ("None", "", "m1 ", 3):
        with pytest.raises(ConfigurationError, match=f"{name} must be a version"):
            Requirement.from_dict({"dataset": "d", name: text})
    with pytest.raises(ConfigurationError, match="only a dataset has versions"):
        Requirement.from_dict({"keys": ["k"], name: "m1"})
