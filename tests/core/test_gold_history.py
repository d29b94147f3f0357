"""Which versions of a dataset are kept, and the way back to one of them."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from nexus_redis_provider.core.errors import (
    ConfigurationError,
    NotPublishedError,
    RollbackError,
    StaleFenceError,
    SupersededError,
)
from nexus_redis_provider.core.gold.history import (
    datasets,
    history,
    move_live,
    rollback,
    rollback_from,
    versions,
)
from nexus_redis_provider.core.gold.manifests import Layout, Mode
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.gold.sweeping import sweep
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.core.scripts import run
from tests.core.gold_datasets import (
    dataset_keys,
    keyspace,
    numbers,
    publish,
    spec,
    version_keys,
    write,
)

pytestmark = pytest.mark.usefixtures("rows_may_stay")


@pytest.fixture
def published(endpoint, namespace):
    """Publishes versions in which `a` is 1, 2, 3 and so on; returns their manifests."""

    def published(count, **options):
        options = {"keep": 9} | options
        rows = range(1, count + 1)
        return [publish(endpoint, {"a": n}, spec(namespace, **options)) for n in rows]

    return published


@pytest.fixture
def begin(endpoint, namespace):
    """Begins a publish that keeps all versions."""

    def begin(**options):
        return Publication.begin(endpoint, spec(namespace, **{"keep": 9} | options))

    return begin


@pytest.fixture
def back(client, namespace):
    """Rolls back, and says which version is live."""

    def back(version=None, **options):
        manifest = rollback(client, "sales", version, namespace=namespace, **options)
        assert GoldDataset(client, "sales", namespace=namespace).verify() == manifest
        return manifest

    return back


@pytest.fixture
def a(client, namespace):
    """The row of `a` that readers see."""

    def a():
        return GoldDataset(client, "sales", namespace=namespace).get("a")["n"]

    return a


def kept(client, namespace):
    return [one.version for one in versions(client, "sales", namespace=namespace)]


def test_nothing_is_known_of_what_was_never_published(client, namespace):
    found = run(client, history("sales", namespace=namespace))
    assert (found.exists, found.live, found.fence) == (False, None, None)
    assert (found.versions, found.staged, found.live_version) == ((), (), None)
    assert versions(client, "sales", namespace=namespace) == []
    assert list(datasets(client, namespace)) == []


def test_kept_versions_are_listed_newest_first(client, namespace, published):
    manifests = published(4, keep=2, fence=7)
    found = versions(client, "sales", namespace=namespace)
    assert [one.manifest for one in found] == manifests[:0:-1]
    assert [one.version for one in found] == [one.version for one in manifests[:0:-1]]
    assert [one.is_live for one in found] == [True, False, False]
    assert all(one.is_readable and not one.is_rolled_back for one in found)
    assert [one.published_at for one in found] == [one.published_at for one in manifests[:0:-1]]
    whole = run(client, history("sales", namespace=namespace))
    assert (whole.exists, whole.live, whole.fence) == (True, manifests[-1].version, 7)
    assert whole.live_version == found[0]
    assert abs(whole.now_ms / 1000 - client.time()[0]) < 5


def test_an_expired_version_is_kept_but_cannot_be_read(
    client, endpoint, namespace, back, wait_until
):
    expiring = publish(endpoint, {"a": 1}, spec(namespace, keep=9, ttl=600))
    oldest = publish(endpoint, {"a": 2}, spec(namespace, keep=9))
    rollback(client, "sales", expiring.version, namespace=namespace)
    # Not of itself: how long until it may expire, no machine promises.
    client.pexpire(manifest := GoldKeys("sales", namespace).manifest(expiring.version), 1)
    wait_until(lambda: not client.exists(manifest))
    found = versions(client, "sales", namespace=namespace)
    assert [(one.is_live, one.is_readable) for one in found] == [(False, True), (True, False)]
    assert found[1].published_ms == expiring.published_ms
    # An expired live version is no reason to stay there.
    assert back(oldest.version) == oldest
    with pytest.raises(RollbackError, match=r"has expired\. No other can be read"):
        back()
    with pytest.raises(RollbackError, match=f"{expiring.version}.*has expired"):
        back(expiring.version)


def test_staging_areas_are_listed_with_their_lease(client, endpoint, namespace):
    alive = Publication.begin(endpoint, spec(namespace, staging_lease=60))
    write(alive, {"a": 1, "b": 1})
    given_up = Publication.begin(endpoint, spec(namespace))
    given_up.abandon()
    found = run(client, history("sales", namespace=namespace))
    assert (found.exists, found.live, found.versions) == (True, None, ())
    first, second = found.staged
    assert (first.version, first.rows, first.is_abandoned) == (alive.version, 2, False)
    assert 50 < first.lease_left <= 60
    assert first.created_at.timestamp() * 1000 == pytest.approx(alive.created_ms)
    assert (second.version, second.rows, second.is_abandoned) == (given_up.version, 0, True)


def test_back_step_by_step(back, published, a):
    one, two, three = published(3)
    assert (back(), a()) == (two, 2)
    assert (back(), a()) == (one, 1)
    with pytest.raises(RollbackError, match="before the live one") as caught:
        back()
    assert caught.value.version is None
    assert str(caught.value).endswith(f"can be read: {three.version}, {two.version}.")
    assert a() == 1


@pytest.mark.parametrize("layout", [Layout.JSON, Layout.HASH])
def test_back_to_a_version_and_forth_again(client, namespace, back, published, a, layout):  # noqa: PLR0917
    one, _, three = published(3, layout=layout)
    assert (back(one.version), a()) == (one, 1)
    marks = [one.is_rolled_back for one in versions(client, "sales", namespace=namespace)]
    assert marks == [True, True, False]
    assert (back(three.version), a()) == (three, 3)
    marks = [one.is_rolled_back for one in versions(client, "sales", namespace=namespace)]
    assert marks == [False, True, False]
    # What was rolled back from is not what readers saw before.
    assert (back(), a()) == (one, 1)


def test_the_order_holds_within_a_millisecond(client, namespace, back, published):
    one, two, three = published(3)
    for manifest in (one, two, three):
        client.zadd(GoldKeys("sales", namespace).versions, {manifest.version: one.published_ms})
    for expected in (two, one):
        assert (
            rollback(client, "sales", namespace=namespace).version
            == GoldDataset(client, "sales", namespace=namespace).manifest().version
            == expected.version
        )
    assert kept(client, namespace) == [three.version, two.version, one.version]


def test_refusals_change_nothing_and_say_what_there_is(client, namespace, back, published):
    removed, older, live = published(3, keep=1)
    before = run(client, history("sales", namespace=namespace))
    for version in (removed.version, "nope", ""):
        with pytest.raises(RollbackError, match=f"'{version}' is not kept.*: {older.version}"):
            back(version)
    with pytest.raises(RollbackError, match=f"is live already.*: {older.version}") as caught:
        back(live.version)
    assert (caught.value.dataset, caught.value.version) == ("sales", live.version)
    with pytest.raises(NotPublishedError, match="has no live version"):
        rollback(client, "other", namespace=namespace)
    with pytest.raises(NotPublishedError):
        rollback(client, "other", live.version, namespace=namespace)
    with pytest.raises(ConfigurationError):
        rollback(client, "no spaces", namespace=namespace)
    after = run(client, history("sales", namespace=namespace))
    assert replace(after, now_ms=before.now_ms) == before


def test_upserted_rows_have_no_way_back(endpoint, client, namespace):
    upsert = spec(namespace, f"{namespace}:{{id}}", mode=Mode.UPSERT, ttl=60)
    snapshot = publish(endpoint, {"a": 0}, spec(namespace, keep=9))
    first = publish(endpoint, {"a": 1}, replace(upsert, keep=9))
    live = publish(endpoint, {"a": 2}, replace(upsert, keep=9))
    for version in (None, first.version):
        with pytest.raises(RollbackError, match="upserted in place"):
            rollback(client, "sales", version, namespace=namespace)
    rows = GoldDataset(client, "sales", namespace=namespace)
    assert (rows.manifest(), rows.get("a")["n"]) == (live, 2)
    # A whole version from the time before can be named.
    rollback(client, "sales", snapshot.version, namespace=namespace)
    assert rows.get("a")["n"] == 0


def test_fences(client, namespace, back, published, a):
    one, two, _ = published(3, fence=5)
    with pytest.raises(StaleFenceError) as caught:
        back(fence=4)
    assert (caught.value.fence, caught.value.recorded, a()) == (4, 5, 3)
    assert back(fence=5) == two
    assert back(fence=6) == one
    assert run(client, history("sales", namespace=namespace)).fence == 6
    with pytest.raises(StaleFenceError):
        back(two.version, fence=5)
    # A person needs none, and takes none away.
    assert back(two.version) == two
    assert run(client, history("sales", namespace=namespace)).fence == 6


def test_a_fenced_rollback_stops_older_publishers(begin, back, published, a):
    published(2, fence=5)
    slow = begin(fence=5)
    report = write(slow, {"a": 9})
    back(fence=6)
    with pytest.raises(StaleFenceError):
        slow.commit([report])
    slow.abort()
    assert a() == 1


def test_a_publish_under_way_comes_after_the_rollback(begin, back, published, a):
    published(2)
    slow = begin()
    report = write(slow, {"a": 9})
    back()
    slow.commit([report])
    assert a() == 9


def test_a_version_older_than_what_was_rolled_back_does_not_return(begin, back, published, a):
    published(1)
    older = begin()
    report = write(older, {"a": 9})
    published(2)
    back()
    with pytest.raises(SupersededError):
        older.commit([report])
    assert a() == 1


def test_a_lost_reply_does_not_go_further_back(proxy, endpoint, client, namespace, published):
    _, two, _ = published(3)
    with proxy.endpoint.client() as through:
        seen = run(through, history("sales", namespace=namespace))
        proxy.lose_reply()
        assert rollback_from(through, seen, fence=8) == two
    assert proxy.lost
    assert GoldDataset(client, "sales", namespace=namespace).manifest() == two


def test_what_became_live_meanwhile_is_not_replaced(endpoint, client, namespace, published):
    published(2)
    seen = run(client, history("sales", namespace=namespace))
    newer = publish(endpoint, {"a": 9}, spec(namespace, keep=9))
    with pytest.raises(RollbackError, match=f"{newer.version}' is live by now.*Look again"):
        rollback_from(client, seen)
    assert GoldDataset(client, "sales", namespace=namespace).manifest() == newer


@pytest.mark.parametrize("remains", ["manifest", "member", "neither"])
def test_what_was_removed_meanwhile_does_not_become_live(client, namespace, published, remains):
    one, two = published(2)
    keys = GoldKeys("sales", namespace)
    seen = run(client, history("sales", namespace=namespace))
    if remains != "manifest":
        client.delete(keys.manifest(one.version))
    if remains != "member":
        client.zrem(keys.versions, one.version)
    with pytest.raises(RollbackError, match="removed meanwhile, or expired"):
        rollback_from(client, seen)
    assert GoldDataset(client, "sales", namespace=namespace).manifest() == two


def test_two_at_once_take_one_step(client, endpoint, namespace, published, a):
    published(4)
    seen = run(client, history("sales", namespace=namespace))
    for _ in range(3):
        rollback_from(client, seen)
    assert a() == 3


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_publishes_after_a_rollback_keep_what_served_before(
    client, namespace, back, published, keep
):
    good, better, _, _ = published(4)
    back(better.version)
    (fixed,) = published(1, keep=keep)
    expected = [fixed, better, good][: keep + 1]
    assert kept(client, namespace) == [one.version for one in expected]
    names = dataset_keys(namespace, "head", "versions")
    for manifest in expected:
        names |= version_keys(namespace, manifest.version, "a")
    assert keyspace(client, namespace) == names
    assert GoldDataset(client, "sales", namespace=namespace).verify() == fixed
    if keep:
        assert back() == better


def test_what_was_rolled_back_from_stays_as_long_as_there_is_room(
    client, namespace, back, published
):
    one, two, three = published(3)
    back(one.version)
    (fixed,) = published(1, keep=2)
    assert kept(client, namespace) == [fixed.version, two.version, one.version]
    (again,) = published(1, keep=2)
    assert kept(client, namespace) == [again.version, fixed.version, one.version]
    assert three.version not in str(keyspace(client, namespace))


def test_no_sweep_removes_the_live_version(endpoint, client, namespace, back, published):
    one, two, three = published(3)
    for expected in (two, one):
        back()
        assert sweep(client, GoldKeys("sales", namespace)) == []
        dead = Publication.begin(endpoint, spec(namespace))
        write(dead, {"a": 9})
        dead.abort()
        assert GoldDataset(client, "sales", namespace=namespace).verify() == expected
    back(three.version)
    assert kept(client, namespace) == [three.version, two.version, one.version]


def test_a_full_server_can_be_rolled_back(client, back, published):
    _, two, _ = published(3)
    client.config_set("maxmemory", 1)
    try:
        assert back() == two
    finally:
        client.config_set("maxmemory", 0)


def test_readers_never_mix_versions(endpoint, client, namespace):
    count = 1500
    made = [publish(endpoint, numbers(0, count, n), spec(namespace, keep=9)) for n in range(3)]
    names = [f"k{n}" for n in range(0, count, 7)]
    seen, errors, stop = [], [], threading.Event()

    def read(by_scan):
        try:
            with endpoint.client() as own:
                rows = GoldDataset(own, "sales", namespace=namespace)
                while not stop.is_set():
                    found = list(rows.scan()) if by_scan else rows.get_many(names)
                    assert len(found) == (count if by_scan else len(names))
                    (value,) = {row["n"] for row in found}
                    seen.append((by_scan, value))
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=read, args=(by_scan,)) for by_scan in (True, False, False)]
    for thread in threads:
        thread.start()
    turns = 0
    # Until readers of both kinds have seen each version.
    while not errors and (turns < 60 or len(set(seen)) < 6) and turns < 5000:
        rollback(client, "sales", made[turns % 3].version, namespace=namespace)
        turns += 1
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(set(seen)) == 6


def test_datasets_are_found_and_nothing_else(endpoint, client, namespace):
    names = ["sales", "a:head", "x/y-z.1", "head"]
    for name in names:
        publication = Publication.begin(endpoint, spec(namespace, dataset=name))
        publication.abort()
    foreign = [
        *(f"{namespace}:gold:{{b}}:x:head", f"{namespace}:gold:{{é}}:head"),
        *(f"{namespace}:gold:{{b}}:{{c}}:head", f"{namespace}2:gold:{{b}}:head"),
        *(f"{namespace}:gold:{{}}:head", f"{namespace}:gold:{{".encode() + b"\xff}:head"),
    ]
    for key in foreign:
        client.hset(key, "x", "y")
    client.set(f"{namespace}:gold:{{text}}:head", "no hash")
    assert sorted(datasets(client, namespace)) == sorted(names)
    for key in foreign:
        client.delete(key)


def test_many_datasets(client, namespace):
    names = {f"d{number}" for number in range(2500)}
    pipe = client.pipeline(transaction=False)
    for name in names:
        pipe.hset(GoldKeys(name, namespace).head, "minted_ms", 1)
    pipe.execute()
    found = list(datasets(client, namespace))
    assert len(found) == len(names)
    assert set(found) == names


def test_moving_by_hand_is_refused_where_another_is_live(client, namespace, published):
    one, two, three = published(3)
    keys = GoldKeys("sales", namespace)
    call = move_live(keys, one.version, seen=two.version, fence=None)
    assert run(client, call) == [b"moved", three.version.encode()]
