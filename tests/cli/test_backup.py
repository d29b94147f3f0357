"""`backup`: made, listed, verified, rehearsed, restored and pruned by the command line."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nexus_redis_provider.cli.main import main
from nexus_redis_provider.core.endpoint import URL_VARIABLE
from nexus_redis_provider.embedded import EmbeddedServer
from tests.cli.conftest import Ran
from tests.core.backup_servers import AT_ONCE, contents, fill, left, started
from tests.guarded import own_server
from tests.topologies import ClusterDeployment, until
from tests.urls import url_of

SCRIPT = Path(sys.executable).with_name("nexus-redis")


@pytest.fixture
def own() -> Iterator[EmbeddedServer]:
    with own_server("--appendonly", "yes", *AT_ONCE) as own:
        fill(own)
        yield own


@pytest.fixture
def backup(own: EmbeddedServer, capsys: Any, monkeypatch: Any) -> Any:
    monkeypatch.delenv(URL_VARIABLE, raising=False)

    def backup(word: str, *words: str, url: str | None = None) -> Ran:
        server = ("--url", url) if url else ()
        return Ran(main((*server, "backup", word, *words)), *capsys.readouterr())

    return backup


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "backups")


def test_the_way_of_a_backup(own: EmbeddedServer, backup: Any, root: str, tmp_path: Path) -> None:
    made = backup("create", root, "--json", url=own.url).json
    assert (made["kind"], made["keys"], made["removed"]) == ("rdb", 207, [])
    log = backup(
        "create", root, "--kind", "aof", "--data-dir", str(own.directory), "--json", url=own.url
    ).json
    before = contents(own.endpoint)
    # From here on, no server is asked.
    names = [one["name"] for one in backup("list", root, "--json").json]
    assert names == [log["name"], made["name"]]
    heading, _, *rows = backup("list", root).out.splitlines()
    assert heading.split() == ["BACKUP", "KIND", "WHEN", "(UTC)", "BYTES", "KEYS", "SERVER"]
    assert [row.split()[0] for row in rows] == names
    assert rows[1].rstrip().endswith(f"at 127.0.0.1:{own.port}/0")
    found = backup("verify", root, made["name"], "--json").json
    assert found == {"name": made["name"], "read_by_tool": True, "keys": 207}
    ran = backup("verify", root)
    assert ran.out.startswith(f"Backup {log['name']}: all 3 file(s) are as they were made.")
    done = backup("rehearse", root, made["name"], "--json").json
    assert (done["keys"], done["compared"]) == (207, 0)
    assert done["databases"] == {
        "0": {"keys": 206, "expires": 101},
        "3": {"keys": 1, "expires": 0},
    }
    ran = backup("rehearse", root, "--compare", url=own.url)
    assert f"207 keys compared with 127.0.0.1:{own.port}/0: 0 differ." in ran.out
    data = tmp_path / "data"
    ran = backup("restore", root, made["name"], "--to", str(data))
    assert f"{data} holds the 207 keys of backup {made['name']}.\n101 of them expire;" in ran.out
    assert "Start the server with `appendonly yes`" in ran.out
    with started(data, "--appendonly", "yes", binary=own._binary) as server:
        assert contents(server.endpoint) == before
    words = ("restore", root, log["name"], "--to", str(data), "--appendonly", "no", "--json")
    ran = backup(*words)
    assert ran.code == 2
    assert f"{data} is not empty: appendonlydir" in ran.err
    again = backup(*words, "--replace").json
    assert again["appendonly"] is False
    assert Path(again["set_aside"], "appendonlydir").exists()
    with started(data, "--appendonly", "no", binary=own._binary) as server:
        assert contents(server.endpoint) == before


def test_a_cluster(deployment: ClusterDeployment, backup: Any, root: str, tmp_path: Path) -> None:
    with deployment.endpoint.client() as client:
        for number in range(100):
            client.set(f"{number}", "x")
    ran = backup("create", root, url=deployment.url)
    assert "node-3" in ran.out
    assert " keys of slots 0-" in ran.out
    (made,) = backup("list", root, "--json").json
    name = made["name"]
    assert made["keys"] == sum(part["keys"] for part in made["parts"]) == 100
    assert backup("verify", root).out.startswith(f"Backup {name}: all 3 file(s) are as they were")
    ran = backup("rehearse", root, "--compare", url=deployment.url)
    assert "100 keys compared with" in ran.out
    data = tmp_path / "data"
    ran = backup("restore", root, name, "--to", str(data))
    assert (ran.code, data.exists()) == (2, False)
    assert f"{name}/node-1, {name}/node-2" in ran.err
    ran = backup("restore", root, f"{name}/node-1", "--to", str(data))
    first, last = made["parts"][0]["slots"][0]
    assert f"it serves slots {first}-{last}. When all nodes have loaded" in ran.out
    assert backup("prune", root, "--keep", "1", "--json").json["removed"] == []


def test_a_server_whose_names_nobody_may_ask_for(backup: Any, root: str, tmp_path: Path) -> None:
    """With the rights that a backup needs, and no more."""
    named = ("--dbfilename", "mine.rdb", "--appenddirname", "log", "--appendfilename", "my.aof")
    options = ("--appendonly", "yes", *named)
    data = tmp_path / "data"
    data.mkdir()
    own = own_server(*options, *AT_ONCE, "--dir", str(data))
    with own, own.endpoint.client() as client:
        client.set("a", 1)
        rights = ["-@all", "+info", "+psync", "+replconf", "+client"]
        client.execute_command("ACL", "SETUSER", "clerk", "on", "nopass", *rights)
        (password := tmp_path / "password").write_text("x")
        url = url_of(own.endpoint, "clerk", password_file=str(password))
        made = backup("create", root, url=url)
    assert "The server did not tell dbfilename, appenddirname, appendfilename," in made.out
    (name,) = [one["name"] for one in backup("list", root, "--json").json]
    ran = backup("restore", root, name, "--to", str(tmp_path / "new"))
    assert "`appendonly yes`, `appenddirname appendonlydir`, `appendfilename appen" in ran.out
    assert "Nobody told appenddirname, appendfilename, so these are the usual ones" in ran.out
    ran = backup("restore", root, name, "--to", str(data), "--replace")
    assert (ran.code, ran.out) == (2, "")
    assert f"{data} has log/my.aof.manifest, and no appendonlydir/appendonly.aof.manif" in ran.err
    ran = backup("restore", root, name, "--to", str(data), "--replace", *named, "--json")
    settings = {"appendonly": "yes", "appenddirname": "log", "appendfilename": "my.aof"}
    assert (ran.json["settings"], ran.json["assumed"]) == (settings, [])
    with started(data, *options, binary=own._binary) as server, server.endpoint.client() as client:
        assert client.get("a") == b"1"


def test_where_a_server_still_answers(own, backup: Any, root: str, tmp_path: Path) -> None:
    made = backup("create", root, "--json", url=own.url).json
    ran = backup("restore", root, made["name"], "--to", str(tmp_path / "data"), url=own.url)
    assert ran.code == 2
    assert f"Redis at 127.0.0.1:{own.port}/0 answers: stop it first" in ran.err


def test_what_stays(own, backup: Any, root: str) -> None:
    names = [backup("create", root, "--json", url=own.url).json["name"] for _ in range(3)]
    ran = backup("prune", root, "--keep", "2", "--dry-run")
    assert ran.out.splitlines() == ["1 backup(s) would be removed.", names[0]]
    made = backup("create", root, "--keep", "2", "--keep-days", "0.0000001", "--json", url=own.url)
    assert made.json["removed"] == names[:2]
    assert backup("prune", root, "--keep", "1", "--json").json == {
        "dry_run": False,
        "removed": [names[2]],
    }
    assert [one["name"] for one in backup("list", root, "--json").json] == [made.json["name"]]
    assert backup("prune", root).code == 2


def date(folder: Path, at: str) -> None:
    """Have a backup made at another time, as the clock of another host had it."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"created_at": at}))


