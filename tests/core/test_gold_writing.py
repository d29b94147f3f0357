"""Attempts at partitions: repeated keys, failures half-way, rivals, servers in trouble."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace

import pyarrow as pa
import pytest

from nexus_redis_provider.core.errors import (
    DuplicateKeyError,
    NexusRedisError,
    NullKeyError,
    PublishError,
    RefusedError,
    SupersededError,
    UnreachableError,
    WriteError,
)
from nexus_redis_provider.core.gold import writers
from nexus_redis_provider.core.gold.limits import Limits
from nexus_redis_provider.core.gold.manifests import Layout
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.gold.writers import PartitionWriter
from nexus_redis_provider.core.keys import GoldKeys
from tests.core.gold_datasets import (
    arguments,
    dataset_keys,
    keyspace,
    numbers,
    publish,
    spec,
    version_keys,
    write,
)
from tests.guarded import own_server
from tests.kinds import unspread

pytestmark = pytest.mark.usefixtures("rows_may_stay")


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    """A hundred rows do for what ten thousand would show."""
    monkeypatch.setattr(writers, "_MAX_ROWS", 100)
    monkeypatch.setattr(writers, "_WATCHED_ROWS", 100)


@pytest.fixture(params=[Layout.JSON, Layout.HASH])
def layout(request):
    return request.param


@pytest.fixture
def publication(endpoint, namespace, layout):
    return Publication.begin(endpoint, spec(namespace, layout=layout))


def begun(publication, rows, partition=0, attempt="first"):
    """An attempt that has written these rows, whose process goes on."""
    writer = PartitionWriter(publication, partition, attempt).__enter__()
    writer.write(*arguments(publication, rows))
    writer._settle()
    return writer


def dead(publication, rows, partition=0, attempt="first"):
    """An attempt that has written these rows, and nothing after them."""
    begun(publication, rows, partition, attempt).__exit__(None, None, None)


def write_on(writer, rows, per_batch=100):
    """The rest of an attempt."""
    rows = list(rows.items())
    for start in range(0, len(rows), per_batch):
        writer.write(*arguments(writer._publication, rows[start : start + per_batch]))
    return writer.finish()


def check_exact(client, namespace, manifest, rows, pages):
    """Readers see the rows, and there is no key besides them."""
    dataset = GoldDataset(client, "sales", namespace=namespace)
    assert dataset.verify() == manifest
    assert {row["id"]: row["n"] for row in dataset.scan()} == rows
    assert manifest.rows == len(rows)
    assert keyspace(client, namespace) == dataset_keys(
        namespace, "head", "versions"
    ) | version_keys(namespace, manifest.version, rows, pages)


@pytest.mark.parametrize("gap", [1, 99, 100, 101])
def test_a_key_repeated_in_a_partition_is_refused(publication, gap):
    rows = [*numbers(0, gap).items(), ("k0", 7)]
    with pytest.raises(DuplicateKeyError, match="'k0'") as caught:
        write(publication, rows)
    assert caught.value.rows == 1


def test_a_key_repeated_in_batches_of_a_partition_is_refused(publication):
    with PartitionWriter(publication, 0, "a") as writer:
        writer.write(*arguments(publication, {"a": 1, "b": 1}))
        writer.write(*arguments(publication, {"c": 1, "b": 1, "a": 1}))
        with pytest.raises(DuplicateKeyError) as caught:
            writer.finish()
    assert (caught.value.key in "ab", caught.value.rows) == (True, 2)


def test_a_key_repeated_in_another_partition_is_refused(publication):
    write(publication, {"a": 1, "b": 1}, partition=1)
    with pytest.raises(DuplicateKeyError, match="'b'"):
        write(publication, {"b": 1, "c": 1}, partition=11)


def test_a_null_key_is_refused(publication):
    keys, *rest = arguments(publication, {"a": 1, "b": 1})
    with PartitionWriter(publication, 0, "a") as writer, pytest.raises(NullKeyError) as caught:
        writer.write(keys.take(pa.array([0, None], pa.int32())), *rest)
    assert (caught.value.rows, caught.value.columns) == (1, ("id",))


@pytest.mark.parametrize("written", [1, 25, 100, 150])
def test_a_second_attempt_publishes_exactly(publication, client, namespace, written):
    rows = numbers(0, 150, 2)
    dead(publication, numbers(0, written, 1))
    report = write(publication, rows, attempt="second")
    manifest = publication.commit([report])
    check_exact(client, namespace, manifest, rows, ["0.second:0", "0.second:1"])


def test_a_second_attempt_with_other_keys_leaves_none_of_the_first(publication, client, namespace):
    dead(publication, {"a": 1, "b": 1, "c": 1})
    reports = [
        write(publication, {"b": 2, "d": 2}, attempt="second"),
        write(publication, {"x": 2}, partition=1),
    ]
    manifest = publication.commit(reports)
    check_exact(client, namespace, manifest, {"b": 2, "d": 2, "x": 2}, ["0.second:0", "1.a:0"])


def test_a_key_that_moved_to_another_partition_is_kept(publication, client, namespace):
    """The other partition wrote it first; the attempt that died had announced it as its own."""
    moved = write(publication, {"a": 2}, partition=1)
    dead(publication, {"a": 1, "b": 1})
    report = write(publication, {"b": 2}, attempt="second")
    manifest = publication.commit([report, moved])
    check_exact(client, namespace, manifest, {"a": 2, "b": 2}, ["0.second:0", "1.a:0"])


def test_a_second_attempt_does_not_hide_keys_repeated_within_it(publication):
    dead(publication, {"a": 1, "b": 1})
    with pytest.raises(DuplicateKeyError, match="'b'"):
        write(publication, [("a", 1), ("b", 1), ("b", 2)], attempt="second")


def test_a_second_attempt_does_not_hide_keys_of_another_partition(publication):
    write(publication, {"b": 2}, partition=1)
    dead(publication, {"a": 1, "b": 1})
    with pytest.raises(DuplicateKeyError, match="'b'"):
        write(publication, {"a": 1, "b": 1}, attempt="second")


def test_a_key_repeated_while_a_rival_announces_it_is_refused(publication):
    with PartitionWriter(publication, 0, "first") as writer:
        writer.write(*arguments(publication, {"a": 1}))
        writer._settle()
        dead(publication, {"a": 1}, attempt="rival")
        writer.write(*arguments(publication, {"a": 2}))
        with pytest.raises(DuplicateKeyError):
            writer.finish()


@pytest.mark.parametrize("reported", [0, 1])
def test_of_two_attempts_at_once_one_is_published(publication, client, namespace, reported):
    rows = numbers(0, 250, 3)
    halves = [dict(list(rows.items())[:125]), dict(list(rows.items())[125:])]
    reports: dict[int, object] = {}

    def attempt(number: int) -> None:
        with PartitionWriter(publication, 0, f"rival{number}") as writer:
            for half in halves:
                writer.write(*arguments(publication, half))
            reports[number] = writer.finish()

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manifest = publication.commit([reports[reported]])
    pages = [f"0.rival{reported}:{n}" for n in range(4)]
    check_exact(client, namespace, manifest, rows, pages)


def test_a_rival_that_is_slower_changes_nothing_after_the_publish(publication, client, namespace):
    other = write(publication, {"x": 2}, partition=1)
    slow = begun(publication, {"a": 1, "x": 1})
    manifest = publication.commit([write(publication, {"a": 2, "b": 2}, attempt="fast"), other])
    expected = keyspace(client, namespace)
    with pytest.raises(SupersededError, match="gone"):
        write_on(slow, {"b": 1, "c": 1, "x": 1})
    slow.refused(SupersededError("late", "sales"))
    assert keyspace(client, namespace) == expected
    rows = {"a": 2, "b": 2, "x": 2}
    check_exact(client, namespace, manifest, rows, ["0.fast:0", "1.a:0"])


def test_a_rival_that_ends_after_the_publish_overwrites_nothing(publication, client, namespace):
    fast = write(publication, {"a": 2}, attempt="fast")
    slow = begun(publication, {"a": 1}, attempt="slow")
    manifest = publication.commit([fast])
    with pytest.raises(SupersededError):
        slow.finish()
    check_exact(client, namespace, manifest, {"a": 2}, ["0.fast:0"])


def test_a_rival_that_dies_leaves_no_value_of_its_own(publication, client, namespace):
    fast = write(publication, {"a": 2}, attempt="fast")
    dead(publication, {"a": 1}, attempt="slow")
    manifest = publication.commit([fast])
    check_exact(client, namespace, manifest, {"a": 2}, ["0.fast:0"])


def test_a_rival_that_writes_while_the_version_is_committed_is_left_out(
    publication, client, namespace, monkeypatch
):
    """Between the removal of what rivals wrote and the flip, one writes on."""
    report = write(publication, {"a": 2}, attempt="fast")
    flip, writers = Publication._flip, []

    def write_and_flip(self, *args):
        if not writers:
            writers.append(begun(publication, {"a": 1, "z": 1}, attempt="slow"))
        return flip(self, *args)

    monkeypatch.setattr(Publication, "_flip", write_and_flip)
    manifest = publication.commit([report])
    assert writers
    check_exact(client, namespace, manifest, {"a": 2}, ["0.fast:0"])


@pytest.mark.parametrize("wait", [True, False])
def test_a_writer_of_an_aborted_version_stops_and_leaves_nothing(
    publication, client, namespace, wait
):
    with PartitionWriter(publication, 0, "a") as writer:
        writer.write(*arguments(publication, numbers(0, 200)))
        if wait:
            writer._settle()
        publication.abort()
        with pytest.raises(SupersededError, match="gone"):
            write_on(writer, numbers(200, 400))
    assert keyspace(client, namespace) == dataset_keys(namespace, "head")


@unspread
@pytest.mark.parametrize("layout", [Layout.JSON])
def test_the_last_batch_of_an_aborted_version_is_not_left_behind(publication, client, namespace):
    """The sweep reads the index page of a batch before the server reads its rows."""
    with PartitionWriter(publication, 0, "a") as writer:
        sent, send = [], writer._stream._connection.send_packed_command

        def send_page_then_rows(commands, **options):
            page, rows = commands
            send([page], **options)
            sent.append(writer._stream._replies.line())
            publication.abort()
            send([rows], **options)
            writer._stream._replies._buffer[:0] = b":1\r\n"

        writer._stream._connection.send_packed_command = send_page_then_rows
        writer.write(*arguments(publication, {"a": 1, "b": 1}))
        writer._stream._connection.send_packed_command = send
        assert sent == [b":1"]
        with pytest.raises(SupersededError, match="gone"):
            writer.finish()
    assert keyspace(client, namespace) == dataset_keys(namespace, "head")


def test_an_attempt_that_is_refused_stops_the_others_before_they_read(publication):
    with PartitionWriter(publication, 0, "a") as failing:
        failing.refused(PublishError("the cause", "sales"))
    with PartitionWriter(publication, 1, "a") as other, pytest.raises(SupersededError):
        other.check_staged()


def test_a_null_key_leaves_nothing_of_the_batch_before_it(publication, client, namespace):
    """Rows under way when the attempt gives up come after the sweep of another process."""
    keys, *rest = arguments(publication, {"z": 1})
    with PartitionWriter(publication, 0, "a") as writer:
        writer.write(*arguments(publication, numbers(0, 100)))
        with pytest.raises(NullKeyError) as caught:
            writer.write(keys.take(pa.array([None], pa.int32())), *rest)
        writer.refused(caught.value)
        publication.abort()
    assert keyspace(client, namespace) == dataset_keys(namespace, "head")


@pytest.mark.parametrize("count", [3_000, 40_000, 80_000])
def test_a_connection_that_breaks_is_told_and_the_next_attempt_publishes(
    proxy, publication, client, namespace, count
):
    rows = numbers(0, 1_000, 1)
    proxy.cut_after(count)
    with pytest.raises(UnreachableError, match="cannot be reached"):
        write(replace(publication, endpoint=proxy.endpoint), rows)
    assert proxy.cuts == 1
    report = write(publication, rows, attempt="second")
    manifest = publication.commit([report])
    check_exact(client, namespace, manifest, rows, [f"0.second:{n}" for n in range(10)])


FULL = ("--maxmemory", "4mb")
# Else no row would be written that does not fit.
UNCHECKED = Limits(memory_margin=None)


BIG = {f"k{n}-{'x' * 500}": n for n in range(20_000)}


def test_a_full_server_refuses_the_rows_and_keeps_the_old_version(binary, layout):
    with own_server(*FULL, "--maxmemory-policy", "noeviction", binary=binary) as own:
        manifest = publish(own.endpoint, {"a": 1}, spec("full"))
        publication = Publication.begin(own.endpoint, spec("full", layout=layout, limits=UNCHECKED))
        with PartitionWriter(publication, 0, "a") as writer:
            with pytest.raises(WriteError, match="OOM") as caught:
                write_on(writer, BIG)
            report = writer.refused(caught.value)
        with pytest.raises(WriteError, match="OOM"):
            publication.commit([report])
        publication.abort()
        with own.endpoint.client() as client:
            assert GoldDataset(client, "sales", namespace="full").verify() == manifest
            assert keyspace(client, "full") == dataset_keys(
                "full", "head", "versions"
            ) | version_keys("full", manifest.version, "a")


def test_a_server_that_cannot_save_is_the_error_and_not_what_failed_after_it(
    binary, layout, wait_until
):
    with own_server(binary=binary) as own, own.endpoint.client() as client:
        publication = Publication.begin(own.endpoint, spec("unsaved", layout=layout))
        with PartitionWriter(publication, 0, "a") as writer:
            writer.write(*arguments(publication, {"a": 1}))
            writer._settle()
            (own.directory / "dump.rdb").mkdir()  # Where the server saves to.
            client.config_set("save", "3600 1")
            client.bgsave()
            wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
            with pytest.raises(WriteError, match="MISCONF") as caught:
                write_on(writer, {"b": 1})
            with pytest.raises(WriteError, match="MISCONF"):
                writer.check_staged()
            report = writer.refused(caught.value)
        with pytest.raises(WriteError, match="MISCONF"):
            publication.commit([report])
        publication.abort()
        with pytest.raises(RefusedError, match="MISCONF"):
            Publication.begin(own.endpoint, spec("unsaved"))
        client.config_set("save", "")  # Else it does not end before it has saved.


def test_evictions_fail_the_publish(binary):
    with own_server(*FULL, "--maxmemory-policy", "allkeys-lru", binary=binary) as own:
        publication = Publication.begin(own.endpoint, spec("evicting", limits=UNCHECKED))
        writer = PartitionWriter(publication, 0, "a")
        with writer, pytest.raises(NexusRedisError) as caught:
            publication.commit([write_on(writer, BIG, per_batch=1000)])
        # Its staging area may be among what was evicted.
        assert "evicted" in str(caught.value) or "gone" in str(caught.value)


def test_a_server_that_restarts_loses_the_load_and_says_so(binary):
    with own_server(binary=binary) as own:
        publication = Publication.begin(own.endpoint, spec("restart"))
        report = write(publication, {"a": 1})
        with PartitionWriter(publication, 1, "a") as writer:
            writer.write(*arguments(publication, {"b": 1}))
            own.stop()
            own.start()
            with pytest.raises(UnreachableError):
                write_on(writer, {"c": 1, "d": 1}, per_batch=1)
        with pytest.raises(PublishError, match="restarted"):
            publication.commit([report])
        manifest = publish(own.endpoint, {"a": 2}, spec("restart"))
        with own.endpoint.client() as client:
            assert GoldDataset(client, "sales", namespace="restart").verify() == manifest


def test_a_restart_between_two_turns_to_write_is_what_the_publisher_hears_of(binary):
    """Who waits for its turn has no connection that breaks: the server just knows nothing."""
    with own_server(binary=binary) as own:
        plan = spec("restart", limits=Limits(max_writers=1))
        publication = Publication.begin(own.endpoint, plan)
        with PartitionWriter(publication, 0, "a") as writer:
            writer.write(*arguments(publication, {"a": 1}))
            own.stop()
            own.start()
            with pytest.raises(WriteError, match="NOSCRIPT") as caught:
                write_on(writer, {"b": 1})
            report = writer.refused(caught.value)
        with pytest.raises(PublishError, match="restarted or failed over"):
            publication.commit([report])


def test_a_script_cache_that_is_flushed_leaves_no_row_behind(binary):
    with own_server(binary=binary) as own, own.endpoint.client() as client:
        publication = Publication.begin(own.endpoint, spec("flushed"))
        with PartitionWriter(publication, 0, "a") as writer:
            writer.write(*arguments(publication, {"a": 1}))
            client.script_flush()
            with pytest.raises(WriteError, match="NOSCRIPT") as caught:
                write_on(writer, {"b": 1})
            writer.refused(caught.value)
        publication.abort()
        assert keyspace(client, "flushed") == dataset_keys("flushed", "head")


def test_a_silent_server_costs_no_more_than_its_timeouts(binary):
    with own_server(binary=binary) as own:
        patience = replace(own.endpoint, read_timeout=0.3, connect_timeout=0.3, retries=1)
        publication = Publication.begin(patience, spec("silent"))
        with PartitionWriter(publication, 0, "a") as writer:
            writer.write(*arguments(publication, {"a": 1}))
            os.kill(own.pid, signal.SIGSTOP)
            try:
                for act in (
                    lambda: write_on(writer, numbers(0, 1_000)),
                    publication.abandon,
                    lambda: publication.commit([]),
                    lambda: Publication.begin(patience, spec("silent")),
                ):
                    began = time.monotonic()
                    with pytest.raises(UnreachableError):
                        act()
                    assert time.monotonic() - began < 5
            finally:
                os.kill(own.pid, signal.SIGCONT)


def test_a_lease_lives_as_long_as_its_writers_write(endpoint, client, namespace):
    publication = Publication.begin(endpoint, spec(namespace, staging_lease=60))
    staging = GoldKeys("sales", namespace).staging
    begun_at = client.zscore(staging, publication.version)
    with PartitionWriter(publication, 0, "a") as writer:
        writer.write(*arguments(publication, {"a": 1}))
        writer._settle()
        paged_at = client.zscore(staging, publication.version)
        writer.finish()
    assert begun_at < paged_at <= client.zscore(staging, publication.version)
