"""`locks release`: by force, with a reason, and never by accident."""

from __future__ import annotations

import getpass
import socket
import threading

import pytest

from nexus_redis_provider.cli import locks as commands
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.locks import Lock
from nexus_redis_provider.core.locks.audits import audit
from tests.cli.conftest import RUN, Call, Take
from tests.conftest import WaitUntil

FORCED = ("--force", "--why", "worker lost")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "then add --force."),
        (("--why", "because"), "then add --force."),
        (("--force",), "say why by --why TEXT"),
        (("--force", "--why", " "), "say why by --why TEXT"),
    ],
)
def test_not_by_accident(call: Call, take: Take, words, said) -> None:
    token = take("a", "me").token
    ran = call("locks", "release", "a", *words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("nexus-redis: Lock 'a' was left alone")
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1
    after = call("locks", "show", "a", "--json").json
    assert after["holders"][0]["token"] == token
    assert after["audit"] == []


def test_an_abbreviation_is_no_force(call: Call, take: Take) -> None:
    take("a", "me")
    with pytest.raises(SystemExit) as ended:
        call("locks", "release", "a", "--forc", "--why", "because")
    assert ended.value.code == 2


def test_who_lost_it(call: Call, take: Take, client, namespace) -> None:
    token = take("dag:sales", "prod/sales/manual__1", description=RUN).token
    ran = call("locks", "release", "dag:sales", *FORCED)
    assert (ran.code, ran.err) == (0, "")
    first, url, following, advice = ran.out.splitlines()
    assert first.startswith("Lock dag:sales was taken from prod/sales/manual__1, who held it since")
    assert first.endswith(f"with token {token}.")
    assert url == f"  See {RUN['url']}"
    assert following == "Nobody waits for it: it is free."
    assert advice.startswith("Who lost it is not stopped by that.")
    (entry,) = audit(client, "dag:sales", namespace=namespace)
    assert (entry.owner, entry.token, entry.why) == ("prod/sales/manual__1", token, "worker lost")
    assert entry.by == f"{getpass.getuser()}@{socket.gethostname()}"


def test_one_of_several_holders(call: Call, take: Take) -> None:
    for owner in ("one", "two", "three"):
        take("pool", owner, permits=3)
    take("pool", "four", permits=3)
    words = ("locks", "release", "pool", *FORCED, "--owner", "two", "--by", "ops", "--json")
    found = call(*words).json
    assert [one["owner"] for one in found["lost"]] == ["two"]
    assert [one["owner"] for one in found["now"]["holders"]] == ["one", "three"]
    assert (found["name"], found["by"], found["why"]) == ("pool", "ops", "worker lost")
    assert found["now"]["waiting"] == 1
    out = call("locks", "release", "pool", *FORCED, "--owner", "one").out
    assert "\nNow held by three.\n" in out
    ran = call("locks", "release", "pool", *FORCED, "--owner", "two")
    assert ran.code == 1
    assert "is not held by 'two', but by 'three'; nothing was changed." in ran.err
    out = call("locks", "release", "pool", *FORCED).out
    assert "\nNext in line: four; waiting: 1.\n" in out


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_nothing_to_release(call: Call, options: tuple[str, ...]) -> None:
    ran = call("locks", "release", "a", *FORCED, *options)
    expected = "nexus-redis: Lock 'a' is not held; nothing was changed.\n"
    assert ran == (1, "", expected)


def test_a_waiter_gets_it(
    call: Call, take: Take, endpoint: Endpoint, namespace: str, wait_until: WaitUntil
) -> None:
    stuck = take("a", "stuck", lease=3600).token
    tokens = list[int]()

    def work() -> None:
        with Lock(endpoint, "a", owner="next", wait=60, poll=30, namespace=namespace) as lock:
            tokens.append(lock.token)

    worker = threading.Thread(target=work)
    worker.start()
    wait_until(lambda: call("locks", "list", "--json").json[0]["waiting"] == 1)
    assert call("locks", "release", "a", *FORCED).code == 0
    worker.join(10)
    assert not worker.is_alive(), "it was not woken"
    assert tokens[0] > stuck


def test_a_user_without_a_name(call: Call, take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 50000")

    monkeypatch.setattr(commands.getpass, "getuser", nameless)
    take("a")
    assert call("locks", "release", "a", *FORCED, "--json").json["by"].startswith("uid ")
