"""A stream tells of every publish and rollback, once, in the step that makes it true."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nexus_redis_provider.core.errors import PublishError
from nexus_redis_provider.core.gold.history import rollback
from nexus_redis_provider.core.gold.manifests import Mode
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.keys import GoldKeys
from tests.core.gold_datasets import publish, spec, write

pytestmark = pytest.mark.usefixtures("rows_may_stay")

ONE, TWO = {"a": 1}, {"a": 2, "b": 2}


def told(client, namespace):
    """Every event's facts, without their place in the stream."""
    entries = client.xrange(GoldKeys("sales", namespace).events)
    return [
        {name.decode(): text.decode() for name, text in fields.items()} for _, fields in entries
    ]


def fact(manifest, kind="publish", fence=""):
    facts = {"version": manifest.version, "published_ms": str(manifest.published_ms)}
    return {"kind": kind, **facts, "rows": str(manifest.rows), "fence": fence}


def test_a_publish_and_a_rollback_are_told(endpoint, client, namespace):
    one = publish(endpoint, ONE, spec(namespace))
    two = publish(endpoint, TWO, spec(namespace, fence=7))
    back = rollback(client, "sales", namespace=namespace, fence=8)
    assert back.version == one.version
    assert told(client, namespace) == [
        fact(one),
        fact(two, fence="7"),
        fact(one, kind="rollback", fence="8"),
    ]


def test_what_did_not_happen_is_not_told(endpoint, client, namespace):
    publish(endpoint, ONE, spec(namespace))
    Publication.begin(endpoint, spec(namespace)).abort()
    late = Publication.begin(endpoint, spec(namespace))
    report = write(late, TWO)
    publish(endpoint, ONE, spec(namespace))
    with pytest.raises(PublishError):
        late.commit([report])
    assert len(told(client, namespace)) == 2


def test_a_lost_reply_tells_once(proxy, endpoint, client, namespace):
    publication = Publication.begin(endpoint, spec(namespace))
    report = write(publication, ONE)
    lossy = replace(publication, endpoint=proxy.endpoint)
    proxy.lose_reply()
    manifest = lossy.commit([report])
    assert proxy.lost
    assert told(client, namespace) == [fact(manifest)]


def test_upserts_side_by_side_are_both_told(endpoint, client, namespace):
    upsert = spec(namespace, f"{namespace}:{{id}}", mode=Mode.UPSERT, ttl=60)
    first, second = Publication.begin(endpoint, upsert), Publication.begin(endpoint, upsert)
    newer = second.commit([write(second, TWO)])
    report = write(first, ONE)
    older = first.commit([report])
    first.commit([report])  # As if its reply had been lost.
    assert told(client, namespace) == [fact(newer), fact(older)]


def test_the_stream_is_capped(endpoint, client, namespace):
    events = GoldKeys("sales", namespace).events
    publish(endpoint, ONE, spec(namespace))
    pipe = client.pipeline(transaction=False)
    for _ in range(1200):
        pipe.xadd(events, {"kind": "publish"})
    pipe.execute()
    publish(endpoint, ONE, spec(namespace))
    assert 1000 <= client.xlen(events) < 1200
