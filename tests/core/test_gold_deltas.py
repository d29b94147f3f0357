"""Deltas: little is sent, and readers see what a whole new version would show them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ConfigurationError, NotPublishedError, SupersededError
from nexus_redis_provider.core.gold.chains import LONGEST, BucketMap
from nexus_redis_provider.core.gold.deltas import DeltaWriter
from nexus_redis_provider.core.gold.history import rollback
from nexus_redis_provider.core.gold.manifests import Layout, Manifest, Mode
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import AsyncGoldDataset, GoldDataset
from nexus_redis_provider.core.keys import GoldKeys
from tests.core.gold_datasets import (
    dealt,
    keyspace,
    numbers,
    publish_packed,
    spec,
    write_packed,
)

pytestmark = pytest.mark.usefixtures("rows_may_stay")

Rows = dict[str, int]


def seen(dataset: GoldDataset) -> Rows:
    dataset.verify()
    return {row["id"]: row["n"] for row in dataset.scan()}


def sent_rows(client: redis.Redis, manifest: Manifest, namespace: str) -> int:
    """Rows, and signs of vanished ones, that this version wrote."""
    own = [key for key in keyspace(client, namespace) if f"}}:{manifest.version}." in key]
    return sum(client.hlen(key) for key in own)


def test_only_what_changed_is_sent(
    endpoint: Endpoint, delta: Any, dataset: GoldDataset, client: redis.Redis, namespace: str
) -> None:
    rows = numbers(0, 3_000, 1)
    first = publish_packed(endpoint, rows, delta)
    assert sent_rows(client, first, namespace) == 3_000
    changed = rows | {"k5": 2, "k77": 3, "new": 4}
    del changed["k100"]
    second = publish_packed(endpoint, changed, delta)
    assert second.rows == 3_000
    assert sent_rows(client, second, namespace) == 4
    assert seen(dataset) == changed
    wanted = ["k5", "k100", "new", "k6", "nobody"]
    assert dataset.get_many(wanted) == [
        {"id": key, "n": changed[key]} if key in changed else None for key in wanted
    ]


def test_a_delta_without_a_change_sends_no_row(
    endpoint: Endpoint, delta: Any, dataset: GoldDataset, client: redis.Redis, namespace: str
) -> None:
    publish_packed(endpoint, numbers(0, 500), delta)
    again = publish_packed(endpoint, numbers(0, 500), delta)
    assert sent_rows(client, again, namespace) == 0
    assert seen(dataset) == numbers(0, 500)
    assert dataset.manifest() == again


@pytest.mark.parametrize("seed", range(4))
async def test_any_series_of_deltas_shows_the_last_rows(
    *,
    endpoint: Endpoint,
    delta: Any,
    dataset: GoldDataset,
    client: redis.Redis,
    namespace: str,
    seed: int,
) -> None:
    chance = random.Random(seed)
    rows, history = numbers(0, 400), list[tuple[str, Rows]]()
    async with endpoint.async_client() as other_client:
        other = AsyncGoldDataset(other_client, "sales", namespace=namespace)
        for step in range(2 * LONGEST + 3):
            for key in chance.sample(sorted(rows), len(rows) // chance.choice((3, 10, 100))):
                rows[key] = step
            for key in chance.sample(sorted(rows), chance.choice((0, 3, 40))):
                del rows[key]
            rows |= numbers(1_000 * step, chance.choice((0, 2, 60)), step)
            mode = chance.choice((Mode.DELTA,) * 5 + (Mode.SNAPSHOT,))
            keep = chance.choice((0, 1, 2))
            publication = replace(delta, mode=mode, keep=keep)
            history.append((publish_packed(endpoint, rows, publication).version, dict(rows)))
            assert seen(dataset) == rows
            keys = [*chance.sample(sorted(rows), 20), *chance.sample(sorted(history[0][1]), 20)]
            expected = [{"id": key, "n": rows[key]} if key in rows else None for key in keys]
            assert dataset.get_many(keys) == expected
            assert await other.get_many(keys) == expected
            if keep and len(history) > 1 and chance.random() < 0.3:
                rollback(client, "sales", history[-2][0], namespace=namespace)
                assert seen(dataset) == history[-2][1]
                del history[-1]
                rows = dict(history[-1][1])
    last = publish_packed(endpoint, numbers(0, 50), replace(delta, mode=Mode.SNAPSHOT, keep=0))
    buckets = {key for key in keyspace(client, namespace) if ":gold:sales:" in key}
    assert all(f":{last.version}." in key for key in buckets), "buckets of older versions are left"
    assert not [key for key in keyspace(client, namespace) if ":map:" in key or ":sums:" in key]


def test_chains_do_not_grow_for_ever(
    endpoint: Endpoint, delta: Any, dataset: GoldDataset, client: redis.Redis, namespace: str
) -> None:
    rows = numbers(0, 300)
    for step in range(2 * LONGEST):
        rows["k7"] = step
        manifest = publish_packed(endpoint, rows, delta, shares=1)
    (share,) = manifest.shares
    data = client.get(GoldKeys("sales", namespace).bucket_map(manifest.version, f"0.{share.task}"))
    assert 1 < max(map(len, BucketMap.decode(data).chains)) <= LONGEST
    assert seen(dataset) == rows


def test_a_delta_that_fails_leaves_the_live_version_whole(
    endpoint: Endpoint, delta: Any, dataset: GoldDataset, client: redis.Redis, namespace: str
) -> None:
    rows = numbers(0, 900, 1)
    publish_packed(endpoint, rows, delta)
    before = keyspace(client, namespace)
    publication = Publication.begin(endpoint, delta)
    for number, part in enumerate(dealt(rows | {"k1": 2}, publication.shares)):
        write_packed(publication, part, number)
    publication.abort()
    assert keyspace(client, namespace) == before
    assert seen(dataset) == rows


def test_a_losing_attempt_at_a_delta_leaves_nothing(
    endpoint: Endpoint, delta: Any, dataset: GoldDataset, client: redis.Redis, namespace: str
) -> None:
    publish_packed(endpoint, numbers(0, 300, 1), delta, shares=1)
    publication, rows = Publication.begin(endpoint, delta), numbers(0, 300, 1) | {"k1": 2}
    report = write_packed(publication, rows, attempt="wins")
    write_packed(publication, rows | {"k2": 2}, attempt="loses")
    publication.commit([report])
    assert seen(dataset) == rows
    assert not [key for key in keyspace(client, namespace) if "loses" in key]


def test_a_delta_on_a_version_that_is_gone_is_refused(
    endpoint: Endpoint, delta: Any, dataset: GoldDataset
) -> None:
    delta = replace(delta, keep=0)
    publish_packed(endpoint, numbers(0, 200, 1), delta)
    rival = Publication.begin(endpoint, delta)
    late = Publication.begin(endpoint, delta)
    parts = dealt(numbers(0, 200, 2), late.shares)
    reports = [write_packed(late, part, number) for number, part in enumerate(parts)]
    parts = dealt(numbers(0, 200, 3), rival.shares)
    rival.commit([write_packed(rival, part, number) for number, part in enumerate(parts)])
    with pytest.raises(SupersededError, match="is not kept any more"):
        late.commit(reports)
    late.abort()
    assert set(seen(dataset).values()) == {3}


def test_sums_that_are_forgotten_while_a_delta_is_written_are_written_anew(
    *,
    endpoint: Endpoint,
    delta: Any,
    dataset: GoldDataset,
    client: redis.Redis,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rival publishes in between; the base is kept, but what is next builds on the rival."""
    publish_packed(endpoint, numbers(0, 200, 1), delta)
    rival, late = Publication.begin(endpoint, delta), Publication.begin(endpoint, delta)
    write_changes, rivals = DeltaWriter._write_changes, [rival]

    def publish_and_write(self: DeltaWriter, *args: Any) -> None:
        if self._publication is late and rivals:
            parts = dealt(numbers(0, 200, 1) | {"k7": 2}, rival.shares)
            reports = [write_packed(rival, part, number) for number, part in enumerate(parts)]
            rivals.pop().commit(reports)
        write_changes(self, *args)

    monkeypatch.setattr(DeltaWriter, "_write_changes", publish_and_write)
    rows = numbers(0, 200, 1) | {"k8": 3}
    parts = dealt(rows, late.shares)
    late.commit([write_packed(late, part, number) for number, part in enumerate(parts)])
    assert not rivals
    assert seen(dataset) == rows
    last = publish_packed(endpoint, rows | {"k9": 4}, delta)
    assert sent_rows(client, last, namespace) == 1
    assert seen(dataset) == rows | {"k9": 4}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"ttl": 600}, {}),
        ({}, {"ttl": 600}),
        ({"ttl": 60}, {"ttl": 6_000}),
        ({"columns": ()}, {}),
        ({"layout": Layout.JSON, "mode": Mode.SNAPSHOT}, {}),
    ],
)
def test_what_cannot_share_rows_is_written_anew(
    *,
    endpoint: Endpoint,
    delta: Any,
    client: redis.Redis,
    namespace: str,
    first: dict[str, Any],
    second: dict[str, Any],
) -> None:
    unlike = replace(delta, **first)
    publication = Publication.begin(endpoint, unlike)
    publication.commit(
        [] if unlike.layout is Layout.JSON else [write_packed(publication, numbers(0, 200))]
    )
    manifest = publish_packed(endpoint, numbers(0, 200), replace(delta, **second))
    assert sent_rows(client, manifest, namespace) == 200


