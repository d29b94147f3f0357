"""Readers see one whole version at a time, whatever publishers do meanwhile."""

from __future__ import annotations

import asyncio
import threading

import pytest

from nexus_redis_provider.core import exchanges
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    GoldError,
    NotPublishedError,
    RefusedError,
    ServerError,
)
from nexus_redis_provider.core.gold import readers, talks
from nexus_redis_provider.core.gold.history import rollback
from nexus_redis_provider.core.gold.manifests import Layout, Mode
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import AsyncGoldDataset, GoldDataset
from tests.core.gold_datasets import numbers, publish, publish_packed, spec, write
from tests.kinds import unspread, with_hashes

pytestmark = pytest.mark.usefixtures("rows_may_stay")

ROWS = 1_000


@pytest.fixture
def rows(client, namespace):
    return GoldDataset(client, "sales", namespace=namespace)


DELTA = {"layout": Layout.PACKED, "mode": Mode.DELTA}


class Publisher(threading.Thread):
    """Publishes versions, each with its number in every row, until told to stop."""

    def __init__(self, endpoint, spec):
        super().__init__(daemon=True)
        self._endpoint, self._spec = endpoint, spec
        self.published = 0
        self._done = threading.Event()
        self.publish()

    def publish(self):
        # The count is raised first: readers may see a version before its publisher returns.
        self.published += 1
        # Some rows stay as they were, for deltas.
        rows = numbers(0, ROWS, self.published) | numbers(ROWS, ROWS)
        publish_as = publish_packed if self._spec.layout is Layout.PACKED else publish
        publish_as(self._endpoint, rows, self._spec)

    def run(self):
        while not self._done.is_set():
            self.publish()

    def stop(self):
        self._done.set()
        self.join()


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("kind", [{}, {"layout": Layout.PACKED}, DELTA])
async def test_readers_never_see_a_mix_nor_a_gap_nor_the_past(endpoint, namespace, keep, kind):
    publisher = Publisher(endpoint, spec(namespace, keep=keep, **kind))
    faults: list[object] = []
    seen: list[int] = []

    def look(found, before):
        values = {row and row["n"] for row in found}
        if len(values) > 1 or None in values or min(values) < before:
            faults.append((before, values))
        seen.extend(values)
        return max(value or 0 for value in values)

    def read(keys):
        with endpoint.client() as own:
            dataset, last = GoldDataset(own, "sales", namespace=namespace), 0
            while publisher.is_alive():
                last = look(dataset.get_many(keys), last)

    few, many = [f"k{n}" for n in range(5)], [f"k{n}" for n in range(ROWS)]
    readers = [threading.Thread(target=read, args=(keys,)) for keys in (few, many)]
    publisher.start()
    for reader in readers:
        reader.start()
    async with endpoint.async_client() as own:
        dataset, last = AsyncGoldDataset(own, "sales", namespace=namespace), 0
        while len(set(seen)) <= 10 and not faults:
            last = look(await dataset.get_many(few), last)
    await asyncio.to_thread(publisher.stop)
    for reader in readers:
        reader.join()
    assert not faults


def test_rows_are_never_missing_when_the_version_moves_within_a_read(
    endpoint, namespace, client, rows, monkeypatch
):
    """Every command of a read may have another client's commands before it."""
    publish(endpoint, {"a": 1}, spec(namespace, keep=0))
    assert rows.get("a") == {"id": "a", "n": 1}
    pending = [2]

    def execute_apart(_, commands):
        replies = []
        for command in commands:
            replies.append(client.execute_command(*command))
            if pending:
                publish(endpoint, {"a": pending.pop()}, spec(namespace, keep=0))
        return replies

    monkeypatch.setattr(talks, "execute_all", execute_apart)
    assert rows.get("a") == {"id": "a", "n": 2}


def test_a_dataset_that_was_never_published(rows, client, namespace):
    for read in (rows.manifest, rows.verify, lambda: rows.get("a"), lambda: list(rows.scan())):
        with pytest.raises(NotPublishedError, match="'sales'"):
            read()
    assert rows.get_many([]) == []
    assert client.keys(f"{namespace}*") == []


async def test_the_async_reader_says_and_sees_the_same(endpoint, namespace):
    async with endpoint.async_client() as own:
        dataset = AsyncGoldDataset(own, "sales", namespace=namespace)
        for read in (dataset.manifest, lambda: dataset.get("a"), lambda: anext(dataset.scan())):
            with pytest.raises(NotPublishedError):
                await read()
        await asyncio.to_thread(publish, endpoint, numbers(0, 2_500, 7), spec(namespace))
        assert (await dataset.manifest()).rows == 2_500
        found = {row["id"]: row["n"] async for row in dataset.scan()}
        assert found == numbers(0, 2_500, 7)
        assert await dataset.get("nowhere") is None
        assert await dataset.get_many([]) == []


def test_readers_follow_at_once(endpoint, namespace, rows):
    for number in range(5):
        publish(endpoint, {"a": number}, spec(namespace))
        assert rows.get("a") == {"id": "a", "n": number}


