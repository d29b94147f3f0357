"""The short form of the tables of faults: what holds whatever fails."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from nexus_redis_provider.embedded import find_server
from tests.chaos.callers import Publisher, WaitingWriter, Writer
from tests.chaos.cluster_faults import CLUSTER_FAULTS, lose_shard, move_slots
from tests.chaos.faults import Fault
from tests.chaos.loads import Outcome
from tests.chaos.sentinel_faults import (
    SENTINEL_FAULTS,
    let_lag_and_kill,
    part_primary,
)
from tests.conftest import need_server


@pytest.fixture(autouse=True)
def _server() -> None:
    need_server(find_server)


def suffer(fault: Fault, directory: Path, seconds: float = 0.0) -> list[Outcome]:
    """The outcomes of a shorter one, by callers who wait less long; all that is always promised."""
    brief = replace(fault, seconds=seconds)
    outcomes = list(brief.outcomes(directory, connect_timeout=2.0, read_timeout=2.0))
    for outcome in outcomes:
        assert not outcome.violations, outcome.violations[:5]
        assert not outcome.half_published
        assert not outcome.unclear, outcome.unclear[:5]
        assert outcome.acknowledged[WaitingWriter.kind]
        assert not outcome.lost[WaitingWriter.kind]
    return outcomes


def by_harm(harm: object) -> Fault:
    return next(fault for fault in (*SENTINEL_FAULTS, *CLUSTER_FAULTS) if fault.harm is harm)


def test_a_primary_that_is_parted_from_the_rest(tmp_path: Path) -> None:
    """It goes on for those beside it: two hold the lock, and the token tells them apart."""
    rest, beside = suffer(by_harm(part_primary), tmp_path, seconds=5)
    assert not rest.lost[Writer.kind]
    assert beside.lost[Writer.kind]
    assert rest.errors["RefusedByResourceError"] + beside.errors["RefusedByResourceError"]
    assert beside.errors["ReplicationLagError"]


def test_replicas_that_lag_when_the_primary_is_killed(tmp_path: Path) -> None:
    (outcome,) = suffer(by_harm(let_lag_and_kill), tmp_path, seconds=2)
    assert outcome.lost[Writer.kind]
    assert outcome.lost[Publisher.kind]
    assert outcome.errors["ReplicationLagError"]
    assert outcome.errors["UnreachableError"]


def test_a_shard_of_a_cluster_that_is_gone_and_comes_back(tmp_path: Path) -> None:
    (outcome,) = suffer(by_harm(lose_shard), tmp_path, seconds=1)
    assert any("The cluster is down. See CLUSTER NODES" in str(one) for one in outcome.met)
    # It has an append-only file.
    assert not any(outcome.lost.values()), outcome.lost


def test_slots_that_move(tmp_path: Path) -> None:
    (outcome,) = suffer(by_harm(move_slots), tmp_path, seconds=3)
    assert not any(outcome.lost.values()), outcome.lost
    assert not outcome.stale
    assert any(re.search(r"slot \d+ moves to 127.0.0.1:\d+\. Try", str(one)) for one in outcome.met)
    # Single commands go on.
    assert all("of pipeline" in str(one.__cause__) for one in outcome.met), outcome.met