def test_rows_live_as_long_as_the_newest_version(
    endpoint: Endpoint, delta: Any, dataset: GoldDataset, client: redis.Redis, namespace: str
) -> None:
    publish_packed(endpoint, numbers(0, 600), replace(delta, ttl=1_000))
    manifest = publish_packed(endpoint, numbers(0, 600) | {"k1": 1}, replace(delta, ttl=5_000))
    assert sent_rows(client, manifest, namespace) == 1
    buckets = [key for key in keyspace(client, namespace) if ":gold:sales:" in key]
    assert {client.pexpiretime(key) for key in buckets} == {manifest.expires_ms}
    assert seen(dataset)["k1"] == 1
    ttls = [client.pttl(key) for key in keyspace(client, namespace) if ":map:" in key]
    assert ttls
    assert min(ttls) > 0


@pytest.mark.parametrize("max_staleness", [0, 600])
def test_no_value_of_a_base_shows_when_a_shorter_life_is_over(
    *,
    endpoint: Endpoint,
    delta: Any,
    client: redis.Redis,
    namespace: str,
    max_staleness: float,
) -> None:
    dataset = GoldDataset(client, "sales", namespace=namespace, max_staleness=max_staleness)
    publish_packed(endpoint, numbers(0, 600), replace(delta, ttl=1_000))
    manifest = publish_packed(endpoint, numbers(0, 600) | {"k1": 1}, replace(delta, ttl=100))
    assert sent_rows(client, manifest, namespace) == 1
    assert dataset.get("k1") == {"id": "k1", "n": 1}
    ends = [key for key in keyspace(client, namespace) if 0 < client.pttl(key) <= 100_000]
    assert GoldKeys("sales", namespace).manifest(manifest.version) in ends
    client.unlink(*ends)  # As if the time had passed.
    for read in (lambda: dataset.get("k1"), lambda: dataset.get("k1"), dataset.verify):
        with pytest.raises(NotPublishedError):
            read()