def test_a_staged_version_is_invisible(endpoint, namespace, rows):
    publish(endpoint, {"a": 1}, spec(namespace))
    publication = Publication.begin(endpoint, spec(namespace))
    report = write(publication, {"a": 2})
    assert rows.get("a") == {"id": "a", "n": 1}
    publication.commit([report])
    assert rows.get("a") == {"id": "a", "n": 2}


@pytest.mark.parametrize("change", ["changed", "removed", "swapped"])
def test_verify_finds_what_was_done_to_rows(endpoint, namespace, client, rows, change):
    manifest = publish(endpoint, {"a": 1, "b": 2}, spec(namespace))
    assert rows.verify() == manifest
    one, other = (f"{namespace}:gold:sales:{manifest.version}:{row}" for row in "ab")
    if change == "changed":
        client.set(one, b'{"id":"a","n":3}')
    elif change == "removed":
        client.delete(one)
    else:
        ones, others = client.get(one), client.get(other)
        client.set(one, others)
        client.set(other, ones)
    with pytest.raises(GoldError, match="published") as caught:
        rows.verify()
    assert not isinstance(caught.value, NotPublishedError)


def test_a_scan_keeps_to_the_version_it_began_with(endpoint, namespace, rows):
    publish(endpoint, numbers(0, 2_500, 1), spec(namespace, keep=1))
    scan = rows.scan()
    next(scan)
    publish(endpoint, numbers(0, 10, 2), spec(namespace, keep=1))
    assert [row["n"] for row in scan] == [1] * 2_499


def test_a_scan_of_a_version_that_is_removed_says_so(endpoint, namespace, rows):
    version = publish(endpoint, numbers(0, 2_500, 1), spec(namespace, keep=0)).version
    scan = rows.scan()
    next(scan)
    publish(endpoint, numbers(0, 10, 2), spec(namespace, keep=0))
    with pytest.raises(NotPublishedError, match=version):
        list(scan)


def test_a_verification_of_a_version_that_is_removed_does_not_blame_its_rows(
    endpoint, namespace, rows, monkeypatch
):
    publish(endpoint, numbers(0, 2_500, 1), spec(namespace, keep=0))
    chunks = readers.walk

    def overtaken(client, steps):
        for number, chunk in enumerate(chunks(client, steps)):
            if number == 1:
                publish(endpoint, {"a": 2}, spec(namespace, keep=0))
            yield chunk

    monkeypatch.setattr(readers, "walk", overtaken)
    with pytest.raises(NotPublishedError):
        rows.verify()


@pytest.mark.parametrize("key", [("a", "b"), {"other": "a"}, 1.5, None])
def test_keys_that_do_not_fit_are_refused(endpoint, namespace, rows, key):
    publish(endpoint, {"a": 1}, spec(namespace))
    with pytest.raises(ConfigurationError):
        rows.get(key)


def test_a_key_by_name_and_by_tuple(endpoint, namespace, rows):
    publish(endpoint, {"a": 1}, spec(namespace))
    assert rows.get({"id": "a"}) == rows.get(("a",)) == rows.get("a") == {"id": "a", "n": 1}


async def test_keys_that_can_be_gone_through_once(endpoint, namespace, rows):
    publish(endpoint, {"a": 1, "b": 2}, spec(namespace))
    found = rows.get_many(["b", "a"])
    assert rows.get_many(key for key in "ba") == found
    async with endpoint.async_client() as own:
        dataset = AsyncGoldDataset(own, "sales", namespace=namespace)
        assert await dataset.get_many(iter("ba")) == found


@pytest.mark.parametrize("layout", list(Layout))
async def test_a_reader_may_see_for_a_while_what_was_live(endpoint, client, namespace, layout):
    """Whatever it sees is all of one version, and what is missing is asked about."""
    publish_as = publish_packed if layout is Layout.PACKED else publish
    dataset = GoldDataset(client, "sales", namespace=namespace, max_staleness=600)
    async with endpoint.async_client() as other:
        twin = AsyncGoldDataset(other, "sales", namespace=namespace, max_staleness=600)
        for value in (1, 2):
            publish_as(endpoint, numbers(0, 10, value), spec(namespace, layout=layout))
            assert dataset.get("k1")["n"] == 1
            assert (await twin.get("k1"))["n"] == 1
        assert dataset.get_many(["k2", "k3"]) == [{"id": f"k{n}", "n": 1} for n in (2, 3)]
        assert dataset.get_many(["k1", "nobody"])[0]["n"] == 2, "a missing row has it look"
        assert dataset.get("k1")["n"] == 2
        for value in (3, 4):
            publish_as(endpoint, numbers(0, 10, value), spec(namespace, layout=layout, keep=0))
        assert dataset.get("k1")["n"] == 4, "its version was removed"
        assert (await twin.get("k1"))["n"] == 4


