"""A log that is copied while the server goes on to write it, and to rewrite it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.backups import logs
from nexus_redis_provider.core.backups.checks import Tools
from nexus_redis_provider.core.backups.creating import Plan, create_backup
from nexus_redis_provider.core.backups.folders import backups, verify
from nexus_redis_provider.core.backups.manifests import Kind
from nexus_redis_provider.core.backups.rehearsing import rehearse
from nexus_redis_provider.core.errors import (
    BackupError,
    ConfigurationError,
    SaveFailedError,
    SaveTooLateError,
)
from tests.core.backup_servers import fill, left, plan
from tests.guarded import own_server
from tests.topologies import until


def rewrite(client: redis.Redis) -> None:
    """Returns when the files of a log are others."""

    def is_over() -> bool:
        info: Any = client.info("persistence")
        return not (info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])

    client.bgrewriteaof()
    until(is_over, "a log that is rewritten", timeout=60)


def test_what_clients_were_told_of_and_is_not_written_yet(own, asked, root, monkeypatch) -> None:
    """Where a disk is slow, the server lets clients go on for two seconds before it writes."""
    count = fill(own)
    state, told, looks = logs.await_state, list[Any](), list[bool]()

    def written_late(client: Any, is_reached: Any, *args: Any) -> Any:
        """First it says that there is more to write, which it does once it was looked for."""
        if not told:
            told.append(state(client, is_reached, *args) | {"aof_buffer_length": 1000})
            return told[0]

        def look(found: Any) -> Any:
            looks.append(is_reached(found))
            if len(looks) == 1:
                asked.set("late", "x" * 1000)
            return looks[-1]

        return state(client, look, *args)

    monkeypatch.setattr(logs, "await_state", written_late)
    backup = create_backup(asked, root, plan(own, "log"))
    assert (looks[0], looks[-1]) == (False, True)
    assert rehearse(backup, server_binary=own._binary).keys == count + 1


def test_a_log_that_is_rewritten_while_it_is_copied(own, asked, root, monkeypatch) -> None:
    """It is as it was when it was rewritten, whatever has become of its files."""
    count = fill(own)
    copied, named = logs._copied, list[str]()

    def copy(original: Any, file: Any, *args: Any) -> Any:
        if not named:
            rewrite(asked)
            asked.flushall()
        named.append(file.name)
        return copied(original, file, *args)

    monkeypatch.setattr(logs, "_copied", copy)
    backup = create_backup(asked, root, plan(own, "log"))
    assert not {one.name for one in own.directory.rglob("*")} & set(named)
    assert rehearse(backup, server_binary=own._binary).keys == count
    assert not backup.manifest.is_still


@pytest.mark.parametrize("when", ["named", "opened"])
def test_a_log_that_is_rewritten_while_it_is_looked_for(
    own, asked, root, monkeypatch, when: str
) -> None:
    """Its files are gone before they were opened, or may be those of two moments."""
    count = fill(own)
    look, looks = logs._manifest, list[str]()

    def look_once_wrong(*args: Any) -> str:
        if len(looks) == 1 and when == "opened":
            rewrite(asked)
        looks.append(look(*args))
        if len(looks) == 1 and when == "named":
            rewrite(asked)
        return looks[-1]

    monkeypatch.setattr(logs, "_manifest", look_once_wrong)
    backup = create_backup(asked, root, plan(own, "log"))
    assert len(looks) == 4
    assert looks[0] != looks[1] == looks[2] == looks[3]
    assert rehearse(backup, server_binary=own._binary).keys == count


def test_a_log_that_is_rewritten_before_it_is_looked_for(own, asked, root, monkeypatch) -> None:
    """What was to be written by then is of files that are gone."""
    count = fill(own)
    look, looks = logs._manifest, list[str]()

    def look_late(*args: Any) -> str:
        if not looks:
            rewrite(asked)
        looks.append(look(*args))
        return looks[-1]

    monkeypatch.setattr(logs, "_manifest", look_late)
    backup = create_backup(asked, root, plan(own, "log"))
    assert len(looks) == 3
    assert rehearse(backup, server_binary=own._binary).keys == count


def test_a_log_that_is_rewritten_all_the_time(own, asked, root, monkeypatch) -> None:
    look = logs._manifest

    def look_later(*args: Any) -> str:
        rewrite(asked)
        return look(*args)

    monkeypatch.setattr(logs, "_LOOKS", 2)
    monkeypatch.setattr(logs, "_manifest", look_later)
    with pytest.raises(SaveFailedError, match="it rewrote its log each time"):
        create_backup(asked, root, plan(own, "log"))
    assert left(root) == []


def test_a_file_of_the_log_that_is_missing(own, asked, root) -> None:
    fill(own)
    for file in own.directory.rglob("*.incr.aof"):
        file.unlink()
    with pytest.raises(BackupError, match="No such file"):
        create_backup(asked, root, plan(own, "log"))
    assert left(root) == []


_KILLED = """
import time
from pathlib import Path
from sys import argv
import nexus_redis_provider.core.backups.logs as logs
from nexus_redis_provider.core.backups.creating import Plan, create_backup
from nexus_redis_provider.core.backups.manifests import Kind
from nexus_redis_provider.core.endpoint import Endpoint

def copied(*_):
    print("copying", flush=True)
    time.sleep(3600)

logs._copied = copied
url, root, directory, binary = argv[1:]
plan = Plan(kind=Kind.AOF, data_dir=Path(directory), server_binary=Path(binary))
create_backup(Endpoint.from_url(url).client(), Path(root), plan)
"""


def test_we_are_killed_while_a_log_is_copied(own, asked, root) -> None:
    """The server is as it was before: it rewrites its log when it likes."""
    fill(own)
    before = asked.config_get("*"), {one.name for one in own.directory.rglob("*")}
    asked.config_resetstat()
    words = [sys.executable, "-c", _KILLED, own.url, root, own.directory, own._binary]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "copying\n"
        process.kill()
    assert "cmdstat_config|set" not in asked.info("commandstats")
    assert (asked.config_get("*"), {one.name for one in own.directory.rglob("*")}) == before
    assert list(backups(root)) == []
    backup = create_backup(asked, root, plan(own, "log"))
    verify(backup, Tools.find(own._binary))


def test_a_log_that_is_being_rewritten_is_waited_for(own, asked, root) -> None:
    fill(own)
    asked.config_set("rdb-key-save-delay", 2000)
    asked.bgrewriteaof()
    assert asked.info("persistence")["aof_rewrite_in_progress"]
    manifest = create_backup(asked, root, plan(own, "log")).manifest
    assert any(file.path.endswith(".2.base.rdb") for file in manifest.files)
    asked.bgrewriteaof()
    with pytest.raises(SaveTooLateError, match=r"still rewrites its log after 0\.1 s"):
        create_backup(asked, root, plan(own, "log", timeout=0.1))
    asked.config_set("rdb-key-save-delay", 0)


def test_there_is_no_log(root, binary) -> None:
    own = own_server(binary=binary)
    with own, own.endpoint.client() as client, pytest.raises(BackupError, match="keeps no log"):
        create_backup(client, root, plan(own, "log"))
    assert left(root) == []


def test_a_log_needs_a_directory() -> None:
    with pytest.raises(ConfigurationError, match="data directory"):
        Plan(kind=Kind.AOF)
