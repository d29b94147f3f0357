"""Versions: begun, published in one step, fenced, given up, removed to the last key."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import date

import pyarrow as pa
import pytest

from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import (
    AccessDeniedError,
    ConfigurationError,
    NotPublishedError,
    PublishError,
    StaleFenceError,
    SupersededError,
    UnreachableError,
)
from nexus_redis_provider.core.gold import publications
from nexus_redis_provider.core.gold.manifests import Layout, Mode
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.gold.writers import PartitionWriter
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.core.scripts import run
from tests.core.gold_datasets import (
    arguments,
    batch,
    dataset_keys,
    keyspace,
    leases_are_over,
    numbers,
    publish,
    publish_packed,
    spec,
    user,
    version_keys,
    write,
)

pytestmark = pytest.mark.usefixtures("rows_may_stay")


ONE, TWO = {"a": 1, "b": 1}, {"a": 2, "c": 2}


def test_a_published_version_is_read_back(endpoint, client, namespace):
    before = client.time()[0]
    publication = Publication.begin(endpoint, spec(namespace, lineage={"dag_id": "d"}))
    manifest = publication.commit(
        [write(publication, ONE), write(publication, {"c": 3}, partition=1)]
    )
    rows = GoldDataset(client, "sales", namespace=namespace)
    assert rows.get_many(["c", "a", "x"]) == [{"id": "c", "n": 3}, {"id": "a", "n": 1}, None]
    assert rows.manifest() == manifest == rows.verify()
    assert (manifest.rows, manifest.partitions, manifest.lineage) == (3, 2, {"dag_id": "d"})
    assert manifest.bytes == sum(
        len(key) + client.strlen(key)
        for key in client.scan_iter(f"{namespace}:gold:sales:*", count=1000)
    )
    assert before <= manifest.published_at.timestamp() <= client.time()[0] + 1
    assert keyspace(client, namespace) == dataset_keys(
        namespace, "head", "versions"
    ) | version_keys(namespace, manifest.version, "abc", ["0.a:0", "1.a:0"])


@pytest.mark.parametrize("reports", [0, 1])
def test_an_empty_version_is_a_version(endpoint, client, namespace, reports):
    publish(endpoint, ONE, spec(namespace, keep=0))
    publication = Publication.begin(endpoint, spec(namespace, keep=0))
    assert publication.commit([write(publication, {})] * reports).rows == 0
    rows = GoldDataset(client, "sales", namespace=namespace)
    assert rows.get("a") is None
    assert list(rows.scan()) == []
    assert rows.verify().version == publication.version


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_exactly_the_kept_versions_remain(endpoint, client, namespace, keep):
    versions = [publish(endpoint, ONE, spec(namespace, keep=keep)).version for _ in range(5)]
    assert len(set(versions)) == 5
    expected = dataset_keys(namespace, "head", "versions")
    for version in versions[4 - keep :]:
        expected |= version_keys(namespace, version, ONE)
    assert keyspace(client, namespace) == expected


def test_fewer_are_kept_from_the_next_publish_on(endpoint, client, namespace):
    for _ in range(3):
        publish(endpoint, ONE, spec(namespace, keep=2))
    last = publish(endpoint, TWO, spec(namespace, keep=0)).version
    assert keyspace(client, namespace) == dataset_keys(
        namespace, "head", "versions"
    ) | version_keys(namespace, last, TWO)


@pytest.mark.parametrize("mode", Mode)
def test_fencing(endpoint, client, namespace, mode):
    key = f"{namespace}:{{id}}" if mode is Mode.UPSERT else "{id}"
    layout = Layout.PACKED if mode is Mode.DELTA else Layout.JSON
    expiring = spec(namespace, key, mode=mode, layout=layout, fence=5, ttl=60)
    publish_as = publish_packed if layout is Layout.PACKED else publish
    publish_as(endpoint, ONE, expiring)
    for fence in (4, None):
        with pytest.raises(StaleFenceError) as caught:
            Publication.begin(endpoint, replace(expiring, fence=fence))
        assert (caught.value.fence, caught.value.recorded) == (fence, 5)
    rows = GoldDataset(client, "sales", namespace=namespace)
    assert rows.get("a") == {"id": "a", "n": 1}
    publish_as(endpoint, TWO, expiring)
    assert rows.get("a") == {"id": "a", "n": 2}
    publish_as(endpoint, ONE, replace(expiring, fence=2**53 - 1))
    assert rows.get("a") == {"id": "a", "n": 1}


@pytest.mark.parametrize("fence", [4, None])
def test_a_fence_that_rises_during_the_load_stops_the_commit(endpoint, client, namespace, fence):
    slow = Publication.begin(endpoint, spec(namespace, fence=fence))
    report = write(slow, ONE)
    publish(endpoint, TWO, spec(namespace, fence=5))
    with pytest.raises(StaleFenceError):
        slow.commit([report])
    slow.abort()
    assert GoldDataset(client, "sales", namespace=namespace).get("a") == {"id": "a", "n": 2}
    assert not [key for key in keyspace(client, namespace) if f":{slow.version}" in key]


@pytest.mark.parametrize("fence", [5, None])
def test_an_older_version_never_replaces_a_newer_one(endpoint, client, namespace, fence):
    older = Publication.begin(endpoint, spec(namespace, fence=fence))
    report = write(older, ONE)
    newer = publish(endpoint, TWO, spec(namespace, fence=fence))
    with pytest.raises(SupersededError, match=newer.version):
        older.commit([report])
    assert GoldDataset(client, "sales", namespace=namespace).manifest() == newer


def test_committing_twice_publishes_once(endpoint, client, namespace):
    publish(endpoint, ONE, spec(namespace))
    publication = Publication.begin(endpoint, spec(namespace))
    reports = [write(publication, TWO)]
    assert publication.commit(reports) == publication.commit(reports)
    assert client.zcard(GoldKeys("sales", namespace).versions) == 2


def test_a_lost_reply_of_the_commit_publishes_once(proxy, endpoint, client, namespace):
    publish(endpoint, ONE, spec(namespace))
    publication = Publication.begin(proxy.endpoint, spec(namespace))
    report = write(publication, TWO)
    proxy.lose_reply()
    manifest = publication.commit([report])
    assert proxy.lost
    assert GoldDataset(client, "sales", namespace=namespace).manifest() == manifest
    assert client.zcard(GoldKeys("sales", namespace).versions) == 2


def test_a_lost_reply_of_the_beginning_leaves_only_a_lease(  # noqa: PLR0917
    proxy, endpoint, client, namespace, wait_until, monkeypatch
):
    Publication.begin(endpoint, spec(namespace)).abort()  # From now on the server has the script.
    monkeypatch.setattr(publications, "sweep", lambda *_: proxy.lose_reply())
    through = proxy.endpoint
    publication = Publication.begin(through, spec(namespace, staging_lease=1))
    monkeypatch.undo()
    assert proxy.lost
    publication = replace(publication, endpoint=endpoint)
    manifest = publication.commit([write(publication, ONE)])
    assert client.zcard(GoldKeys("sales", namespace).staging) == 1
    wait_until(lambda: leases_are_over(client, namespace))
    publish(endpoint, ONE, spec(namespace, keep=0))
    assert not client.exists(GoldKeys("sales", namespace).staging)
    assert not [key for key in keyspace(client, namespace) if f":{manifest.version}" in key]


def test_nothing_is_left_of_an_aborted_version(endpoint, client, namespace):
    publication = Publication.begin(endpoint, spec(namespace))
    write(publication, ONE)
    write(publication, {"c": 1}, partition=1)
    publication.abort()
    publication.abort()
    assert keyspace(client, namespace) == dataset_keys(namespace, "head")
    with pytest.raises(SupersededError, match="gone"):
        publication.commit([])


def test_abort_after_the_publish_does_nothing(endpoint, client, namespace):
    publication = Publication.begin(endpoint, spec(namespace))
    manifest = publication.commit([write(publication, ONE)])
    publication.abort()
    assert GoldDataset(client, "sales", namespace=namespace).verify() == manifest


@pytest.mark.parametrize("layout", [Layout.JSON, Layout.HASH])
def test_the_next_publish_sweeps_what_a_dead_publisher_left(endpoint, client, namespace, layout):
    dead = Publication.begin(endpoint, spec(namespace, layout=layout))
    with PartitionWriter(dead, 0, "a") as writer:
        writer.write(*arguments(dead, numbers(0, 3000)))
        writer._settle()
    assert len(keyspace(client, namespace)) == 3000 + 5  # head, staging, attempts, two pages
    client.zadd(GoldKeys("sales", namespace).staging, {dead.version: 1}, xx=True)  # Long ago.
    manifest = publish(endpoint, ONE, spec(namespace))
    assert keyspace(client, namespace) == dataset_keys(
        namespace, "head", "versions"
    ) | version_keys(namespace, manifest.version, ONE)


def test_a_writer_whose_lease_is_over_is_refused_before_any_sweep(endpoint, client, namespace):
    publication = Publication.begin(endpoint, spec(namespace))
    staging = GoldKeys("sales", namespace).staging
    with PartitionWriter(publication, 0, "a") as writer:
        client.zadd(staging, {publication.version: client.time()[0] * 1000 - 1})
        writer.write(*batch(ONE))
        with pytest.raises(SupersededError, match="gone"):
            writer.finish()
    assert run(client, publication.renewal()) == -1
    with pytest.raises(SupersededError, match="gone"):
        publication.commit([])
    assert keyspace(client, namespace) == dataset_keys(namespace, "head", "staging")


def test_a_publisher_that_shows_signs_of_life_is_not_swept(endpoint, client, namespace):
    alive = Publication.begin(endpoint, spec(namespace))
    report = write(alive, ONE)
    assert run(client, alive.renewal()) == 2
    Publication.begin(endpoint, spec(namespace)).abort()
    assert alive.commit([report]).rows == 2
    assert GoldDataset(client, "sales", namespace=namespace).verify()


def test_sweepers_do_not_disturb_each_other(endpoint, client, namespace):
    for n in range(3):
        publication = Publication.begin(endpoint, spec(namespace))
        write(publication, numbers(n, 2000))
        publication.abandon()
    threads = [
        threading.Thread(target=Publication.begin, args=(endpoint, spec(namespace)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert keyspace(client, namespace) == dataset_keys(namespace, "head", "staging")


def test_everything_expires_at_the_same_millisecond(endpoint, client, namespace, wait_until):
    publication = Publication.begin(endpoint, spec(namespace, ttl=1.5))
    first = PartitionWriter(publication, 0, "dead")
    with first:
        first.write(*batch({"a": 0}))
        first._settle()
    reports = [write(publication, ONE, attempt="b"), write(publication, {"c": 3}, partition=1)]
    manifest = publication.commit(reports)
    names = [f"{namespace}:gold:sales:{manifest.version}:{row}" for row in "abc"]
    names.append(GoldKeys("sales", namespace).manifest(manifest.version))
    assert {client.pexpiretime(name) for name in names} == {manifest.expires_ms}
    assert manifest.expires_ms == manifest.created_ms + 1500
    rows = GoldDataset(client, "sales", namespace=namespace)
    assert rows.get("a") == {"id": "a", "n": 1}
    wait_until(lambda: not client.exists(*names))
    # First the reader that knows the version, and finds it live and without rows.
    for read in (lambda: rows.get("a"), rows.manifest, rows.verify, lambda: list(rows.scan())):
        with pytest.raises(NotPublishedError):
            read()


def test_a_load_that_outlasts_its_ttl_does_not_replace_what_is_there(
    endpoint, client, namespace, wait_until
):
    manifest = publish(endpoint, ONE, spec(namespace))
    publication = Publication.begin(endpoint, spec(namespace, ttl=0.05))
    report = write(publication, TWO)
    row = f"{namespace}:gold:sales:{publication.version}:a"
    wait_until(lambda: not client.exists(row))
    with pytest.raises(PublishError, match="ttl"):
        publication.commit([report])
    assert GoldDataset(client, "sales", namespace=namespace).verify() == manifest


def test_a_partition_reported_twice_is_refused(endpoint, client, namespace):
    publication = Publication.begin(endpoint, spec(namespace))
    reports = [write(publication, ONE, attempt=attempt) for attempt in "ab"]
    with pytest.raises(PublishError, match="twice"):
        publication.commit(reports)


def test_a_report_whose_pages_are_not_there_is_refused(endpoint, client, namespace):
    publication = Publication.begin(endpoint, spec(namespace))
    report = write(publication, ONE)
    with pytest.raises(PublishError, match="index pages"):
        publication.commit([replace(report, pages=2)])
    with pytest.raises(PublishError, match="index pages"):
        publication.commit([report, replace(report, partition=1, attempt="1.x")])
    with pytest.raises(NotPublishedError):
        GoldDataset(client, "sales", namespace=namespace).manifest()


def test_the_first_error_is_told_and_not_those_it_caused(endpoint, namespace):
    publication = Publication.begin(endpoint, spec(namespace))
    with PartitionWriter(publication, 0, "a") as stopped:
        stopped.write(*batch(ONE))
        with PartitionWriter(publication, 1, "a") as failing:
            failed = failing.refused(PublishError("the cause", "sales"))
        with pytest.raises(SupersededError) as caught:
            stopped.finish()
        also_failed = stopped.refused(caught.value)
    with pytest.raises(PublishError, match="the cause"):
        publication.commit([also_failed, failed])


@pytest.mark.parametrize(
    "options",
    [
        {"dataset": "no spaces"},
        {"dataset": ""},
        {"keep": -1},
        {"keep": 1.5},
        {"keep": "1"},
        {"keep": True},
        {"min_rows": -1},
        {"min_rows": "1"},
        {"fence": 0},
        {"fence": "7"},
        {"fence": 1.5},
        {"lineage": {"day": date(2026, 11, 23)}},
        {"lineage": "dag"},
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": float("nan")},
        {"staging_lease": 0},
        {"namespace": "{x}"},
    ],
)
def test_bad_options_are_refused_before_anything_is_sent(namespace, options):
    with pytest.raises(ConfigurationError):
        spec(**{"namespace": namespace} | options)


def test_a_wrong_password_and_missing_rights_change_nothing(endpoint, client, namespace):
    rules = ("+@all", "~other:*")
    with user(client, endpoint, f"user-{namespace}", *rules) as without_rights:
        wrong = replace(without_rights, password=Secret(SecretSource.LITERAL, "nearly"))
        for denied in (wrong, without_rights):
            with pytest.raises(AccessDeniedError) as caught:
                Publication.begin(denied, spec(namespace))
            assert "nearly" not in str(caught.value)
    assert keyspace(client, namespace) == set()


def test_rows_that_the_user_may_not_write_fail_the_publish(endpoint, client, namespace):
    rules = ("+@all", f"~{namespace}:gold:{{sales}}*")
    with user(client, endpoint, f"user-{namespace}", *rules) as limited:
        publication = Publication.begin(limited, spec(namespace))
        with pytest.raises(PublishError, match="NOPERM"):
            write(publication, ONE)
    replace(publication, endpoint=endpoint).abort()
    assert keyspace(client, namespace) == dataset_keys(namespace, "head")


def test_an_unreachable_server_is_named_soon(namespace):
    nowhere = Endpoint.from_url("redis://127.0.0.1:1?retries=0")
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
        Publication.begin(nowhere, spec(namespace))


def test_only_documented_keys_are_permanent(endpoint, client, namespace):
    publish(endpoint, ONE, spec(namespace, fence=1, ttl=60))
    other = Publication.begin(endpoint, spec(namespace, fence=1, ttl=60))
    write(other, TWO)
    roots = ("head", "fence", "versions", "staging", "attempts", "page", "events")
    allowed = tuple(f"{namespace}:gold:{{sales}}:{root}" for root in roots)
    for key in keyspace(client, namespace):
        assert client.ttl(key) > 0 or key.startswith(allowed), key


def test_upserted_rows_are_plain_keys_with_a_ttl(endpoint, client, namespace):
    template = f"{namespace}:analytics:{{id}}"
    upsert = spec(namespace, template, mode=Mode.UPSERT, ttl=60)
    manifest = publish(endpoint, ONE, upsert)
    assert client.get(f"{namespace}:analytics:a") == b'{"id":"a","n":1}'
    assert client.pexpiretime(f"{namespace}:analytics:a") == manifest.expires_ms
    later = publish(endpoint, TWO, replace(upsert, ttl=90))
    found = {row: client.get(f"{namespace}:analytics:{row}") for row in "abc"}
    assert found == {
        row: f'{{"id":"{row}","n":{n}}}'.encode() for row, n in {"a": 2, "b": 1, "c": 2}.items()
    }
    assert client.pexpiretime(f"{namespace}:analytics:a") == later.expires_ms
    assert client.pexpiretime(f"{namespace}:analytics:b") == manifest.expires_ms
    rows = GoldDataset(client, "sales", namespace=namespace)
    assert rows.get("b") == {"id": "b", "n": 1}
    with pytest.raises(ConfigurationError, match="read rows by key"):
        list(rows.scan())


def test_a_fence_that_rises_stops_an_upsert_between_batches(endpoint, client, namespace):
    def upsert(fence):
        return spec(namespace, f"{namespace}:{{id}}", mode=Mode.UPSERT, ttl=60, fence=fence)

    publication = Publication.begin(endpoint, upsert(1))
    with PartitionWriter(publication, 0, "a") as writer:
        writer.write(*batch({"a": 1}, f"{namespace}:"))
        newer = Publication.begin(endpoint, upsert(2))
        with pytest.raises(StaleFenceError):
            writer.write(*batch({"a": 3, "b": 3}, f"{namespace}:"))
        newer.commit([write(newer, {"a": 2})])
    assert client.get(f"{namespace}:a") == b'{"id":"a","n":2}'
    assert not client.exists(f"{namespace}:b")


def test_large_strings_are_written(endpoint, client, namespace):
    publication = Publication.begin(endpoint, spec(namespace))
    keys, values, checksum = batch(ONE)
    with PartitionWriter(publication, 0, "a") as writer:
        writer.write(keys.cast(pa.large_string()), values.cast(pa.large_string()), checksum)
        manifest = publication.commit([writer.finish()])
    assert GoldDataset(client, "sales", namespace=namespace).verify() == manifest


def test_what_cannot_be_swept_after_the_publish_does_not_fail_it(endpoint, client, namespace):
    publish(endpoint, ONE, spec(namespace, keep=0))
    rules = ("+@all", "-unlink", "~*")
    with user(client, endpoint, f"user-{namespace}", *rules) as unable:
        manifest = publish(unable, TWO, spec(namespace, keep=0))
    assert GoldDataset(client, "sales", namespace=namespace).verify() == manifest
    publish(endpoint, TWO, spec(namespace, keep=0))
    assert len([key for key in keyspace(client, namespace) if ":gold:sales:" in key]) == 2


def test_a_line_that_breaks_while_it_sweeps_does_not_fail_the_publish(
    proxy, endpoint, client, namespace
):
    old = publish(endpoint, numbers(0, 1000), spec(namespace, keep=0))
    publication = Publication.begin(proxy.endpoint, spec(namespace, keep=0))
    report = write(publication, ONE)
    proxy.cut_after(20_000)  # Only the removal of rows sends so much.
    manifest = publication.commit([report])
    assert proxy.cuts == 1
    assert GoldDataset(client, "sales", namespace=namespace).verify() == manifest
    assert keyspace(client, namespace) >= version_keys(namespace, old.version, ())
    last = publish(endpoint, TWO, spec(namespace, keep=0))
    assert keyspace(client, namespace) == dataset_keys(
        namespace, "head", "versions"
    ) | version_keys(namespace, last.version, TWO)


def test_a_clock_that_was_set_back_retires_no_new_version(endpoint, client, namespace):
    first = publish(endpoint, ONE, spec(namespace))
    later = first.published_ms + 3_600_000
    client.zadd(GoldKeys("sales", namespace).versions, {first.version: later})
    second = publish(endpoint, TWO, spec(namespace, keep=0))
    rows = GoldDataset(client, "sales", namespace=namespace)
    assert rows.manifest().version == second.version
    assert rows.get("c") == {"id": "c", "n": 2}
