"""A load that is felt by nobody else: slow servers, replicas behind, limits of rows and writers."""

from __future__ import annotations

import os
import signal
import threading
from itertools import pairwise
from math import ceil

import pyarrow as pa
import pytest

from nexus_redis_provider.core.clusters import Primary
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    NoRoomError,
    SupersededError,
    ValueTooLargeError,
    WriteError,
)
from nexus_redis_provider.core.gold import pacing
from nexus_redis_provider.core.gold.limits import Limits
from nexus_redis_provider.core.gold.manifests import Mode
from nexus_redis_provider.core.gold.memory import Expectation, Memory, refuse_what_does_not_fit
from nexus_redis_provider.core.gold.pacing import Pace, Window
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.gold.row_commands import ROWS_AT_ONCE
from nexus_redis_provider.core.gold.writers import PartitionWriter
from nexus_redis_provider.core.keys import GoldKeys
from tests.core.gold_datasets import (
    batch,
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
from tests.servers import scripts_run

pytestmark = pytest.mark.usefixtures("rows_may_stay")

EVICTING = ("--maxmemory", "8mb", "--maxmemory-policy", "allkeys-lru")


def wide(start, count, size=1000):
    """Rows with values of about so many bytes."""
    keys = [f"k{n}" for n in range(start, start + count)]
    return pa.array(keys), pa.array(["x" * size] * count), 0


def write_many(writer, batches, rows, size=1000):
    for number in range(batches):
        writer.write(*wide(rows * number, rows, size))


def begun(endpoint, namespace, **limits):
    return Publication.begin(endpoint, spec(namespace, limits=Limits(**limits)))


def paced(publication, client, name="0.a", most=10_000):
    return Pace(publication, name, client, most=most, check=lambda: None)


# How many rows a batch has.


def test_batches_grow_on_a_quick_server_and_halve_on_a_slow_one():
    window = Window(10_000)
    assert window.rows == 1000
    assert [window.note(0.01) for _ in range(20)] == [0.0] * 20
    assert window.rows == 10_000
    assert window.note(1.5) == 1.25, "by how much it was too slow is left to others"
    assert window.note(60.0) == 5.0
    assert window.rows == 2500
    for _ in range(20):
        window.note(1.0)
    assert window.rows == 250
    assert Window(100).rows == 100


def test_a_slow_server_gets_smaller_batches(binary, monkeypatch):
    monkeypatch.setattr(pacing, "_LONGEST_REST", 0.1)
    with (
        own_server(binary=binary) as own,
        own.endpoint.client() as client,
        PartitionWriter(begun(own.endpoint, "slow"), 0, "a") as writer,
    ):
        writer.write(*wide(0, 5000, 10))
        writer._pace._window.rows = 4000
        client.client_pause(800)
        writer.write(*wide(5000, 10, 10))
        after = writer._pace.rows
        # Now, if not before, the replies to these rows are waited for.
        writer.write(*wide(5010, 10, 10))
        assert min(after, writer._pace.rows) < 4000


# Rows a second, counted on the server's clock.


def test_all_attempts_together_stay_under_the_limit(endpoint, client, namespace):
    publication = begun(endpoint, namespace, max_rows_per_second=4000)
    began = server_us(client)

    def load(partition):
        rows = numbers(1000 * partition, 1000)
        write(publication, rows, partition)

    together([lambda number=number: load(number) for number in range(2)])
    # What was let through before the last batch, a quarter of a second's rows, has had its time.
    assert server_us(client) - began >= (2000 - 1000) / 4000 * 1e6
    assert (
        client.hget(GoldKeys("sales", namespace).attempts(publication.version), "rows") == b"2000"
    )


def test_a_low_limit_is_a_trickle_of_small_batches(endpoint, client, namespace):
    publication = begun(endpoint, namespace, max_rows_per_second=100)
    assert paced(publication, client).rows == 25
    assert paced(begun(endpoint, namespace, max_rows_per_second=1), client).rows == 1


def test_upserts_stay_under_the_limit_too(endpoint, client, namespace):
    limits = Limits(max_rows_per_second=1000)
    up = spec(namespace, f"{namespace}:{{id}}", mode="upsert", limits=limits, ttl=60)
    began = server_us(client)
    publication = Publication.begin(endpoint, up)
    publication.commit([write(publication, numbers(0, 750))])
    assert server_us(client) - began >= 0.5e6


# Writers at a time.


@unspread
def test_no_more_attempts_write_at_once_than_may(endpoint, client, namespace):
    publication = begun(endpoint, namespace, max_writers=1)
    seen: list[int] = []
    over = threading.Event()

    def look():
        with endpoint.client() as onlooker:
            while not over.is_set():
                seen.append(
                    onlooker.zcard(GoldKeys("sales", namespace).writers(publication.version))
                )

    onlooker = threading.Thread(target=look)
    onlooker.start()
    with client.monitor() as monitor:
        loads = [
            lambda number=number: write(publication, numbers(1000 * number, 1000), number)
            for number in range(4)
        ]
        together(loads)
        client.set(f"{namespace}:end", 1, ex=60)
        row, who = f"{namespace}:gold:sales:", list[str]()
        for command in monitor.listen():
            if f"{namespace}:end" in command["command"]:
                break
            if command["command"].startswith(f"MSETNX {row}"):
                who.append(command["client_port"])
    over.set()
    onlooker.join()
    assert len(who) == 4 * ceil(1000 / ROWS_AT_ONCE)
    assert max(seen) == 1
    # Rows of an attempt stand together: nobody wrote between its first and its last.
    assert sum(a != b for a, b in pairwise(who)) == 3


def test_who_does_not_write_has_no_connection_to_write_on(endpoint, client, namespace):
    publication = begun(endpoint, namespace, max_writers=1)
    with PartitionWriter(publication, 0, "a") as writer:
        writer.write(*batch(numbers(0, 10)))
        writer.write(*batch(numbers(10, 10)))
        stream = writer._stream
        assert not (stream._lines if endpoint.is_cluster else stream._connection.is_connected)
        assert writer.finish().rows == 20


def test_who_died_in_its_turn_is_not_waited_for_for_ever(endpoint, client, namespace, monkeypatch):
    monkeypatch.setattr(pacing, "_TURN_MS", 300)
    publication = begun(endpoint, namespace, max_writers=1)
    paced(publication, client, "0.dead").admit(1)
    write(publication, {"a": 1}, 1)


def test_who_waits_writes_when_another_is_ready(endpoint, client, namespace, wait_until):
    publication = begun(endpoint, namespace, max_writers=1)
    first, order = paced(publication, client, "0.first"), list[str]()
    first.admit(1)
    asked = scripts_run(client)

    def wait():
        with endpoint.client() as own:
            paced(publication, own, "1.second").admit(1)
            order.append("second")

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_until(lambda: scripts_run(client) > asked + 3)
    order.append("first is ready")
    first.note(0.0, 0)
    waiting.join()
    assert order == ["first is ready", "second"]


# Replicas.


def test_a_replica_that_stands_still_holds_the_load_and_is_not_dropped(
    binary, monkeypatch, wait_until, caplog
):
    caplog.set_level("INFO", pacing.__name__)
    monkeypatch.setattr(pacing, "_LOOK_AGAIN", 0.02)
    monkeypatch.setattr(pacing, "_WAITING_FOR_REPLICAS", 1 << 20)
    monkeypatch.setattr(pacing, "_LOOK_BYTES", 1 << 20)
    small = (
        *("--repl-backlog-size", "16kb", "--repl-diskless-sync-delay", "0"),
        *("--client-output-buffer-limit", "replica 12mb 0 0"),
    )
    with own_server(*small, binary=binary) as own, own.endpoint.client() as client:
        follow = ("--replicaof", "127.0.0.1", str(own.port))
        with own_server(*follow, binary=binary) as replica:
            wait_until(lambda: "'online'" in str(client.info("replication")))
            syncs = client.info("stats")["sync_full"]
            publication = begun(own.endpoint, "held")
            os.kill(replica.pid, signal.SIGSTOP)
            reports = []

            def load():
                with PartitionWriter(publication, 0, "a") as writer:
                    write_many(writer, 40, 1000)
                    reports.append(writer.finish())

            loading = threading.Thread(target=load)
            loading.start()
            try:
                wait_until(lambda: caplog.text.count("bytes wait for replicas") > 20)
                assert loading.is_alive(), "40 MB do not fit into what may wait"
            finally:
                os.kill(replica.pid, signal.SIGCONT)
            loading.join()
            publication.commit(reports)
            assert client.info("stats")["sync_full"] == syncs, "the replica was never dropped"
            assert client.info("replication")["connected_slaves"] == 1
            assert reports[0].rows == 40_000


def test_what_waits_for_a_replica_too_long_is_an_error(binary, monkeypatch, wait_until):
    monkeypatch.setattr(pacing, "_WAITING_FOR_REPLICAS", -1)
    monkeypatch.setattr(pacing, "_PATIENCE", 0.1)
    with (
        own_server(binary=binary) as own,
        PartitionWriter(begun(own.endpoint, "held"), 0, "a") as writer,
        pytest.raises(Exception, match=r"'sales': the load waited .* bytes wait for replicas"),
    ):
        writer.write(*batch({"a": 1}))


# Memory.


def test_what_would_not_fit_is_refused_before_it_does_harm(binary):
    with own_server(*EVICTING, binary=binary) as own:
        manifest = publish(own.endpoint, numbers(0, 2000), spec("full"))
        publication = begun(own.endpoint, "full", expected_rows=100_000)
        with PartitionWriter(publication, 0, "a") as writer:
            with pytest.raises(NoRoomError) as caught:
                write_many(writer, 100, 1000, 200)
            report = writer.refused(caught.value)
        assert report.error is caught.value
        publication.abort()
        with own.endpoint.client() as client:
            assert client.info("stats")["evicted_keys"] == 0
            assert GoldDataset(client, "sales", namespace="full").verify() == manifest
            left = {name for name in keyspace(client, "full") if ":expected:" not in name}
            pages = ["0.a:0", "0.a:1"]
            assert left == dataset_keys("full", "head", "versions") | version_keys(
                "full", manifest.version, numbers(0, 2000), pages
            )
        error = caught.value
        assert error.limit == 8 << 20
        assert str(error).startswith("Gold dataset 'sales': 100,000 rows of ")
        assert f"need {error.needed:,} bytes more" in str(error)
        assert "maxmemory 8,388,608" in str(error)
        # The sample says what a row really takes.
        assert 250 * 99_000 < error.needed < 400 * 99_000


def test_without_a_number_as_many_rows_as_are_live_must_fit(binary):
    with own_server("--maxmemory", "16mb", binary=binary) as own:
        publish(own.endpoint, numbers(0, 40_000), spec("full", keep=0))
        with own.endpoint.client() as client:
            for number in range(18):
                client.set(f"filler:{number}", "x" * 400_000)
        with (
            PartitionWriter(begun(own.endpoint, "full"), 0, "a") as writer,
            pytest.raises(
                NoRoomError, match=r" 40,000 rows of \d+ bytes \(as many as the live ver"
            ),
        ):
            writer.write(*batch(numbers(0, 40_000)))


def test_nothing_is_evicted_where_nobody_knows_how_many_rows_come(binary):
    with own_server(*EVICTING, binary=binary) as own:
        with (
            PartitionWriter(begun(own.endpoint, "full"), 0, "a") as writer,
            pytest.raises(NoRoomError, match="the rows so far have used up what was free"),
        ):
            write_many(writer, 1000, 100)
        with own.endpoint.client() as client:
            assert client.info("stats")["evicted_keys"] == 0


@pytest.mark.parametrize("limits", [{}, {"max_rows_per_second": 100_000}, {"max_writers": 1}])
@pytest.mark.parametrize("mode", [Mode.SNAPSHOT, Mode.UPSERT])
def test_a_full_server_is_the_error_whatever_the_limits(binary, mode, limits):
    what = spec("full", "full:{id}", mode=mode, limits=Limits(memory_margin=None, **limits))
    with own_server(binary=binary) as own, own.endpoint.client() as client:
        publication = Publication.begin(own.endpoint, what)
        with PartitionWriter(publication, 0, "a") as writer:
            writer.write(*wide(0, 10))
            client.config_set("maxmemory", 1)
            with pytest.raises(WriteError, match="> 'maxmemory'") as caught:  # noqa: PT012 - one of both
                writer.write(*wide(10, 10))
                writer.finish()
            report = writer.refused(caught.value)
        with PartitionWriter(publication, 0, "again") as again, pytest.raises(SupersededError):
            again.check_staged()
        with pytest.raises(WriteError, match="> 'maxmemory'"):
            publication.commit([report])


def test_the_projection_is_what_the_load_then_takes(binary):
    with own_server("--maxmemory", "1gb", binary=binary) as own, own.endpoint.client() as client:
        publication = begun(own.endpoint, "fits", expected_rows=50_000)
        before = client.info("memory")["used_memory"]
        with PartitionWriter(publication, 0, "a") as writer:
            write_many(writer, 50, 1000, 100)
            report = writer.finish()
        projected = writer._pace._row_bytes * report.rows
        # What buffers of connections take comes and goes.
        taken = client.info("memory")["used_memory"] - before
        assert projected == pytest.approx(taken, rel=0.2)


def test_a_server_without_a_limit_is_not_asked_for_room(client):
    nothing = Memory.of({"used_memory": 1 << 40, "maxmemory": 0})
    assert nothing.room(0.05) is None
    refuse_what_does_not_fit(
        *("sales", Primary("here", client, 1.0), nothing, 0.05),
        expected=Expectation(10**12),
        staged=0,
        row_bytes=100.0,
    )


def test_a_node_of_a_cluster_needs_room_for_its_share(client):
    memory = Memory.of({"used_memory": 0, "maxmemory": 40_000})
    load = {"expected": Expectation(1000), "staged": 0, "row_bytes": 100.0}
    refuse_what_does_not_fit("sales", Primary("a:1", client, 0.33), memory, 0.1, **load)
    with pytest.raises(NoRoomError, match=r"40% of 1,000 rows of 100 bytes, to be written to a:1"):
        refuse_what_does_not_fit("sales", Primary("a:1", client, 0.4), memory, 0.1, **load)


def test_what_replicas_have_yet_to_read_does_not_count_as_used():
    info = {"used_memory": 1000, "mem_not_counted_for_evict": 400, "maxmemory": 2000}
    assert Memory.of(info).room(0.1) == 1200


# Values.


@pytest.mark.parametrize("mode", ["snapshot", "upsert"])
def test_too_large_a_value_is_refused_with_its_key(endpoint, client, namespace, mode):
    limits = Limits(max_value_bytes=1000)
    publication = Publication.begin(
        endpoint, spec(namespace, f"{namespace}:{{id}}", mode=mode, limits=limits)
    )
    keys = pa.array(["a", "b", "c"])
    values = pa.array(["x" * 1000, "ä" * 501, None], pa.string())
    with PartitionWriter(publication, 0, "a") as writer:
        with pytest.raises(ValueTooLargeError, match=r"'b' has 1,002 bytes.*max_value_bytes=1,000"):
            writer.write(keys, values, 0)
        report = writer.refused(ValueTooLargeError("sales", "b", 1002, 1000))
    with pytest.raises(ValueTooLargeError):
        publication.commit([report])
    publication.abort()
    left = {name for name in keyspace(client, namespace) if not name.endswith(":fence")}
    assert left == dataset_keys(namespace, "head")


def test_a_megabyte_is_enough_unless_more_is_asked_for(endpoint, namespace):
    for limits, wanted in (({}, False), ({"max_value_bytes": None}, True)):
        with PartitionWriter(begun(endpoint, namespace, **limits), 0, "a") as writer:
            writer.write(*wide(0, 1, 1_000_000))
            if wanted:
                writer.write(*wide(1, 1, 1_000_001))
                writer.finish()
            else:
                with pytest.raises(ValueTooLargeError):
                    writer.write(*wide(1, 1, 1_000_001))


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_rows_per_second": 0},
        {"max_writers": -1},
        {"max_value_bytes": True},
        {"expected_rows": 0},
        {"expected_rows": 1.5},
        {"memory_margin": 1},
        {"memory_margin": -0.1},
        {"memory_margin": float("nan")},
    ],
)
def test_limits_that_make_no_sense_are_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ConfigurationError, match=f"{name} is .*, not {value}"):
        Limits(**wrong)
    with pytest.raises(ConfigurationError, match=f"{name} is .*, not '5'"):
        Limits(**{name: "5"})


def server_us(client):
    seconds, micros = client.time()
    return seconds * 1_000_000 + micros


def together(loads):
    threads = [threading.Thread(target=load) for load in loads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
