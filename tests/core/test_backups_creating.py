"""Backups of real servers, sent, saved or copied: what is in them, and what they say of it."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import redis

from nexus_redis_provider.core.backups.checks import Tools
from nexus_redis_provider.core.backups.creating import create_backup
from nexus_redis_provider.core.backups.folders import Backup, backups, verify
from nexus_redis_provider.core.backups.manifests import MANIFEST, NAMING, Names
from nexus_redis_provider.core.backups.rehearsing import Comparison, rehearse
from nexus_redis_provider.core.backups.restoring import restore
from nexus_redis_provider.core.monitoring.infos import Database
from nexus_redis_provider.core.replication import await_replicas
from nexus_redis_provider.embedded import find_server
from tests.conftest import need_server
from tests.core.backup_servers import AT_ONCE, HOUR_MS, expire_field, fill, left, plan
from tests.guarded import own_server
from tests.servers import as_user
from tests.topologies import MASTER, ClusterDeployment, SentinelDeployment, until

WAYS = ("sent", "saved", "log")


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


@pytest.mark.parametrize("way", WAYS)
def test_fields_that_expire(own, asked, root, way) -> None:
    """A server does not send them to a replica of which it does not know that it can read them."""
    asked.hset("hash", "stays", 1)
    expire_field(asked, "hash", "goes", ttl_ms=HOUR_MS)
    backup = create_backup(asked, root, plan(own, way))
    done = rehearse(backup, compare=Comparison(source=own.endpoint), server_binary=own._binary)
    assert (done.keys, done.compared, done.different) == (1, 1, 0)


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


def test_who_may_not_see_the_names(own, asked, root) -> None:
    commands = ["+info", "+replconf", "+psync", "+client"]
    asked.acl_setuser("clerk", enabled=True, nopass=True, keys=["*"], commands=commands)
    with as_user(own.endpoint, "clerk", "x").client() as clerk:
        manifest = create_backup(clerk, root, plan(own, "sent")).manifest
    assert manifest.names == Names(appendonly=True, assumed=NAMING)
    assert Backup.open(root / manifest.name).manifest == manifest


def test_a_server_without_a_name_for_its_snapshots(root, binary) -> None:
    """As one may be that only keeps a log."""
    options = ("--appendonly", "yes", "--enable-protected-configs", "yes")
    own = own_server(*options, binary=binary)
    with own, own.endpoint.client() as client:
        client.set("a", 1)
        try:
            client.config_set("dbfilename", "")
        except redis.exceptions.ResponseError as error:
            pytest.skip(f"this server must have one: {error}")
        backup = create_backup(client, root, plan(own, "log"))
    assert backup.manifest.names == Names(appendonly=True, assumed=("dbfilename",))
    assert Backup.open(backup.folder) == backup
    done = restore(backup, root.parent / "data", server_binary=binary)
    assert (done.keys, done.assumed) == (1, [])


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


NAMES = ("my aof é.aof", "a\"b'c.aof", "tab\tbell\a.aof")


@pytest.mark.parametrize("name", NAMES)
def test_names_that_the_server_quotes(root, binary, name) -> None:
    own = own_server("--appendonly", "yes", "--appendfilename", name, binary=binary)
    with own, own.endpoint.client() as client:
        client.set("a", 1)
        backup = create_backup(client, root, plan(own, "log"))
        assert backup.manifest.names.appendfilename == name
    assert rehearse(backup, server_binary=own._binary).keys == 1


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


def test_a_node_of_a_cluster(root) -> None:
    need_server(find_server)
    with ClusterDeployment() as cluster, cluster.servers[1].endpoint.client() as node:
        manifest = create_backup(node, root).manifest
    assert (manifest.keys, manifest.parts) == (0, ())
