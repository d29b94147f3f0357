"""A micro-batch is applied once, whoever runs it again and when."""

from __future__ import annotations

import pytest

from nexus_redis_provider.core.errors import StaleFenceError, SupersededError
from nexus_redis_provider.core.gold.batches import Plan, begin_batch
from nexus_redis_provider.core.gold.history import history
from nexus_redis_provider.core.gold.manifests import Mode
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.gold.reports import manifest_of
from nexus_redis_provider.core.scripts import run
from tests.core.gold_datasets import publish, spec, write

pytestmark = pytest.mark.usefixtures("rows_may_stay")

QUERY = "5f0c6f0e-0000-4000-8000-000000000001"


@pytest.fixture(params=list(Mode))
def mode(request):
    return request.param


@pytest.fixture
def what(namespace, mode):
    if mode is Mode.UPSERT:
        return spec(namespace, f"{namespace}:gold:sales:{{id}}", mode=mode)
    return spec(namespace)


@pytest.fixture
def rows(client, namespace):
    return GoldDataset(client, "sales", namespace=namespace)


@pytest.fixture
def begin(endpoint, what):
    """The publication of a batch; each call is a new run unless a plan is given."""

    def begin(number, plan=None, query=QUERY):
        return begin_batch(endpoint, what, plan or Plan.make(endpoint, what), query, number)

    return begin


def test_the_tasks_of_a_run_share_a_version(endpoint, what, begin, rows):
    plan = Plan.make(endpoint, what)
    first, second = begin(0, plan), begin(0, plan)
    assert first == second
    manifest = first.commit([write(first, {"a": 1}), write(second, {"b": 2}, 1, "b")])
    assert manifest.lineage == {"streaming_query": QUERY, "micro_batch": "0"}
    assert rows.get_many(["a", "b"]) == [{"id": "a", "n": 1}, {"id": "b", "n": 2}]
    assert rows.manifest() == manifest
    assert begin(0, plan) is None


def test_what_was_applied_is_not_applied_again(begin, rows, client, namespace):
    for number in (0, 1):
        run_ = begin(number)
        run_.commit([write(run_, {"a": number})])
    live = rows.manifest()
    assert begin(0) is begin(1) is None
    assert rows.manifest() == live
    assert run(client, history("sales", namespace=namespace)).staged == ()
    other = begin(0, query=QUERY.replace("1", "2"))
    other.commit([write(other, {"a": 7})])
    assert rows.get("a") == {"id": "a", "n": 7}


def test_a_later_run_takes_over(endpoint, begin, rows, client, namespace):
    old = begin(3)
    report = write(old, {"a": 1, "b": 1})
    new = begin(3)
    # The old run is not dead: it goes on to write, and to commit.
    with pytest.raises(SupersededError):
        write(old, {"a": 2}, 1, "z")
    with pytest.raises(SupersededError):
        old.commit([report])
    new.commit([write(new, {"a": 5})])
    assert rows.get("a") == {"id": "a", "n": 5}
    # Nor does it come back when the batch is done, or the next one is under way.
    following = begin(4)
    with pytest.raises(SupersededError):
        write(old, {"a": 3}, 2, "y")
    following.abort()
    assert rows.get("a") == {"id": "a", "n": 5}
    assert run(client, history("sales", namespace=namespace)).staged == ()


def test_an_earlier_run_that_begins_late_is_refused(endpoint, what, begin):
    early = Plan.make(endpoint, what)
    begin(3)
    with pytest.raises(SupersededError, match="micro-batch 3"):
        begin(3, early)
    with pytest.raises(SupersededError, match="micro-batch 2"):
        begin(2)


def test_a_commit_twice_is_a_commit_once(endpoint, begin, rows, mode):
    publication = begin(0)
    reports = [write(publication, {"a": 1})]
    publication.commit(reports)
    later = begin(1)
    later.commit([write(later, {"a": 2})])
    publication._flip(rows._client, manifest_of(publication, reports), reports)
    assert rows.get("a") == {"id": "a", "n": 2}
    assert rows.manifest().version == later.version


def test_a_batch_beside_other_publishes(endpoint, begin, what, rows):
    """An upsert that was begun later and committed earlier does not undo the record of a batch."""
    publication = begin(0)
    reports = [write(publication, {"a": 1})]
    literal = what.key.literals[0]
    assert literal == "" or publish(endpoint, {"b": 2}, what).rows == 1
    publication.commit(reports)
    assert begin(0) is None
    assert rows.get("a") == {"id": "a", "n": 1}


def test_an_aborted_run_can_be_run_again(begin, rows):
    aborted = begin(0)
    write(aborted, {"a": 1})
    aborted.abort()
    again = begin(0)
    again.commit([write(again, {"a": 2})])
    assert rows.get("a") == {"id": "a", "n": 2}


def test_a_stale_fence_stops_a_batch(endpoint, begin, what, namespace):
    publish(endpoint, {"a": 1}, spec(namespace, fence=7))
    with pytest.raises(StaleFenceError):
        begin(0)
