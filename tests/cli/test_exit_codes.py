"""What goes wrong is one line on stderr and an exit code; and what the console script adds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from nexus_redis_provider.cli.main import main
from nexus_redis_provider.core.endpoint import URL_VARIABLE
from nexus_redis_provider.embedded import EmbeddedServer
from tests.cli.conftest import Call, Take
from tests.kinds import single_server
from tests.urls import url_of

SCRIPT = Path(sys.executable).with_name("nexus-redis")
NOWHERE = "redis://127.0.0.1:1?retries=0"


def failed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(words)
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("nexus-redis: ")
    assert len(err.splitlines()) == 1
    return code, err


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("list", "--json"),
        ("show", "a"),
        ("release", "a", "--force", "--why", "x"),
    ],
)
def test_nobody_answers(capsys, words) -> None:
    code, err = failed(capsys, "--url", NOWHERE, "locks", *words)
    assert code == 3
    assert "127.0.0.1:1/0 cannot be reached" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--url", "http://x", "locks", "list"), "starts with redis://"),
        (("--namespace", "a b", "locks", "list", "--url", NOWHERE), "A namespace must be"),
        (("locks", "show", "\udcff", "--url", NOWHERE), "name is not UTF-8 text"),
        (("locks", "list"), URL_VARIABLE),
    ],
)
def test_wrong_configuration(capsys, monkeypatch, words, said) -> None:
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    code, err = failed(capsys, *words)
    assert code == 2
    assert said in err


@pytest.mark.parametrize("words", [(), ("locks",), ("locks", "steal", "a"), ("locks", "show")])
def test_wrong_use(capsys, words) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert not capsys.readouterr().out


@single_server
def test_denied(capsys, client: redis.Redis, server: EmbeddedServer, namespace, take) -> None:
    take("a")
    client.acl_setuser(
        "onlooker", enabled=True, passwords=["+pw"], keys=["*"], commands=["+scan", "+client"]
    )
    try:
        for password, *words in (("pw", "list"), ("pw", "show", "a"), ("wrong", "list")):
            url = url_of(server.endpoint, f"onlooker:{password}")
            code, err = failed(capsys, "--url", url, "--namespace", namespace, "locks", *words)
            assert code == 4
            assert "denied access" in err
    finally:
        client.acl_deluser("onlooker")


def test_the_servers_options_may_stand_at_the_end(capsys, server, namespace, take) -> None:
    take("a")
    words = ("locks", "show", "a", "--url", server.url, "--namespace", namespace)
    assert main(["--url", NOWHERE, *words]) == 0
    assert "Held by me" in capsys.readouterr().out


def test_without_rich(call: Call, take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    take("a")
    monkeypatch.setitem(sys.modules, "rich", None)
    ran = call("locks", "release", "a", "--force", "--why", "x")
    assert (ran.code, ran.out) == (2, "")
    assert "pip install 'nexus_redis_provider[cli]'" in ran.err
    assert call("locks", "list", "--json").json[0]["holders"], "and nothing was done"


def script(
    server: EmbeddedServer, *words: str, stdout: Any = subprocess.PIPE, **environment: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [SCRIPT, *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {URL_VARIABLE: server.url} | environment,
    )


def test_the_console_script(server, namespace, take) -> None:
    name = "ünïcødé " + "long " * 30
    token = take(name, "ü").token
    words = ("--namespace", namespace, "locks", "list")
    with script(server, *words, PYTHONIOENCODING="ascii", TERM="xterm-256color") as ran:
        out, err = ran.communicate()
    assert (ran.returncode, err) == (0, "")
    assert "\x1b" not in out
    row = out.splitlines()[2]
    assert row.startswith("\\xfcn\\xefc\\xf8d\\xe9 " + "long " * 30)
    assert row.rstrip().endswith(str(token))


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_reader_that_has_seen_enough(server, namespace, take, options) -> None:
    take("a")
    with script(server, "--namespace", namespace, "locks", "list", *options) as ran:
        ran.stdout.close()
        assert ran.stderr.read() == ""
    assert ran.returncode == 1


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_full_disk(server, namespace, take, options) -> None:
    take("a")
    words = ("--namespace", namespace, "locks", "list", *options)
    with Path("/dev/full").open("w") as full, script(server, *words, stdout=full) as ran:
        said = ran.stderr.read()
    assert ran.returncode == 1
    assert said == "nexus-redis: The answer cannot be written: No space left on device.\n"


def test_its_version_and_help(capsys) -> None:
    for word, said in (("--version", "nexus-redis 0."), ("--help", "Exit codes: 0 done")):
        with pytest.raises(SystemExit) as ended:
            main([word])
        assert ended.value.code == 0
        assert said in capsys.readouterr().out
