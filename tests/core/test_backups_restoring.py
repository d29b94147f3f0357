"""Restoring for real: a server starts with what was backed up, with every TTL."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nexus_redis_provider.core.backups import restoring
from nexus_redis_provider.core.backups.checks import Tools
from nexus_redis_provider.core.backups.creating import Plan, create_backup
from nexus_redis_provider.core.backups.folders import Backup, verify
from nexus_redis_provider.core.backups.manifests import NAMING, Kind, Names
from nexus_redis_provider.core.backups.rehearsing import Comparison, rehearse
from nexus_redis_provider.core.backups.restoring import restore
from nexus_redis_provider.core.errors import (
    BackupError,
    ConfigurationError,
    CorruptBackupError,
    RehearsalError,
)
from nexus_redis_provider.embedded import EmbeddedServer
from tests.conftest import WaitUntil
from tests.core.backup_servers import AT_ONCE, contents, expire_field, fill, left, started
from tests.guarded import own_server


class Made:
    """Backups of a server, and what it held."""

    def __init__(self, own: EmbeddedServer, root: Path) -> None:
        self.binary = own._binary
        fill(own)
        self.contents = contents(own.endpoint)
        with own.endpoint.client() as client:
            self.backups = {
                kind: create_backup(
                    client, root, Plan(kind=kind, data_dir=own.directory, server_binary=self.binary)
                )
                for kind in Kind
            }


@pytest.fixture(scope="module")
def made(binary: Path, tmp_path_factory: Any) -> Iterator[Made]:
    own = own_server("--appendonly", "yes", *AT_ONCE, binary=binary)
    with own:
        yield Made(own, tmp_path_factory.mktemp("backups"))


@pytest.fixture(params=Kind)
def backup(request: Any, made: Made) -> Backup:
    return made.backups[request.param]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.mark.parametrize("appendonly", [True, False, None])
def test_everything_comes_back(made: Made, backup: Backup, data: Path, appendonly) -> None:
    done = restore(backup, data, appendonly=appendonly, server_binary=made.binary)
    # By default as it was.
    assert done.appendonly is (appendonly is not False)
    assert done.keys == len(made.contents)
    assert done.set_aside is None
    made_of = ["appendonlydir"] if done.appendonly else ["dump.rdb"]
    assert [one.name for one in data.iterdir()] == made_of
    word = "yes" if done.appendonly else "no"
    with started(data, "--appendonly", word, binary=made.binary) as server:
        assert contents(server.endpoint) == made.contents
        with server.endpoint.client() as client:
            assert client.pttl(b"key:\xff1") > 3_000_000
            client.set("new", "x")
            if done.appendonly:
                client.bgrewriteaof()
    if done.appendonly:
        # And it is a log that goes on.
        with started(data, "--appendonly", "yes", binary=made.binary) as server:
            assert len(contents(server.endpoint)) == len(made.contents) + 1


def test_a_directory_beside_us(
    made: Made, backup: Backup, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.parent.mkdir(exist_ok=True)
    monkeypatch.chdir(data.parent)
    done = restore(backup, Path(data.name), server_binary=made.binary)
    assert done.directory == data
    assert done.keys == len(made.contents)


NAMED = Names(
    dbfilename="mine.rdb", appenddirname="mydir", appendfilename="my.aof", clusterconfigfile="my"
)
CONFIGURED = tuple(
    word
    for setting in ("dbfilename", "appenddirname", "appendfilename")
    for word in (f"--{setting}", NAMED.of(setting))
)


@pytest.mark.parametrize("appendonly", [True, False])
def test_names_that_another_server_has(made: Made, backup: Backup, data: Path, appendonly) -> None:
    done = restore(backup, data, appendonly=appendonly, names=NAMED, server_binary=made.binary)
    word = "yes" if appendonly else "no"
    names = (
        {"appenddirname": "mydir", "appendfilename": "my.aof"}
        if appendonly
        else {"dbfilename": "mine.rdb"}
    )
    assert done.settings == {"appendonly": word, **names}
    with started(data, "--appendonly", word, *CONFIGURED, binary=made.binary) as server:
        assert contents(server.endpoint) == made.contents


def test_other_names_say_nothing_of_the_log(made: Made, data: Path) -> None:
    """A server that reads one, as this was, would start empty."""
    done = restore(
        made.backups[Kind.RDB], data, names=Names(dbfilename="x.rdb"), server_binary=made.binary
    )
    assert (done.appendonly, left(data)) == (True, ["appendonlydir"])


@pytest.mark.parametrize("appendonly", [True, False])
def test_a_server_that_has_other_names(made: Made, backup: Backup, data: Path, appendonly) -> None:
    """It would start with what it has, as if nothing had been restored."""
    data.mkdir()
    word = "yes" if appendonly else "no"
    options = ("--appendonly", word, *CONFIGURED)
    with started(data, *options, binary=made.binary) as old, old.endpoint.client() as client:
        client.set("old", 1)
        client.save()
    before = state_of(data)
    has = r"mydir/my\.aof\.manifest" if appendonly else r"mine\.rdb"
    with pytest.raises(ConfigurationError, match=rf"{data} has {has}, and no .*may call"):
        restore(backup, data, appendonly=appendonly, replace=True, server_binary=made.binary)
    assert state_of(data) == before
    restore(
        *(backup, data),
        appendonly=appendonly,
        names=NAMED,
        replace=True,
        server_binary=made.binary,
    )
    with started(data, *options, binary=made.binary) as server:
        assert contents(server.endpoint) == made.contents


@pytest.mark.parametrize("name", ["temp-12.rdb", "appendonly.aof"])
def test_what_is_no_other_name(made: Made, data: Path, name: str) -> None:
    """What a killed save has left, and the log of a server before Redis 7."""
    data.mkdir()
    (data / name).write_bytes(b"REDIS0010")
    backup = made.backups[Kind.RDB]
    restore(backup, data, appendonly=False, replace=True, server_binary=made.binary)


def test_names_that_nobody_told(made: Made, tmp_path: Path) -> None:
    backup = made.backups[Kind.RDB]
    unknown = Names(appendonly=True, assumed=NAMING)
    untold = Backup(backup.folder, replace(backup.manifest, names=unknown))
    usual = {"appenddirname": "appendonlydir", "appendfilename": "appendonly.aof"}
    done = restore(untold, tmp_path / "a", server_binary=made.binary)
    assert done.settings == {"appendonly": "yes", **usual}
    assert done.assumed == list(usual)
    names = unknown.told({"appenddirname": "appendonlydir"})
    done = restore(untold, tmp_path / "b", names=names, server_binary=made.binary)
    assert done.assumed == ["appendfilename"]
    done = restore(backup, tmp_path / "c", server_binary=made.binary)
    assert done.assumed == []


def test_an_older_manifest_does_not_say_which_names_were_told() -> None:
    usual = {"dbfilename": "dump.rdb", "appendonly": True, "appendfilename": "appendonly.aof"}
    facts = usual | {"appenddirname": "log", "clusterconfigfile": "/etc/redis/nodes-1.conf"}
    assert Names.from_dict(facts) == Names(
        appendonly=True,
        appenddirname="log",
        clusterconfigfile="nodes-1.conf",
        assumed=("dbfilename", "appendfilename"),
    )


def test_an_older_manifest_of_a_server_without_a_name_for_its_snapshots() -> None:
    facts = {"dbfilename": "", "appendonly": True, "appenddirname": "log", "appendfilename": "a"}
    assert Names.from_dict(facts) == Names(
        appendonly=True,
        appenddirname="log",
        appendfilename="a",
        assumed=("dbfilename", "cluster-config-file"),
    )


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(ConfigurationError, match="appenddirname must be the name of a file"):
        Names().told({"appenddirname": name})


def test_the_mistake_that_this_is_about(made: Made, data: Path) -> None:
    """An RDB file that is merely put there is not read, and all is lost."""
    data.mkdir()
    shutil.copy(made.backups[Kind.RDB].folder / "dump.rdb", data)
    with started(data, "--appendonly", "yes", binary=made.binary) as server:
        assert contents(server.endpoint) == {}


def test_what_has_expired_since_is_gone(binary: Path, tmp_path: Path) -> None:
    with own_server(*AT_ONCE, binary=binary) as own, own.endpoint.client() as client:
        client.set("stays", 1)
        at = int(time.time() * 1000) + 1500
        client.set("goes", 1, pxat=at)
        backup = create_backup(client, tmp_path / "b", Plan(server_binary=own._binary))
        assert backup.manifest.keys == 2
        while time.time() * 1000 <= at:
            time.sleep(0.05)
        for appendonly in (True, False):
            done = restore(
                backup,
                tmp_path / f"data-{appendonly}",
                appendonly=appendonly,
                server_binary=own._binary,
            )
            # In the files they are still, so that they can be counted.
            assert (done.keys, done.expires) == (2, 1)
            word = "yes" if appendonly else "no"
            with started(done.directory, "--appendonly", word, binary=own._binary) as server:
                assert [key for _, key in contents(server.endpoint)] == [b"stays"]


@pytest.mark.parametrize("kind", Kind)
def test_hashes_all_of_whose_fields_have_expired_since(binary: Path, root: Path, kind) -> None:
    """No key of theirs has a TTL, and there is none when the server starts."""
    own = own_server("--appendonly", "yes", *AT_ONCE, binary=binary)
    with own, own.endpoint.client() as client:
        client.set("stays", 1)
        expire_field(client, "goes", "field", ttl_ms=1500)
        at = client.hpexpiretime("goes", "field")[0]
        plan = Plan(kind=kind, data_dir=own.directory, server_binary=own._binary)
        backup = create_backup(client, root, plan)
        while time.time() * 1000 <= at:
            time.sleep(0.05)
        compare = Comparison(source=own.endpoint)
        assert rehearse(backup, compare=compare, server_binary=own._binary).different == 0
        for appendonly in (True, False):
            data = root / f"data-{appendonly}"
            done = restore(backup, data, appendonly=appendonly, server_binary=own._binary)
            assert (done.keys, done.expires) == (2, 0)
            word = "yes" if appendonly else "no"
            with started(data, "--appendonly", word, binary=own._binary) as server:
                assert [key for _, key in contents(server.endpoint)] == [b"stays"]


def test_a_directory_that_is_not_empty(made: Made, backup: Backup, data: Path) -> None:
    data.mkdir()
    (data / "lost+found").mkdir()
    (data / "redis.conf").write_text("x")
    with pytest.raises(ConfigurationError, match=r"not empty: redis\.conf\. Say that"):
        restore(backup, data, server_binary=made.binary)
    assert sorted(one.name for one in data.iterdir()) == ["lost+found", "redis.conf"]


@pytest.mark.parametrize("place", [".", "new", "..", "../another", "../../link"])
def test_a_directory_among_backups(made: Made, backup: Backup, tmp_path: Path, place: str) -> None:
    """Its files would be set aside, or those of a server be taken for a backup's."""
    root = tmp_path / "backups"
    for name in (backup.folder.name, "another"):
        shutil.copytree(backup.folder, root / name)
    (tmp_path / "link").symlink_to(root / backup.folder.name)
    before = sorted(tmp_path.rglob("*"))
    one = Backup.open(root / backup.folder.name)
    with pytest.raises(ConfigurationError, match="Name another directory"):
        restore(one, one.folder / place, replace=True, server_binary=made.binary)
    assert sorted(tmp_path.rglob("*")) == before
    verify(one, Tools.find(made.binary))


