"""`locks list`: every lock that is held or waited for, whatever its name."""

from __future__ import annotations

import pytest
import redis

from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks.listing import lock_names
from nexus_redis_provider.core.locks.protocol import Claim, acquire, inspect, release
from nexus_redis_provider.core.scripts import run, run_all
from tests.cli.conftest import ODD_NAMES, RUN, Call, Take


def test_an_empty_server(call: Call, namespace: str) -> None:
    ran = call("locks", "list")
    assert ran.code == 0
    assert ran.out.startswith("No locks at ")
    assert ran.out.endswith(f" in namespace '{namespace}'.\n")
    assert call("locks", "list", "--json").json == []


def test_who_holds_and_how_many_wait(call: Call, take: Take) -> None:
    first = take("dag:sales", "prod/sales/manual__1", deployment="prod", description=RUN)
    take("dag:sales", "prod/sales/manual__2", deployment="prod")
    ran = call("locks", "list")
    heading, _, row = ran.out.splitlines()
    assert heading.split("  ")[0] == "LOCK"
    assert row.startswith("dag:sales  DAG sales, run manual__1  ")
    assert first.since is not None
    assert f"  {first.since:%Y-%m-%d %H:%M}  1 min       1        {first.token}" in row
    assert not ran.err
    (found,) = call("locks", "list", "--json").json
    (holder,) = found["holders"]
    assert 50 < holder.pop("expires_in") <= 60
    assert holder == {
        "owner": "prod/sales/manual__1",
        "token": first.token,
        "mode": "exclusive",
        "permits": 1,
        "since": first.since.isoformat(),
        "entries": 1,
        "deployment": "prod",
        "description": RUN,
    }
    assert (found["name"], found["token"], found["waiting"]) == ("dag:sales", first.token, 1)


def test_a_lease_that_has_run_out(call: Call, take: Take, client, namespace, wait_until) -> None:
    take("a", lease=0.001)
    wait_until(
        lambda: run(client, inspect("a", namespace=namespace)).holders[0].expires_in < 0, timeout=5
    )
    assert "  over  " in call("locks", "list").out
    assert call("locks", "list", "--json").json[0]["holders"][0]["expires_in"] < 0


def test_several_holders_have_a_row_each(call: Call, take: Take) -> None:
    for number in range(7):
        take("pool", f"owner {number}", permits=7)
    rows = call("locks", "list").out.splitlines()[2:]
    assert [row.split("  ")[0] for row in rows] == ["pool", "", "", "", "", ""]
    assert all(f"owner {number}  " in rows[number] for number in range(5))
    assert rows[5].strip() == "and 2 more"
    (found,) = call("locks", "list", "--json").json
    assert [one["mode"] for one in found["holders"]] == ["semaphore"] * 7


def test_free_locks_only_if_asked(call: Call, take: Take, client, namespace) -> None:
    token = take("free", mode="shared").token
    run(client, release("free", "me", token, namespace=namespace))
    assert call("locks", "list", "--json").json == []
    ran = call("locks", "list", "--all")
    assert ran.out.splitlines()[2].split() == ["free", "-", "-", "-", "0", str(token)]
    assert call("locks", "list", "--all", "--json").json == [
        {"name": "free", "token": token, "holders": [], "waiting": 0}
    ]


def test_a_free_lock_with_a_line_is_listed(call: Call, take: Take) -> None:
    take("a", "me")
    take("a", "you")
    assert call("locks", "release", "a", "--force", "--why", "test").code == 0
    assert call("locks", "list", "--json").json[0]["waiting"] == 1


def test_odd_names(call: Call, take: Take) -> None:
    for name in ODD_NAMES:
        take(name, name)
    assert [one["name"] for one in call("locks", "list", "--json").json] == sorted(ODD_NAMES)
    out = call("locks", "list").out
    for text in (
        "with spaces  two",
        "a{b}c",
        "ünïcødé 日本",
        "[red]x[/] [link=http://x]y[/link] :smile:",
        "100% \\ * ? [a-z]",
        "line\\nbreak\\ttab",
        "\\x1b[31mred\\u202e",
    ):
        assert out.count(f"{text}  ") == 2, "as the name and as the owner"
    assert len(out.splitlines()) == 2 + len(ODD_NAMES)
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("glob", "names"),
    [("dag:*", ["dag:a", "dag:b"]), ("*[ax]", ["dag:a", "x"]), ("DAG:*", []), ("?", ["x"])],
)
def test_names_like_this(call: Call, take: Take, glob: str, names: list[str]) -> None:
    for name in ("x", "dag:b", "dag:a"):
        take(name)
    found = call("locks", "list", "--json", "--match", glob).json
    assert [one["name"] for one in found] == names


def test_many_locks(call: Call, client: redis.Redis, namespace: str) -> None:
    names = [f"lock {number:04}" for number in range(1500)]
    run_all(client, [acquire(Claim(name, "me", namespace=namespace), 60) for name in names])
    assert sorted(lock_names(client, namespace)) == names
    assert [one["name"] for one in call("locks", "list", "--json").json] == names
    assert len(call("locks", "list").out.splitlines()) == 2 + len(names)


def test_only_locks_of_the_namespace(client: redis.Redis, namespace: str, call: Call, take) -> None:
    take("a")
    take("a", "waits")
    call("locks", "release", "a", "--force", "--why", "so that there is an audit")
    foreign = [f"{namespace}:lock:{{%FF}}", f"{namespace}:lock:{{b}}:x", f"{namespace}:lock:{{é}}"]
    for key in (*foreign, f"{namespace}:lock:{{".encode() + b"\xff}", f"{namespace}2:lock:{{b}}"):
        client.hset(key, "x", "y")
        client.expire(key, 60)
    assert list(lock_names(client, namespace)) == ["a"]


def test_what_cannot_be_read_does_not_hide_the_others(
    client: redis.Redis, namespace: str, call: Call, take: Take
) -> None:
    take("good")
    bad = LockKeys("bad", namespace)
    client.hset(bad.lock, "owner", "of another program")
    client.expire(bad.lock, 60)
    ran = call("locks", "list", "--json")
    assert ran.code == 1
    assert '"name": "good"' in ran.out
    assert ran.err.startswith("nexus-redis: Lock 'bad' cannot be read: Redis at ")
    assert len(ran.err.splitlines()) == 1


def test_a_narrow_terminal_breaks_texts_and_loses_nothing(
    call: Call, take: Take, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    import sys

    name = "dag:" + "quarterly_" * 8
    token = take(name, "me").token
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    lines = call("locks", "list").out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "".join(line.split("  ")[0].strip() for line in lines[2:]) == name
    assert str(token) in lines[2]
