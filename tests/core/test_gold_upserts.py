"""Rows replaced in place: side by side, over time, and never fewer than asked for."""

from __future__ import annotations

import pytest

from nexus_redis_provider.core.errors import ConfigurationError, PublishError
from nexus_redis_provider.core.gold.manifests import Mode
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.gold.schemas import Column
from tests.core.gold_datasets import (
    COLUMNS,
    keyspace,
    publish,
    spec,
    write,
)

pytestmark = pytest.mark.usefixtures("rows_may_stay")


def test_upserts_side_by_side_are_no_rivals(endpoint, client, namespace):
    plan = spec(namespace, key=f"{namespace}:row:{{id}}", mode=Mode.UPSERT, ttl=60)
    older, newer = Publication.begin(endpoint, plan), Publication.begin(endpoint, plan)
    reports = [write(older, {"a": 1}), write(newer, {"b": 2})]
    newest = newer.commit(reports[1:])
    assert older.commit(reports[:1]).rows == 1
    assert older.commit(reports[:1]).rows == 1
    rows = GoldDataset(client, "sales", namespace=namespace)
    assert rows.get_many(["a", "b"]) == [{"id": "a", "n": 1}, {"id": "b", "n": 2}]
    assert rows.manifest() == newest


def test_rows_from_before_a_column_came_have_null_there(endpoint, client, namespace):
    key = f"{namespace}:row:{{id}}"
    publish(endpoint, {"a": 1}, spec(namespace, key=key, mode=Mode.UPSERT, ttl=60))
    wider = (*COLUMNS, Column("m", "long"))
    publish(endpoint, {}, spec(namespace, key=key, mode=Mode.UPSERT, columns=wider, ttl=60))
    rows = GoldDataset(client, "sales", namespace=namespace)
    assert rows.get("a") == {"id": "a", "n": 1, "m": None}


def test_too_few_rows_replace_nothing(endpoint, client, namespace):
    publish(endpoint, {"a": 1, "b": 2}, spec(namespace, min_rows=2))
    before = keyspace(client, namespace)
    publication = Publication.begin(endpoint, spec(namespace, min_rows=2))
    with pytest.raises(PublishError, match=r"1 row\(s\), fewer than min_rows=2"):
        publication.commit([write(publication, {"a": 9})])
    publication.abort()
    assert keyspace(client, namespace) == before
    assert GoldDataset(client, "sales", namespace=namespace).get("a") == {"id": "a", "n": 1}
    with pytest.raises(ConfigurationError, match="min_rows"):
        spec(namespace, mode=Mode.UPSERT, min_rows=1)


def test_a_dataset_that_expires_leaves_no_key_of_its_versions(
    endpoint, client, namespace, wait_until
):
    manifest = publish(endpoint, {"a": 1, "b": 2}, spec(namespace, ttl=1))
    of_the_version = [key for key in keyspace(client, namespace) if manifest.version in key]
    assert len(of_the_version) == 5
    assert {client.pexpiretime(key) for key in of_the_version} == {manifest.expires_ms}
    wait_until(lambda: not client.exists(*of_the_version))