def test_the_one_just_made_stays(own, backup: Any, root: str) -> None:
    ahead = backup("create", root, "--json", url=own.url).json["name"]
    date(Path(root, ahead), "2999-01-01T00:00:00+00:00")
    made = backup("create", root, "--keep", "1", "--json", url=own.url).json
    assert made["removed"] == []
    assert left(Path(root)) == sorted([ahead, made["name"]])


def test_bad_retention_makes_no_backup(own, backup: Any, root: str) -> None:
    for option, value in (
        ("--keep", "0"),
        ("--keep-days", "0"),
        ("--keep-days", "nan"),
        ("--keep-days", "inf"),
    ):
        ran = backup("create", root, option, value, url=own.url)
        assert (ran.code, ran.out) == (2, "")
        assert f", not {value}" in ran.err
        assert not Path(root).exists()


@pytest.mark.parametrize("option", ["--data-dir", "--server-binary"])
def test_an_empty_path_is_not_the_current_folder(option: str, own, backup: Any, root: str) -> None:
    """As of a variable that is not set."""
    ran = backup("create", root, option, "", url=own.url)
    assert (ran.code, ran.out) == (2, "")
    assert "A path must not be empty: leave its option out, or say where." in ran.err
    assert not Path(root).exists()


def test_a_binary_of_something_else(own, backup: Any, root: str) -> None:
    backup("create", root, url=own.url)
    for word in ("verify", "rehearse"):
        ran = backup(word, root, "--server-binary", "/bin/true")
        assert (ran.code, ran.out) == (2, "")
        assert "/bin/true is no Redis server" in ran.err