def test_a_directory_that_has_the_folder_of_all_backups(made: Made, tmp_path: Path) -> None:
    backup = made.backups[Kind.RDB]
    folder = shutil.copytree(backup.folder, tmp_path / "backups" / backup.folder.name)
    done = restore(
        Backup.open(folder), tmp_path, replace=True, appendonly=False, server_binary=made.binary
    )
    assert (done.set_aside, left(tmp_path)) == (None, ["backups", "dump.rdb"])


@pytest.mark.parametrize("appendonly", [True, False])
def test_what_was_there_is_set_aside(made: Made, backup: Backup, data: Path, appendonly) -> None:
    data.mkdir()
    word = "yes" if appendonly else "no"
    # Of both kinds: the one that the server reads must not be the old one.
    before = started(data, "--appendonly", "yes", binary=made.binary)
    with before as server, server.endpoint.client() as client:
        client.set("old", 1)
        client.save()
    done = restore(backup, data, appendonly=appendonly, replace=True, server_binary=made.binary)
    assert done.set_aside is not None
    assert sorted(one.name for one in done.set_aside.iterdir()) == ["appendonlydir", "dump.rdb"]
    with started(data, "--appendonly", word, binary=made.binary) as server:
        assert contents(server.endpoint) == made.contents
    with started(done.set_aside, "--appendonly", "yes", binary=made.binary) as server:
        assert [key for _, key in contents(server.endpoint)] == [b"old"]