@pytest.mark.parametrize("value", ['{"id":"a","n":1},{"id":"x","n":2}', "", "1,2", "7,"])
def test_what_somebody_else_wrote_shifts_no_other_row(endpoint, client, namespace, rows, value):
    upsert = spec(namespace, f"{namespace}:{{id}}", mode=Mode.UPSERT, ttl=60)
    publish(endpoint, {"a": 1, "b": 2}, upsert)
    client.set(f"{namespace}:a", value, ex=60)
    with pytest.raises(ValueError, match=r"Expecting|Extra data"):
        rows.get_many(["a", "b"])
    assert rows.get("b") == {"id": "b", "n": 2}


@with_hashes
@pytest.mark.parametrize("max_staleness", [0, 600])
async def test_rows_upserted_in_another_layout_are_no_error_to_who_knew_the_one_before(
    endpoint, client, namespace, max_staleness
):
    def upserted(layout, value):
        what = spec(namespace, f"{namespace}:{{id}}", mode=Mode.UPSERT, layout=layout, ttl=60)
        publish(endpoint, {"a": value}, what)

    options = {"namespace": namespace, "max_staleness": max_staleness}
    dataset = GoldDataset(client, "sales", **options)
    async with endpoint.async_client() as other:
        twin = AsyncGoldDataset(other, "sales", **options)
        for value, layout in enumerate((Layout.HASH, Layout.JSON, Layout.HASH)):
            await asyncio.to_thread(upserted, layout, value)
            row = {"id": "a", "n": value}
            assert dataset.get("a") == row == await twin.get("a")
    client.unlink(f"{namespace}:a")
    client.set(f"{namespace}:a", "of somebody else", ex=60)
    with pytest.raises(RefusedError, match="WRONGTYPE"):
        dataset.get("a")


def test_an_overlay_that_was_removed_is_not_one_that_says_nothing(endpoint, client, namespace):
    """Whoever trusts a version that is swept finds buckets of the version before it."""
    what = spec(namespace, layout=Layout.PACKED, mode=Mode.DELTA)
    first, second, third = numbers(0, 500, 1), {"k7": 2}, {"k7": 3}
    dataset = GoldDataset(client, "sales", namespace=namespace, max_staleness=600)
    publish_packed(endpoint, first, what)
    publish_packed(endpoint, first | second, what)
    assert dataset.get("k7")["n"] == 2
    rollback(client, "sales", namespace=namespace)
    publish_packed(endpoint, first | third, what)
    assert dataset.get("k7")["n"] == 3


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("layout", list(Layout))
def test_readers_speak_either_protocol(endpoint, namespace, layout, protocol, monkeypatch):
    monkeypatch.setattr(exchanges, "HIREDIS_AVAILABLE", protocol == 3)
    publish_as = publish_packed if layout is Layout.PACKED else publish
    publish_as(endpoint, numbers(0, 300, 7), spec(namespace, layout=layout))
    with endpoint.client(protocol=protocol) as own:
        dataset = GoldDataset(own, "sales", namespace=namespace)
        assert dataset.verify().rows == len(list(dataset.scan())) == 300
        assert dataset.get("k7") == {"id": "k7", "n": 7}


@unspread
async def test_a_read_that_is_interrupted_leaves_no_reply_to_the_next(
    endpoint, namespace, monkeypatch
):
    await asyncio.to_thread(publish, endpoint, numbers(0, 9, 7), spec(namespace))
    read = exchanges._areply_of
    async with endpoint.async_client(max_connections=1) as own:
        dataset = AsyncGoldDataset(own, "sales", namespace=namespace)
        assert (await dataset.get_many(["k1"]))[0]["id"] == "k1"
        monkeypatch.setattr(exchanges, "_areply_of", interrupted)
        with pytest.raises(asyncio.CancelledError):
            await dataset.get_many(["k2"])
        monkeypatch.setattr(exchanges, "_areply_of", read)
        assert await dataset.get_many(["k3"]) == [{"id": "k3", "n": 7}]


async def interrupted(_):
    raise asyncio.CancelledError


@with_hashes
async def test_a_refusal_leaves_no_reply_to_the_next(endpoint, namespace, client):
    """Of several commands that are sent at once, also where it is the first that is refused."""
    what = spec(namespace, layout=Layout.HASH)
    manifest = await asyncio.to_thread(publish, endpoint, numbers(0, 9, 7), what)
    key = f"{namespace}:gold:sales:{manifest.version}:k1"
    client.delete(key)
    client.set(key, "no hash")
    async with endpoint.async_client(max_connections=1) as own:
        twin = AsyncGoldDataset(own, "sales", namespace=namespace)
        dataset = GoldDataset(client, "sales", namespace=namespace)
        with pytest.raises(ServerError, match="WRONGTYPE"):
            await twin.get_many(["k1", "k2"])
        with pytest.raises(ServerError, match="WRONGTYPE"):
            dataset.get_many(["k1", "k2"])
        expected = [{"id": "k3", "n": 7}]
        assert dataset.get_many(["k3"]) == expected == await twin.get_many(["k3"])
