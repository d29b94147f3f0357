"""`airflow nexus-redis`: the same commands, on the server of a connection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
from airflow.cli import cli_parser
from airflow.utils.session import create_session

from nexus_redis_provider.cli.commands import COMMANDS, GROUPS
from nexus_redis_provider.core.locks.audits import audit
from nexus_redis_provider.core.locks.protocol import Claim, acquire, inspect
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.core.tags import stamp
from tests.kinds import plain, single_server
from tests.urls import connection_uri

AIRFLOW = Path(sys.executable).with_name("airflow")


@pytest.fixture
def held(client: redis.Redis, namespace: str) -> int:
    """The token of a DAG run that holds the lock `dag:sales`."""
    description = {"dag_id": "sales", "run_id": "manual__1"}
    claim = Claim("dag:sales", "test/sales/manual__1", description=description, namespace=namespace)
    return run(client, acquire(claim, 60)).token


def shell(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [AIRFLOW, "nexus-redis", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"AIRFLOW_HOME": str(home)},
    )


# Of a URI with options Airflow warns that a short one is not masked.
@plain
def test_list_and_release_in_a_shell(tmp_path: Path, client, namespace, held) -> None:
    listed = shell(tmp_path, "locks", "list", "--json", "--namespace", namespace)
    assert (listed.returncode, listed.stderr) == (0, "")
    (found,) = json.loads(listed.stdout)
    assert (found["name"], found["token"]) == ("dag:sales", held)

    words = ("dag:sales", "--force", "--why", "worker lost", "--namespace", namespace)
    released = shell(tmp_path, "locks", "release", *words)
    assert (released.returncode, released.stderr) == (0, "")
    assert "Lock dag:sales was taken from test/sales/manual__1" in released.stdout
    assert not run(client, inspect("dag:sales", namespace=namespace)).holders
    assert audit(client, "dag:sales", namespace=namespace)[0].why == "worker lost"


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    # The command sets it, and the test sets it back.
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "")
    args = cli_parser.get_parser().parse_args(["nexus-redis", *words])
    try:
        args.func(args)
    except SystemExit as ended:
        return int(str(ended.code))
    return 0


@pytest.mark.parametrize(
    "words",
    [command.name for command in COMMANDS]
    + [f"{group.name} {command.name}" for group in GROUPS for command in group.commands],
)
def test_help(capsys: pytest.CaptureFixture[str], words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli_parser.get_parser().parse_args(["nexus-redis", *words.split(), "--help"])
    assert not ended.value.code
    out = capsys.readouterr().out
    assert f"airflow nexus-redis {words}" in out
    assert "redis://user@host:6379/0?password_env=NAME" in out
    assert "--conn-id ID" in out


@pytest.fixture
def stored(database: None, server: Any) -> Any:
    """A connection that only Airflow's database knows."""
    from airflow.models.connection import Connection

    connection = Connection("stored", uri=connection_uri("nexus-redis", server.endpoint))
    with create_session() as session:
        session.add(connection)
    yield connection.conn_id
    with create_session() as session:
        session.delete(connection)


def test_a_connection_of_the_database(monkeypatch, capsys, namespace, held, stored) -> None:
    words = ("locks", "show", "dag:sales", "--conn-id", stored, "--namespace", namespace)
    assert call(monkeypatch, *words) == 0
    assert f"token       {held}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--conn-id", "nope"), 2, "`nope` isn't defined"),
        (("--conn-id", "nowhere"), 3, "cannot be reached"),
        (("--conn-id", "nowhere", "--url", "redis://127.0.0.1:1"), 2, "not both"),
        (("--url", "redis://127.0.0.1:1?retries=0"), 3, "cannot be reached"),
    ],
)
@pytest.mark.usefixtures("database")
def test_what_goes_wrong(monkeypatch, capsys, words, code, said) -> None:
    assert call(monkeypatch, "locks", "list", *words) == code
    out, err = capsys.readouterr()
    assert not out
    assert said in err
    assert err.startswith("nexus-redis: ")


def test_tags(monkeypatch, capsys, client, namespace) -> None:
    before = stamp(client, ["prices"], namespace=namespace)
    words = ("tags", "invalidate", "prices", "region:eu", "--namespace", namespace)
    assert call(monkeypatch, *words) == 0
    assert capsys.readouterr().out.startswith("prices invalidated at ")
    assert stamp(client, ["prices"], namespace=namespace) != before


@single_server
def test_ping(monkeypatch, capsys) -> None:
    assert call(monkeypatch, "ping") == 0
    assert capsys.readouterr().out.startswith("Standalone: ")
    assert call(monkeypatch, "ping", "--conn-id", "nowhere") == 3
    assert "port: nothing listens at 127.0.0.1:1" in capsys.readouterr().err