@pytest.mark.parametrize("kept", [(3, 2), (1, None), (None, 2), (None, None)])
@pytest.mark.parametrize(
    "keys",
    [
        ("plumless", "buckeroo"),  # Keys with one CRC-32.
        ("aaaaaaaaaaaaaaaaaaaa", "icccaaekaoicaiaiggga"),  # With one identity.
    ],
)
def test_rows_whose_keys_have_the_same_hash(
    *,
    endpoint: Endpoint,
    delta: Any,
    dataset: GoldDataset,
    client: redis.Redis,
    namespace: str,
    keys: tuple[str, str],
    kept: tuple[int | None, int | None],
) -> None:
    twins = dict(zip(keys, (1, 2), strict=True))
    after = {key: n for key, n in zip(keys, kept, strict=True) if n is not None}
    for before, now in ((twins, after), (after, twins)):
        publish_packed(endpoint, numbers(0, 300) | before, replace(delta, mode=Mode.SNAPSHOT))
        publish_packed(endpoint, numbers(0, 300) | before, delta)
        manifest = publish_packed(endpoint, numbers(0, 300) | now, delta)
        assert seen(dataset) == numbers(0, 300) | now
        assert sent_rows(client, manifest, namespace) <= 2
        publish_packed(endpoint, numbers(0, 300) | twins, delta)
        assert seen(dataset) == numbers(0, 300) | twins


@pytest.mark.parametrize("value", [1, 2])
def test_a_row_that_comes_for_one_whose_key_has_the_same_hash(
    endpoint: Endpoint, delta: Any, dataset: GoldDataset, value: int
) -> None:
    rows = numbers(0, 300)
    publish_packed(endpoint, rows | {"plumless": 1}, delta)
    for key in ("buckeroo", "plumless"):
        publish_packed(endpoint, rows | {key: value}, delta)
        assert seen(dataset) == rows | {key: value}
        value = 1


def test_a_vanished_map_is_no_endless_question(
    endpoint: Endpoint, delta: Any, dataset: GoldDataset, client: redis.Redis, namespace: str
) -> None:
    publish_packed(endpoint, numbers(0, 200), delta, shares=1)
    publish_packed(endpoint, numbers(0, 200) | {"k1": 1}, delta, shares=1)
    (name,) = [key for key in keyspace(client, namespace) if ":map:" in key]
    client.unlink(name)
    with pytest.raises(NotPublishedError, match="never published, expired"):
        dataset.get("k1")


def test_deltas_are_of_packed_rows(namespace: str) -> None:
    with pytest.raises(ConfigurationError, match="mode='delta' is for layout='packed'"):
        spec(namespace, mode=Mode.DELTA)
