"""`gold watch`: how far publishes are, while they run and to their end."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from nexus_redis_provider.core.gold.limits import Limits
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.writers import PartitionWriter
from tests.conftest import PERMANENT
from tests.core.gold_datasets import PERMANENT_ROWS, batch, numbers, publish, spec, write


@pytest.fixture
def permanent() -> list[str]:
    return [*PERMANENT, PERMANENT_ROWS]


def test_once_says_how_far_each_publish_is(endpoint, namespace, call):
    told = Publication.begin(endpoint, spec(namespace, limits=Limits(expected_rows=400)))
    write(told, numbers(0, 100))
    (load,) = call("gold", "watch", "--once", "--json").json["loads"]
    assert (load["dataset"], load["version"], load["state"]) == ("sales", told.version, "staging")
    assert (load["rows"], load["expected_rows"], load["share"]) == (100, 400, 0.25)
    assert load["is_estimate"] is False
    # At the speed so far, of which a quarter took all the time.
    assert load["rows_per_second"] > 0
    assert load["eta"] == pytest.approx(3 * load["seconds"], rel=0.02)
    out = call("gold", "watch", "--once").out
    assert f"sales {told.version} [######....." in out
    assert "100 rows written, 25% of 400" in out


def test_without_a_number_the_live_version_is_the_estimate(endpoint, namespace, call):
    publish(endpoint, numbers(0, 50), spec(namespace))
    publication = Publication.begin(endpoint, spec(namespace))
    write(publication, numbers(0, 25))
    (load,) = call("gold", "watch", "sales", "--once", "--json").json["loads"]
    assert (load["expected_rows"], load["is_estimate"], load["share"]) == (50, True, 0.5)
    assert "50% of about 50" in call("gold", "watch", "--once").out


def test_nothing_under_way_is_said_and_is_the_end(endpoint, namespace, call):
    publish(endpoint, {"a": 1}, spec(namespace))
    assert call("gold", "watch").out == "Nothing is being published.\n"
    assert call("gold", "watch", "--json").json["loads"] == []


def test_a_dataset_that_is_not_there_is_refused(call):
    assert (call("gold", "watch", "nothing").code, call("gold", "watch", "no pe").code) == (1, 2)


@pytest.mark.parametrize("end", ["published", "gone"])
def test_a_publish_is_followed_to_its_end(server, endpoint, namespace, end):
    publication = Publication.begin(endpoint, spec(namespace, limits=Limits(expected_rows=200)))
    command = [sys.executable, "-m", "nexus_redis_provider.cli.main", "--url", server.url]
    watching = subprocess.Popen(
        [*command, "--namespace", namespace, "gold", "watch", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout
    with watching, PartitionWriter(publication, 0, "a") as writer:
        (load,) = json.loads(watching.stdout.readline())["loads"]
        assert (load["rows"], load["share"], load["eta"]) == (0, 0, None)
        writer.write(*batch(numbers(0, 100)))
        report = writer.finish()
        while not load["rows"]:
            (load,) = json.loads(watching.stdout.readline())["loads"]
        assert (load["state"], load["share"]) == ("staging", 0.5)
        if end == "published":
            publication.commit([report])
        else:
            publication.abort()
        last = [json.loads(line) for line in watching.stdout][-1]["loads"]
        assert [(load["version"], load["state"]) for load in last] == [(publication.version, end)]
    assert watching.returncode == 0