def test_a_server_that_runs_there(made: Made, backup: Backup, data: Path) -> None:
    data.mkdir()
    with started(data, binary=made.binary) as running:
        for folder in (data, data.parent):
            with pytest.raises(ConfigurationError, match=rf"process {running.pid}\) runs in"):
                restore(backup, folder, replace=True, server_binary=made.binary)
        with running.endpoint.client() as client:
            assert client.ping()
        assert list(data.iterdir()) == []
    restore(backup, data, server_binary=made.binary)


def test_a_server_that_a_killed_restore_has_left(made: Made, backup: Backup, data: Path) -> None:
    staging = data / ".restoring-abc"
    staging.mkdir(parents=True)
    told = "for another restore, or one that was killed: stop it first"
    with started(staging, binary=made.binary), pytest.raises(ConfigurationError, match=told):
        restore(backup, data, server_binary=made.binary)
    restore(backup, data, server_binary=made.binary)


def test_a_server_that_answers(made: Made, backup: Backup, data: Path) -> None:
    with EmbeddedServer("--requirepass", "secret", binary=made.binary) as running:
        with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{running.port}/0 answers"):
            restore(backup, data, server=running.endpoint, server_binary=made.binary)
        assert not data.exists()
    stopped = replace(running.endpoint, retries=0)
    assert restore(backup, data, server=stopped, server_binary=made.binary).keys == 207


