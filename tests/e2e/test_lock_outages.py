"""What is away while runs work and wait: the triggerer, Redis."""

from __future__ import annotations

import pytest

from nexus_redis_provider.embedded import EmbeddedServer
from tests.e2e.stage import Stage

pytestmark = pytest.mark.e2e


def test_who_waits_keeps_its_place_while_the_triggerer_is_gone(stage: Stage):
    working = stage.enter("without_triggerer")
    assert stage.at_work("without_triggerer") == working
    first = stage.enter_to_wait("without_triggerer")
    tickets = [waiter.ticket for waiter in stage.lock("dag:without_triggerer").waiters]
    stage.airflow.kill("triggerer")

    # The lock is free, and nobody calls the one who waits; but who comes now does not pass it.
    stage.let_end(working)
    stage.until("success", working)
    second = stage.enter_to_wait("without_triggerer")
    assert stage.holder("dag:without_triggerer") is None
    assert stage.line("dag:without_triggerer") == [first, second]
    assert stage.lock("dag:without_triggerer").waiters[0].ticket == tickets[0]

    stage.airflow.start("triggerer")
    for run in (first, second):
        assert stage.at_work("without_triggerer") == run
        stage.let_end(run)
    stage.until("success", first, second)
    worked = stage.worked(working, first, second)
    assert [run for run, _ in worked] == [working, first, second]
    tokens = [token for _, token in worked]
    assert tokens == sorted(set(tokens))


def test_a_restart_of_redis_changes_nothing(stage: Stage, lock_server: EmbeddedServer):
    working = stage.enter("without_redis")
    assert stage.at_work("without_redis") == working
    first = stage.enter_to_wait("without_redis")
    second = stage.enter_to_wait("without_redis")
    before = stage.lock("dag:without_redis")
    assert stage.line("dag:without_redis") == [first, second]

    lock_server.stop()
    try:
        # Without the server nobody gets the lock: this run does not work.
        failing = stage.enter("without_redis")
        stage.until("failed", failing)
        assert "cannot be reached" in stage.log(failing, "lock")
        assert stage.task(failing, "work") == "upstream_failed"
        assert stage.task(first, "lock") == stage.task(second, "lock") == "deferred"
    finally:
        lock_server.start()

    after = stage.lock("dag:without_redis")
    assert [(one.owner, one.token) for one in after.holders] == [
        (one.owner, one.token) for one in before.holders
    ]
    assert [(one.owner, one.ticket) for one in after.waiters] == [
        (one.owner, one.ticket) for one in before.waiters
    ]
    for run in (working, first):
        stage.let_end(run)
        assert stage.at_work("without_redis") == {working: first, first: second}[run]
    stage.let_end(second)
    stage.until("success", working, first, second)
    worked = stage.worked(working, first, second, failing)
    assert [run for run, _ in worked] == [working, first, second]
