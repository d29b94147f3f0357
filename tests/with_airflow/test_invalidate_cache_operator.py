"""Taking from a cache what is no longer true, by an operator; and what the hook adds for keys."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from nexus_redis_provider.core.errors import ConfigurationError, NotPublishedError, StaleFenceError
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.keys import generation_key
from nexus_redis_provider.core.keyspace.walks import Deletion
from nexus_redis_provider.core.tags import stamp
from nexus_redis_provider.hooks.redis import NexusRedisHook
from nexus_redis_provider.operators.cache_invalidation import InvalidateCacheOperator
from tests.core.gold_datasets import PERMANENT_ROWS, publish, spec


@pytest.fixture
def permanent(permanent: list[str]) -> list[str]:
    return [*permanent, PERMANENT_ROWS]


@pytest.fixture
def keys(client: redis.Redis, namespace: str) -> list[str]:
    names = [f"{namespace}:a*:1", f"{namespace}:a*:2", f"{namespace}:ab:3"]
    for name in names:
        client.set(name, 1, ex=60)
    return names


def invalidate(**options: Any) -> Any:
    return InvalidateCacheOperator(task_id="invalidate", **options).execute({})


def test_by_pattern(client: redis.Redis, namespace: str, keys: list[str]) -> None:
    found = invalidate(pattern=f"{namespace}:a*", dry_run=True)
    assert found == {"found": 3, "deleted": 0}
    assert client.exists(*keys) == 3
    assert invalidate(pattern=f"{namespace}:a*", key_type="hash") == {"found": 0, "deleted": 0}
    assert invalidate(pattern=f"{namespace}:a*") == {"found": 3, "deleted": 3}
    assert not client.exists(*keys)


def test_by_prefix(client: redis.Redis, namespace: str, keys: list[str]) -> None:
    assert invalidate(prefix=f"{namespace}:a*:") == {"found": 2, "deleted": 2}
    assert client.exists(keys[2])


def test_a_dataset(client: redis.Redis, endpoint, namespace: str) -> None:
    manifest = publish(endpoint, {"a": 1}, spec(namespace, fence=5))
    with pytest.raises(StaleFenceError):
        invalidate(dataset="sales", fence="4", namespace=namespace)
    found = invalidate(dataset="sales", fence="5", namespace=namespace)
    assert found == {"dataset": "sales", "version": manifest.version}
    with pytest.raises(NotPublishedError):
        GoldDataset(client, "sales", namespace=namespace).get("a")
    assert not list(client.scan_iter(f"{namespace}:gold:sales:*"))
    found = invalidate(dataset="sales", namespace=namespace)
    assert found == {"dataset": "sales", "version": None}


def test_by_tag(client: redis.Redis, namespace: str) -> None:
    stamps = [stamp(client, [tag], namespace=namespace) for tag in ("prices", "region:eu", "c")]
    found = invalidate(tags=["prices", "region:eu"], namespace=namespace)
    assert list(found) == ["tags"]
    assert list(found["tags"]) == ["prices", "region:eu"]
    for tag, generation in found["tags"].items():
        assert client.get(generation_key(tag, namespace)) == str(generation).encode()
    later = [stamp(client, [tag], namespace=namespace) for tag in ("prices", "region:eu", "c")]
    assert [one != other for one, other in zip(stamps, later, strict=True)] == [True, True, False]
    with NexusRedisHook() as hook:
        assert hook.invalidate_tags(["c"], namespace=namespace)["c"] > 0
    assert stamp(client, ["c"], namespace=namespace) != stamps[2]


def test_tags_are_templated(namespace: str) -> None:
    operator = InvalidateCacheOperator(
        task_id="invalidate", tags=["region:{{ region }}"], namespace=namespace
    )
    operator.render_template_fields({"region": "eu"})
    assert list(operator.execute({})["tags"]) == ["region:eu"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "not none"),
        ({"prefix": "a", "tags": ["b"]}, "not prefix and tags"),
        ({"tags": ["b"], "dry_run": True}, "dry_run does not go with tags"),
        ({"tags": ["b"], "key_type": "hash"}, "key_type does not go with tags"),
        ({"tags": ["b"], "fence": 1}, "fence does not go with tags"),
        ({"pattern": "a", "dataset": "b"}, "not pattern and dataset"),
        ({"dataset": "b", "dry_run": True}, "dry_run does not go with dataset"),
        ({"dataset": "b", "key_type": "hash"}, "key_type does not go with dataset"),
        ({"prefix": "b", "fence": 1}, "fence does not go with prefix"),
    ],
)
def test_options_that_contradict_each_other(options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        InvalidateCacheOperator(task_id="invalidate", **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prefix": ""}, "An empty prefix means every key"),
        ({"pattern": ""}, "A pattern must not be empty"),
        ({"tags": []}, "Give 1 to 1,000 tags, not 0"),
        ({"tags": ["a", ""]}, "1 to 512 bytes in UTF-8, not 0"),
        ({"tags": "['a', 'b']"}, "must be a list of names, not the text"),
        ({"dataset": "sales", "fence": "None"}, "has returned no token"),
        ({"dataset": "sales", "fence": "x"}, "must be a number, not 'x'"),
    ],
)
def test_templates_that_came_out_wrong(client, keys: list[str], options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        invalidate(**options)
    assert client.exists(*keys) == 3


def test_the_hook(client: redis.Redis, namespace: str, keys: list[str]) -> None:
    with NexusRedisHook() as hook:
        assert set(hook.scan(f"{namespace}:*")) == {key.encode() for key in keys}
        assert hook.big_keys(f"{namespace}:*", top=1)[0].type == "string"
        assert hook.weigh(f"{namespace}:*").keys == 3
        assert hook.memory_of([keys[0]]) == {keys[0]: client.memory_usage(keys[0])}
        assert hook.server_infos()[0].replication.is_primary
        assert hook.ping(2)[0].count == 2
        assert isinstance(hook.slow_log(), list)
        assert isinstance(hook.latency_events(), list)
        assert hook.delete(f"{namespace}:*", dry_run=True) == Deletion(3, 0)
        assert hook.delete(f"{namespace}:*") == Deletion(3, 3)
