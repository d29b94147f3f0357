"""`locks show`: all that is known of one lock."""

from __future__ import annotations

import re

import pytest
import redis

from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks.audits import AuditEntry, audit
from nexus_redis_provider.core.locks.protocol import break_lock
from nexus_redis_provider.core.scripts import run
from tests.cli.conftest import ODD_NAMES, RUN, Call, Take


def facts(out: str) -> dict[str, str]:
    return {line[:12].strip(): line[12:].strip() for line in out.splitlines()}


def test_a_dag_run_and_its_line(call: Call, take: Take, client, namespace) -> None:
    token = take(
        "dag:sales", "prod/sales/manual__1", deployment="prod", description={**RUN, "try": 1}
    ).token
    take("dag:sales", "second", permits=3)
    take("dag:sales", "third", mode="shared", description={"host": "h1"})
    client.zadd(LockKeys("dag:sales", namespace).heard, {"second": 1})
    ran = call("locks", "show", "dag:sales")
    assert ran.code == 0
    shown = facts(ran.out)
    assert shown["url"] == RUN["url"]
    assert (shown["dag_id"], shown["run_id"], shown["try"]) == ("sales", "manual__1", "1")
    assert (shown["mode"], shown["entries"], shown["deployment"]) == ("exclusive", "1", "prod")
    assert (shown["token"], shown["lease left"]) == (str(token), "1 min")
    assert "\nHeld by prod/sales/manual__1\n" in ran.out
    rows = [re.split(r"\s\s+", row.strip()) for row in ran.out.splitlines()[-2:]]
    assert [(row[0], row[1], *row[3:]) for row in rows] == [
        ("1", "second", "3 at once", "no, passed over"),
        ("2", "third", "shared", "yes"),
    ]

    found = call("locks", "show", "dag:sales", "--json").json
    assert found["holders"][0]["description"] == {**RUN, "try": 1}
    second, third = found["waiters"]
    assert (second["position"], second["owner"]) == (1, "second")
    assert (second["mode"], second["permits"], second["passed_over"]) == ("semaphore", 3, True)
    assert (third["position"], third["mode"], third["permits"]) == (2, "shared", None)
    assert third["heard_for"] > 50
    assert third["ticket"] > second["ticket"]
    assert third["description"] == {"host": "h1"}
    assert found["audit"] == []


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names(call: Call, take: Take, name: str) -> None:
    take(name, name, description={name: name})
    assert call("locks", "show", name, "--json").json["name"] == name
    ran = call("locks", "show", name)
    assert ran.code == 0
    assert "\x1b" not in ran.out
    assert name.encode("unicode_escape")[-3:] in ran.out.encode("unicode_escape")


def test_an_unknown_lock(call: Call, namespace: str) -> None:
    ran = call("locks", "show", "nope")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("nexus-redis: There is no lock 'nope' at ")
    assert f"in namespace '{namespace}'" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_the_audit_outlives_the_lock(
    call: Call, take: Take, client: redis.Redis, namespace
) -> None:
    tokens = []
    for number in range(12):
        tokens.append(take("a", f"owner {number}").token)
        call_ = break_lock("a", by="me@h", why=f"reason {number}", namespace=namespace)
        run(client, call_)
    client.delete(LockKeys("a", namespace).lock)
    ran = call("locks", "show", "a")
    assert ran.code == 0
    shown = facts(ran.out)
    assert (shown["newest token"[:12]], shown["held"]) == ("forgotten", "by nobody")
    rows = ran.out.splitlines()[-10:]
    assert "owner 11  me@h  reason 11  " in rows[0]
    assert "owner 2   me@h  reason 2   " in rows[9]
    found = call("locks", "show", "a", "--json").json["audit"]
    assert [entry["token"] for entry in found] == tokens[:1:-1]

    first, *_ = everything = audit(client, "a", count=100, namespace=namespace)
    assert len(everything) == 12
    assert first == AuditEntry(
        first.at, "force-release", "owner 11", tokens[11], "me@h", "reason 11"
    )
    assert first.at.isoformat() == found[0]["at"]
    assert audit(client, "b", namespace=namespace) == []