def test_a_folder_without_a_name(own, backup: Any, root: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (("create", ""), ("list", " "), ("restore", root, "x", "--to", "")):
        ran = backup(*words, url=own.url)
        assert (ran.code, ran.out) == (2, "")
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_one_line(own, backup: Any, root: str) -> None:
    for words, said in (
        (("list", root), "cannot be read"),
        (("verify", root), "cannot be read"),
        (("rehearse", root, "x"), "There is no backup"),
    ):
        ran = backup(*words)
        assert (ran.code, ran.out) == (1, "")
        assert said in ran.err
        assert len(ran.err.splitlines()) == 1
    name = backup("create", root, "--json", url=own.url).json["name"]
    file = Path(root, name, "dump.rdb")
    file.write_bytes(file.read_bytes()[:-1])
    for word in ("verify", "rehearse"):
        ran = backup(word, root)
        assert ran.code == 1
        assert f"Backup '{name}' is not sound: dump.rdb has" in ran.err
    Path(root, name, "manifest.json").write_text("")
    ran = backup("list", root)
    assert (ran.code, ran.out) == (1, f"No backups in {root}.\n")
    assert f"Backup '{name}' is not sound" in ran.err


def test_keys_that_differ_from_the_source(own, backup: Any, root: str) -> None:
    backup("create", root, "--json", url=own.url)
    with own.endpoint.client() as client:
        client.set("small", "other")
    ran = backup("rehearse", root, "--compare", url=own.url)
    assert ran.code == 1
    assert "1 of 207 keys that were sampled are not as" in ran.err
    assert backup("rehearse", root, "--compare", "--tolerance", "0.1", url=own.url).code == 0
    # Which server, nobody said.
    assert backup("rehearse", root, "--compare").code == 2


def heed_ctrl_c() -> None:
    """As a process of a terminal; one in the background has children that ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("told", "code"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 130)]
)
def test_told_to_end(told: signal.Signals, code: int, root: str) -> None:
    """Nothing is left of a backup that somebody ends."""
    with own_server("--repl-diskless-sync-delay", "3600") as slow:
        words = [SCRIPT, "--url", slow.url, "backup", "create", root]
        with subprocess.Popen(words, preexec_fn=heed_ctrl_c) as running:  # noqa: PLW1509
            until(lambda: Path(root).exists() and list(Path(root).iterdir()), "a begun backup", 60)
            running.send_signal(told)
            assert running.wait(60) == code
    assert list(Path(root).iterdir()) == []


def test_a_full_disk(own: EmbeddedServer, root: str) -> None:
    """Nothing is left, and nothing is to be seen, where the file cannot be written to its end."""
    with own.endpoint.client() as client:
        client.set("large", os.urandom(300_000))

    def no_more_than_100_kb() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    ran = subprocess.run(
        [SCRIPT, "--url", own.url, "backup", "create", root, "--json"],
        preexec_fn=no_more_than_100_kb,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"nexus-redis: No backup was made in {root}: ")
    assert "File too large" in ran.stderr
    assert list(Path(root).iterdir()) == []
    with own.endpoint.client() as client:
        assert client.ping()