def state_of(data: Path) -> dict[str, bytes]:
    return {
        str(one.relative_to(data)): one.read_bytes() for one in data.rglob("*") if one.is_file()
    }


@pytest.fixture
def occupied(data: Path) -> Path:
    data.mkdir()
    (data / "dump.rdb").write_bytes(b"of before")
    return data


@pytest.mark.parametrize("when", ["loading", "converting"])
def test_the_server_is_killed_during_the_restore(
    made: Made, occupied: Path, monkeypatch, when
) -> None:
    before = state_of(occupied)
    name = "databases_in" if when == "loading" else "await_state"
    real = getattr(restoring, name)

    def kill(client: Any, *args: Any) -> Any:
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
        return real(client, *args)

    monkeypatch.setattr(restoring, name, kill)
    with pytest.raises(BackupError, match="The server that was to load backup"):
        restore(made.backups[Kind.RDB], occupied, replace=True, server_binary=made.binary)
    assert state_of(occupied) == before
    monkeypatch.undo()
    done = restore(made.backups[Kind.RDB], occupied, replace=True, server_binary=made.binary)
    assert done.keys == len(made.contents)


def test_we_are_killed_during_the_restore(made: Made, backup: Backup, data: Path) -> None:
    """What is left of it is no hindrance, and nothing that a server reads."""
    remains = data / ".restoring-abc"
    remains.mkdir(parents=True)
    (remains / "dump.rdb").write_bytes(b"half")
    restore(backup, data, server_binary=made.binary)
    assert not remains.exists()


