"""A restore where it does no harm: what came back, and whether it is what the source has."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any

import psutil
import pytest
import redis

from nexus_redis_provider.core.backups.creating import Plan, create_backup
from nexus_redis_provider.core.backups.digests import digests
from nexus_redis_provider.core.backups.folders import Backup
from nexus_redis_provider.core.backups.manifests import MANIFEST, BackupFile, Kind
from nexus_redis_provider.core.backups.rehearsing import Comparison, rehearse
from nexus_redis_provider.core.errors import (
    BackupError,
    ConfigurationError,
    CorruptBackupError,
    RehearsalError,
    UnreachableError,
)
from nexus_redis_provider.core.monitoring.infos import Database
from nexus_redis_provider.embedded import EmbeddedServer, find_server
from tests.core.backup_servers import AT_ONCE, fill
from tests.guarded import own_server
from tests.servers import as_user


@pytest.fixture
def own(own: EmbeddedServer) -> EmbeddedServer:
    fill(own)
    return own


@pytest.fixture
def backup(own: EmbeddedServer, asked: redis.Redis, tmp_path: Path) -> Backup:
    return create_backup(asked, tmp_path / "b", Plan(server_binary=own._binary))


def running_servers(scratch: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cwd"])
        # Of others it may be secret.
        if str(scratch) in (process.info["cwd"] or "")
    ]


@pytest.mark.parametrize(("kind", "protocol"), [(Kind.RDB, 2), (Kind.AOF, 3)])
def test_everything_comes_back(own, asked, tmp_path: Path, kind: Kind, protocol: int) -> None:
    plan = Plan(kind=kind, data_dir=own.directory, server_binary=own._binary)
    backup = create_backup(asked, tmp_path / "b", plan)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = rehearse(
        backup,
        compare=Comparison(source=replace(own.endpoint, protocol=protocol)),
        scratch=scratch,
        server_binary=own._binary,
    )
    assert dict(done.databases) == {
        0: Database(keys=206, expires=101),
        3: Database(keys=1, expires=0),
    }
    assert (done.keys, done.compared, done.different) == (207, 207, 0)
    assert done.took > 0
    # Nothing is left.
    assert list(scratch.iterdir()) == []
    assert running_servers(scratch) == []


def test_a_scratch_folder_beside_us(own, backup: Backup, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path)
    assert rehearse(backup, scratch=Path("scratch"), server_binary=own._binary).keys == 207


def test_keys_that_have_expired_since_count(binary: Path, tmp_path: Path) -> None:
    with own_server(*AT_ONCE, binary=binary) as own, own.endpoint.client() as client:
        at = int(time.time() * 1000) + 1500
        client.set("goes", 1, pxat=at)
        backup = create_backup(client, tmp_path / "b", Plan(server_binary=own._binary))
        while time.time() * 1000 <= at:
            time.sleep(0.05)
        done = rehearse(backup, compare=Comparison(source=own.endpoint), server_binary=own._binary)
    assert (done.keys, done.different) == (1, 0)


@pytest.mark.parametrize(
    ("databases", "said"),
    [
        ({0: Database(keys=206, expires=101)}, "database 3 has 1 keys"),
        (
            {0: Database(keys=206, expires=9), 3: Database(keys=1, expires=0)},
            "database 0 has 206 keys, of which 101 expire, and had 206 and 9",
        ),
    ],
)
def test_keys_that_are_missing(own, backup: Backup, databases: Any, said: str) -> None:
    counted = replace(backup.manifest, databases=databases)
    with pytest.raises(RehearsalError, match=said):
        rehearse(Backup(backup.folder, counted), server_binary=own._binary)
    # What was counted while others wrote says nothing.
    busy = Backup(backup.folder, replace(counted, is_still=False))
    assert rehearse(busy, server_binary=own._binary).keys == 207


def test_a_source_that_has_gone_on(own, asked, backup: Backup) -> None:
    asked.set("small2", 1)
    asked.hset("small", "a", 2)
    asked.persist("hash")
    asked.delete("list")
    compare = Comparison(source=own.endpoint)
    with pytest.raises(RehearsalError, match=r"4 of 208 keys that were sampled are not as"):
        rehearse(backup, compare=compare, server_binary=own._binary)
    tolerant = replace(compare, tolerance=0.02)
    done = rehearse(backup, compare=tolerant, server_binary=own._binary)
    assert (done.compared, done.different) == (208, 4)
    few = replace(compare, sample=10, tolerance=1.0)
    # Each server has an order of its own.
    assert rehearse(backup, compare=few, server_binary=own._binary).compared in range(11, 22)


@pytest.mark.parametrize("sample", [1, 1000])
def test_a_source_that_has_lost_everything(own, asked, backup: Backup, sample: int) -> None:
    asked.flushall()
    compare = Comparison(source=own.endpoint, sample=sample)
    said = f"{2 if sample == 1 else 207} of {2 if sample == 1 else 207} keys"
    with pytest.raises(RehearsalError, match=said):
        rehearse(backup, compare=compare, server_binary=own._binary)


def test_the_rights_that_a_comparison_needs(own, asked, backup: Backup) -> None:
    """As docs/backup.md has them."""
    rights = ["-@all", "+@read", "+info", "+select", "~*"]
    asked.execute_command("ACL", "SETUSER", "reader", "on", "nopass", *rights)
    compare = Comparison(source=as_user(own.endpoint, "reader", "x"))
    assert rehearse(backup, compare=compare, server_binary=own._binary).compared == 207


@pytest.mark.parametrize("options", [{"sample": 0}, {"tolerance": 1.1}, {"tolerance": -0.1}])
def test_a_comparison_that_makes_no_sense(own, options: Any) -> None:
    with pytest.raises(ConfigurationError):
        Comparison(source=own.endpoint, **options)


def test_a_server_that_is_not_there(own, backup: Backup, tmp_path: Path) -> None:
    for nowhere in (Path("/nowhere"), tmp_path):
        with pytest.raises(ConfigurationError, match=f"There is no server {nowhere}"):
            rehearse(backup, server_binary=nowhere)


def test_a_damaged_file(own, backup: Backup) -> None:
    (backup.folder / "dump.rdb").write_bytes(b"x")
    with pytest.raises(CorruptBackupError):
        rehearse(backup, server_binary=own._binary)


def test_a_file_that_no_server_can_load(own, backup: Backup, monkeypatch) -> None:
    # Past the sums and the tool.
    monkeypatch.setattr(
        "nexus_redis_provider.core.backups.rehearsing.verify_each", lambda *_: [None]
    )
    path = backup.folder / "dump.rdb"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(RehearsalError, match="did not start"):
        rehearse(backup, server_binary=own._binary)


def test_a_server_that_is_too_old(own, backup: Backup) -> None:
    older = find_server()
    if "valkey" not in own._binary.name or older == own._binary:
        pytest.skip("the server at hand is as new as this one")
    version = backup.manifest.version
    said = rf"{older} cannot read what valkey {version} wrote\. Load it with .*--server-binary"
    with pytest.raises(RehearsalError, match=said):
        rehearse(backup, server_binary=older)


def of_a_module(type_name: str) -> bytes:
    """An RDB file with one key, whose type is of a module."""
    letters = ascii_uppercase + ascii_lowercase + digits + "-_"
    number = sum(letters.index(one) << 6 * place for place, one in enumerate(type_name[::-1]))
    value = b"\x81" + (number << 10).to_bytes(8) + b"\x00"
    return b"REDIS0010\xfe\x00" + b"\x07\x01k" + value + b"\xff" + bytes(8)


def test_types_of_a_module(own, backup: Backup, tmp_path: Path) -> None:
    content = of_a_module("toytypeAB")
    folder = Path(shutil.copytree(backup.folder, tmp_path / "x"))
    (folder / "dump.rdb").write_bytes(content)
    file = BackupFile(path="dump.rdb", size=len(content), sha256=sha256(content).hexdigest())
    made = Backup(folder, replace(backup.manifest, keys=1, files=(file,)))
    with pytest.raises(RehearsalError, match=r"no module type 'toytypeAB'.*\(--loadmodule\)"):
        rehearse(made, server_binary=own._binary)
    module = tmp_path / "toy.so"
    with pytest.raises(ConfigurationError, match=rf"no module {module} to load"):
        rehearse(made, server_binary=own._binary, modules=[module])
    module.write_bytes(b"no module")
    with pytest.raises(RehearsalError, match=rf"{module} failed to load"):
        rehearse(made, server_binary=own._binary, modules=[module])


@pytest.mark.parametrize("kind", Kind)
def test_a_script_around_the_server(own, asked, tmp_path: Path, kind: Kind) -> None:
    """It is no check tool, and says nothing of the backup."""
    asked.set("a", 1)
    plan = Plan(kind=kind, data_dir=own.directory, server_binary=own._binary)
    backup = create_backup(asked, tmp_path / "b", plan)
    script = tmp_path / "server.sh"
    script.write_text(f'#!/bin/sh\nexec {own._binary} "$@"\n')
    script.chmod(0o700)
    with pytest.raises(ConfigurationError, match=rf"{script} is no Redis server: as redis-check-"):
        rehearse(backup, server_binary=script)


def test_no_room(own, backup: Backup, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="cannot be rehearsed"):
        rehearse(backup, scratch=tmp_path / "nowhere", server_binary=own._binary)


def test_a_source_that_is_away(own, backup: Backup, tmp_path: Path) -> None:
    nowhere = Comparison(
        source=replace(own.endpoint, nodes=(replace(own.endpoint.nodes[0], port=1),))
    )
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
        rehearse(backup, compare=nowhere, scratch=tmp_path, server_binary=own._binary)
    assert running_servers(tmp_path) == []


def test_the_manifest_is_what_is_compared_with(own, backup: Backup) -> None:
    facts = json.loads((backup.folder / MANIFEST).read_text())
    facts["databases"]["0"]["keys"] = 1
    (backup.folder / MANIFEST).write_text(json.dumps(facts))
    with pytest.raises(RehearsalError, match="had 1 and 101"):
        rehearse(Backup.open(backup.folder), server_binary=own._binary)


def test_digests(client: redis.Redis, namespace: str) -> None:
    """The same for what is the same, however a server keeps it, and another for anything else."""
    one, other = f"{namespace}:a".encode(), f"{namespace}:b".encode()

    def are_same() -> bool:
        first, second = digests(client, [one, other])
        assert first is not None
        return first == second

    # A table by hash, in two orders, and a list of few.
    client.sadd(one, *range(1000))
    client.sadd(other, *range(999, -1, -1))
    assert are_same()
    client.pexpireat(one, 2**42)
    assert not are_same()
    client.pexpireat(other, 2**42)
    assert are_same()
    client.srem(other, 5)
    assert not are_same()
    for name in (one, other):
        client.delete(name)
        client.hset(name, mapping={"a": 1, "b": 2})
    assert are_same()
    client.hset(other, "c", 3)
    client.hdel(other, "c")
    assert are_same()
    client.hset(other, mapping={"a": 2, "b": 1})
    assert not are_same()
    client.delete(one, other)
    client.rpush(one, "a", "bc")
    client.rpush(other, "ab", "c")
    assert not are_same()
    client.delete(one)
    assert digests(client, [one]) == [None]
    client.zadd(one, {"a": 1})
    client.delete(other)
    client.zadd(other, {"a": 1.5})
    assert not are_same()
    client.delete(one, other)
    # Of very many elements, their number alone: nobody is to wait while they are read.
    client.sadd(one, *range(10_001))
    client.sadd(other, *range(1, 10_002))
    assert are_same()
    client.srem(other, 1)
    assert not are_same()
    client.delete(one, other)
    client.set(one, "1")
    client.rpush(other, "1")
    assert not are_same()
    client.delete(one, other)
