"""What keeps a backup from being made is told, and leaves nothing in the folder of backups."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from nexus_redis_provider.core.backups import saves, states
from nexus_redis_provider.core.backups.creating import Plan, create_backup
from nexus_redis_provider.core.backups.manifests import Kind
from nexus_redis_provider.core.errors import (
    AccessDeniedError,
    ConfigurationError,
    SaveFailedError,
    SaveTooLateError,
    SaveUnderWayError,
    UnreachableError,
)
from tests.conftest import WaitUntil
from tests.core.backup_servers import fill, left, plan
from tests.guarded import own_server
from tests.servers import as_user


@pytest.mark.parametrize("way", ["saved", "log"])
def test_the_directory_of_another_server(own, asked, root, way) -> None:
    fill(own)
    with own_server("--appendonly", "yes", binary=own._binary) as other:
        with other.endpoint.client() as client:
            client.set("a", 1)
            client.save()
        wrong = Plan(
            kind=Kind.AOF if way == "log" else Kind.RDB,
            data_dir=other.directory,
            server_binary=own._binary,
        )
        with pytest.raises(ConfigurationError, match="CONFIG GET dir"):
            create_backup(asked, root, wrong)
    with pytest.raises(ConfigurationError, match="CONFIG GET dir"):
        create_backup(asked, root, Plan(kind=wrong.kind, data_dir=root, server_binary=own._binary))
    # What can be known before is known before the server saves.
    missing = Plan(kind=wrong.kind, data_dir=root / "none", server_binary=own._binary)
    saves_before = asked.info("stats")["total_forks"]
    with pytest.raises(ConfigurationError, match="There is no"):
        create_backup(asked, root, missing)
    assert asked.info("stats")["total_forks"] == saves_before
    assert left(root) == []


def test_another_save_is_under_way(own, asked, root) -> None:
    fill(own)
    asked.config_set("rdb-key-save-delay", 50_000)
    asked.bgsave()
    with pytest.raises(SaveUnderWayError, match="another one is under way"):
        create_backup(asked, root, plan(own, "saved"))
    assert left(root) == []
    asked.config_set("rdb-key-save-delay", 0)


def test_the_log_is_being_rewritten(own, asked, root) -> None:
    fill(own)
    asked.config_set("rdb-key-save-delay", 50_000)
    asked.bgrewriteaof()
    with pytest.raises(SaveUnderWayError, match="child process is active"):
        create_backup(asked, root, plan(own, "saved"))
    asked.config_set("rdb-key-save-delay", 0)


def test_a_save_that_fails(own, asked, root) -> None:
    fill(own)
    # The server cannot give its file a name that a folder has.
    (own.directory / "dump.rdb").mkdir()
    with pytest.raises(SaveFailedError, match="rdb_last_bgsave_status is 'err'"):
        create_backup(asked, root, plan(own, "saved"))
    assert left(root) == []


@pytest.mark.parametrize(("way", "what"), [("saved", "saves"), ("sent", "sends it")])
def test_a_save_that_takes_too_long(own, asked, root, way, what) -> None:
    fill(own)
    asked.config_set("rdb-key-save-delay", 50_000)
    with pytest.raises(SaveTooLateError, match=rf"still {what} after 0\.2 s\. Give it a longer"):
        create_backup(asked, root, plan(own, way, timeout=0.2))
    assert left(root) == []


def test_a_server_that_is_silent_for_too_long(own, asked, root) -> None:
    asked.config_set("repl-diskless-sync-delay", 60)
    with pytest.raises(SaveTooLateError, match=r"still sends it after 0\.2 s"):
        create_backup(asked, root, plan(own, "sent", timeout=0.2))
    assert left(root) == []


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def during(action: Any, wait_until: WaitUntil, is_time: Any) -> threading.Thread:
    def act() -> None:
        wait_until(is_time)
        action()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


@pytest.mark.parametrize("way", ["sent", "saved"])
def test_the_process_that_saves_is_killed(own, asked, root, way, wait_until) -> None:
    fill(own)
    asked.config_set("rdb-key-save-delay", 50_000)

    def kill() -> None:
        os.kill(children(own.pid)[0], signal.SIGKILL)

    killer = during(kill, wait_until, lambda: children(own.pid))
    with pytest.raises(SaveFailedError, match="Its log says why"):
        create_backup(asked, root, plan(own, way))
    killer.join()
    assert left(root) == []


@pytest.mark.parametrize("way", ["sent", "saved"])
def test_the_server_is_killed(own, asked, root, way, wait_until) -> None:
    fill(own)
    asked.config_set("rdb-key-save-delay", 50_000)
    saving: list[int] = []

    def kill() -> None:
        saving.extend(children(own.pid))
        os.kill(own.pid, signal.SIGKILL)

    killer = during(kill, wait_until, lambda: children(own.pid))
    try:
        with pytest.raises((SaveFailedError, UnreachableError)):
            create_backup(asked, root, plan(own, way))
    finally:
        killer.join()
        # It would go on saving by itself.
        for child in saving:
            os.kill(child, signal.SIGKILL)
    assert left(root) == []


def test_a_server_that_restarted(own, asked, monkeypatch) -> None:
    real = states.state_of
    monkeypatch.setattr(states, "state_of", lambda client: real(client) | {"run_id": "another"})
    with pytest.raises(SaveFailedError, match="restarted meanwhile"):
        saves.save(asked, timeout=10)


def test_who_may_not_have_a_snapshot_sent(own, asked, root) -> None:
    rules = {"keys": ["*"], "commands": ["+info", "+config", "+replconf", "+client"]}
    asked.acl_setuser("clerk", enabled=True, nopass=True, **rules)
    clerk = as_user(own.endpoint, "clerk", "x").client()
    with clerk, pytest.raises(AccessDeniedError, match="psync"):
        create_backup(clerk, root, plan(own, "sent"))
    assert left(root) == []


@pytest.mark.parametrize("command", ["PSYNC", "REPLCONF"])
def test_a_server_that_sends_none(binary, root, command) -> None:
    own = own_server(config=f'rename-command {command} ""', binary=binary)
    with own, own.endpoint.client() as client:
        with pytest.raises(ConfigurationError, match=r"sends no snapshots \(unknown command"):
            create_backup(client, root, plan(own, "sent"))
        assert left(root) == []
        # As is said there.
        create_backup(client, root, plan(own, "saved"))