def test_new_files_are_tried_before_they_are_put_in_place(
    made: Made, occupied: Path, monkeypatch
) -> None:
    before = state_of(occupied)
    real = restoring.await_state

    def lose(client: Any, *args: Any) -> None:
        real(client, *args)
        client.replicaof("NO", "ONE")
        client.flushall()

    monkeypatch.setattr(restoring, "await_state", lose)
    with pytest.raises(RehearsalError, match="0 keys came back of 207 in the new files"):
        restore(made.backups[Kind.RDB], occupied, replace=True, server_binary=made.binary)
    assert state_of(occupied) == before


def test_the_log_cannot_be_written(made: Made, data: Path, monkeypatch) -> None:
    real = restoring.translated_errors

    def spoil(client: Any) -> Any:
        # Just before it is told to keep a log.
        (staging,) = data.glob(".restoring-*")
        shutil.rmtree(staging)
        return real(client)

    monkeypatch.setattr(restoring, "translated_errors", spoil)
    with pytest.raises(BackupError):
        restore(made.backups[Kind.RDB], data, server_binary=made.binary)
    assert list(data.iterdir()) == []


def test_no_reply_is_due_when_a_snapshot_is_written(made: Made, data: Path, monkeypatch) -> None:
    """It takes longer than any reply may, where there is much: so not by SAVE."""
    real = restoring.databases_in

    def forbid(client: Any) -> Any:
        client.execute_command("ACL", "SETUSER", "default", "-save")
        return real(client)

    monkeypatch.setattr(restoring, "databases_in", forbid)
    backup = made.backups[Kind.AOF]
    done = restore(backup, data, appendonly=False, server_binary=made.binary)
    assert done.keys == len(made.contents)


def test_a_damaged_backup(made: Made, backup: Backup, occupied: Path, tmp_path: Path) -> None:
    copy = Backup.open(Path(shutil.copytree(backup.folder, tmp_path / backup.folder.name)))
    path = copy.path(copy.manifest.files[0])
    path.write_bytes(path.read_bytes()[:-1])
    before = state_of(occupied)
    with pytest.raises(CorruptBackupError):
        restore(copy, occupied, replace=True, server_binary=made.binary)
    assert state_of(occupied) == before


def test_fewer_keys_than_there_were(made: Made, occupied: Path) -> None:
    backup = made.backups[Kind.RDB]
    more = Backup(backup.folder, replace(backup.manifest, keys=10_000))
    before = state_of(occupied)
    with pytest.raises(RehearsalError, match="207 keys came back of 10,000"):
        restore(more, occupied, replace=True, server_binary=made.binary)
    assert state_of(occupied) == before


def test_a_restore_gives_files_to_the_owner_of_the_directory(made: Made, data: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    data.mkdir()
    os.chown(data, 12345, 12345)
    restore(made.backups[Kind.RDB], data, server_binary=made.binary)
    assert {one.stat().st_uid for one in data.rglob("*")} == {12345}


def test_a_writer_goes_on_while_the_log_is_copied(
    binary: Path, tmp_path: Path, wait_until: WaitUntil
) -> None:
    """What comes back is everything up to a moment, and nothing after it."""
    stop = threading.Event()
    own = own_server("--appendonly", "yes", binary=binary)
    with own, own.endpoint.client() as client:

        def write() -> None:
            with own.endpoint.client() as writer:
                number = 0
                while not stop.is_set():
                    writer.set(f"{number}", "x" * 1000)
                    number += 1

        thread = threading.Thread(target=write)
        thread.start()
        try:
            wait_until(lambda: client.dbsize() > 200)
            plan = Plan(kind=Kind.AOF, data_dir=own.directory, server_binary=own._binary)
            backup = create_backup(client, tmp_path / "b", plan)
            after = client.dbsize()
        finally:
            stop.set()
            thread.join()
    done = restore(backup, tmp_path / "data", server_binary=own._binary)
    assert 200 < done.keys <= after
    with started(tmp_path / "data", "--appendonly", "yes", binary=own._binary) as again:
        found = {int(key) for _, key in contents(again.endpoint)}
    assert found == set(range(done.keys))
