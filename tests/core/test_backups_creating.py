"""Backups of real servers: sent, saved or copied; and what keeps them from being made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.backups import logs, saves, states
from nexus_redis_provider.core.backups.checks import Tools
from nexus_redis_provider.core.backups.creating import Plan, create_backup
from nexus_redis_provider.core.backups.folders import Backup, backups, verify
from nexus_redis_provider.core.backups.manifests import MANIFEST, Kind, Manifest, Names
from nexus_redis_provider.core.backups.rehearsing import rehearse
from nexus_redis_provider.core.errors import (
    AccessDeniedError,
    BackupError,
    ConfigurationError,
    SaveFailedError,
    SaveTooLateError,
    SaveUnderWayError,
    UnreachableError,
)
from nexus_redis_provider.core.monitoring.infos import Database
from nexus_redis_provider.core.replication import await_replicas
from nexus_redis_provider.embedded import EmbeddedServer, find_server
from tests.conftest import WaitUntil, need_server
from tests.core.backup_servers import AT_ONCE, fill
from tests.guarded import own_server
from tests.servers import as_user
from tests.topologies import MASTER, ClusterDeployment, SentinelDeployment, until

WAYS = ("sent", "saved", "log")


@pytest.fixture
def own(binary: Path) -> Iterator[EmbeddedServer]:
    with own_server("--appendonly", "yes", *AT_ONCE, binary=binary) as server:
        yield server


def plan(own: EmbeddedServer, way: str, **options: Any) -> Plan:
    return Plan(
        kind=Kind.AOF if way == "log" else Kind.RDB,
        data_dir=None if way == "sent" else own.directory,
        server_binary=own._binary,
        **options,
    )


def left(root: Path) -> list[str]:
    return sorted(one.name for one in root.iterdir()) if root.exists() else []


@pytest.mark.parametrize("way", WAYS)
def test_what_it_says_of_itself(own, asked, root, way) -> None:
    count = fill(own)
    backup = create_backup(asked, root, plan(own, way))
    manifest = backup.manifest
    info = asked.info()
    assert manifest == Backup.open(root / manifest.name).manifest
    assert manifest.address == f"127.0.0.1:{own.port}/0"
    assert (manifest.server, manifest.run_id) == (
        info.get("server_name", "redis"),
        info["run_id"],
    )
    assert datetime.now(UTC) - manifest.created_at < timedelta(minutes=1)
    assert manifest.names == Names(appendonly=True)
    assert manifest.databases == {
        0: Database(keys=count - 1, expires=101),
        3: Database(keys=1, expires=0),
    }
    assert manifest.is_still
    if way == "log":
        assert (manifest.keys, manifest.expires) == (None, None)
    else:
        assert (manifest.keys, manifest.expires) == (count, 101)
    if way == "sent":
        assert manifest.replid == info["master_replid"]
        assert 0 <= manifest.offset <= info["master_repl_offset"]
    # On disk, for nobody else, and nothing beside it.
    assert left(root) == [manifest.name]
    on_disk = {str(one.relative_to(backup.folder)) for one in backup.folder.rglob("*.*")}
    assert on_disk == {MANIFEST, *(file.path for file in manifest.files)}
    assert backup.folder.stat().st_mode & 0o777 == 0o700
    assert (backup.folder / MANIFEST).stat().st_mode & 0o777 == 0o600
    verify(backup, Tools.find(own._binary))


def test_a_snapshot_leaves_no_trace_on_the_server(own, asked, root) -> None:
    before = set(own.directory.iterdir())
    create_backup(asked, root, plan(own, "sent"))
    assert set(own.directory.iterdir()) == before
    assert asked.info("replication")["connected_slaves"] == 0


@pytest.mark.parametrize("diskless", ["yes", "no"])
def test_a_large_snapshot(own, asked, root, diskless) -> None:
    asked.config_set("repl-diskless-sync", diskless)
    asked.config_set("rdbcompression", "no")
    for number in range(40):
        asked.set(f"{number}", os.urandom(100_000))
    manifest = create_backup(asked, root, plan(own, "sent")).manifest
    assert manifest.bytes > 4_000_000
    assert manifest.keys == 40


def test_a_second_one_has_another_name(own, asked, root, monkeypatch) -> None:
    first = create_backup(asked, root, plan(own, "sent")).manifest
    second = create_backup(asked, root, plan(own, "sent")).manifest
    assert [found.manifest.name for found in backups(root)] == [second.name, first.name]


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_is_written_to(own, asked, root, way, monkeypatch) -> None:
    """What is in it is what was there at one moment: everything up to a key, and nothing after."""
    fill(own)
    stop = threading.Event()
    # A command that is cut in the middle would be one of these.
    value = os.urandom(200_000)

    def write() -> None:
        with own.endpoint.client() as client:
            number = 0
            while not stop.is_set():
                client.set(f"written:{number}", value)
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        manifest = create_backup(asked, root, plan(own, way)).manifest
    finally:
        stop.set()
        writer.join()
    assert not manifest.is_still
    verify(Backup.open(root / manifest.name), Tools.find(own._binary))


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


def test_the_primary_that_sentinels_watch(root) -> None:
    need_server(find_server)
    with SentinelDeployment(replicas=1) as deployment, deployment.endpoint.client() as client:
        client.set("a", 1)
        first = create_backup(client, root).manifest
        await_replicas(client, timeout=20, poll_interval=0.02)
        deployment.fail_over()
        second = create_backup(client, root).manifest
    assert (first.keys, second.keys) == (1, 1)
    assert first.run_id != second.run_id
    assert first.replid != second.replid


def test_sentinels_take_a_backup_for_no_replica(root) -> None:
    """They would keep one for ever that nobody can reach, and hand it to those who ask for some."""
    need_server(find_server)
    with (
        SentinelDeployment(replicas=1) as deployment,
        deployment.primary.endpoint.client() as client,
        deployment.sentinels[0].endpoint.client() as sentinel,
        ThreadPoolExecutor(1) as pool,
    ):
        sentinel.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", "200")
        client.config_set("repl-diskless-sync-delay", 3600)
        making = pool.submit(create_backup, client, root)
        try:
            until(lambda: client.info("replication")["connected_slaves"] == 2, "a backup")
            since = time.monotonic()

            def has_looked() -> bool:
                age = sentinel.sentinel_master(MASTER)["info-refresh"] / 1000
                return time.monotonic() - since > age + 1

            until(has_looked, "a Sentinel that has looked at the primary")
            known = [one["port"] for one in sentinel.sentinel_slaves(MASTER)]
        finally:
            client.config_set("repl-diskless-sync-delay", 0)
        assert making.result().folder.exists()
    assert known == [deployment.servers[1].port]


def test_who_may_not_see_the_names(own, asked, root) -> None:
    commands = ["+info", "+replconf", "+psync", "+client"]
    asked.acl_setuser("clerk", enabled=True, nopass=True, keys=["*"], commands=commands)
    with as_user(own.endpoint, "clerk", "x").client() as clerk:
        manifest = create_backup(clerk, root, plan(own, "sent")).manifest
    assert manifest.names == Names(appendonly=True)


@pytest.mark.parametrize(
    ("way", "paths"),
    [
        ("sent", {"my.rdb"}),
        ("saved", {"my.rdb"}),
        ("log", {"log/a.aof.1.base.rdb", "log/a.aof.1.incr.aof", "log/a.aof.manifest"}),
    ],
)
def test_names_of_ones_own(root, binary, way, paths) -> None:
    options = ("--dbfilename", "my.rdb", "--appenddirname", "log", "--appendfilename", "a.aof")
    own = own_server("--appendonly", "yes", *options, *AT_ONCE, binary=binary)
    with own, own.endpoint.client() as client:
        manifest = create_backup(client, root, plan(own, way)).manifest
    assert {file.path for file in manifest.files} == paths


def test_a_node_of_a_cluster(root) -> None:
    need_server(find_server)
    with ClusterDeployment() as cluster, cluster.servers[1].endpoint.client() as node:
        manifest = create_backup(node, root).manifest
    assert (manifest.keys, manifest.parts) == (0, ())


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", ""])
def test_a_manifest_that_points_elsewhere(path: str) -> None:
    facts = {"format": 1, "bytes": 0, "kind": "rdb", "created_at": "2026-11-28T00:00:00+00:00"}
    facts |= {"databases": {}, "names": {}, "files": [{"path": path, "size": 0, "sha256": ""}]}
    with pytest.raises(BackupError, match="is no path within a backup"):
        Manifest.from_json("b", json.dumps(facts))
