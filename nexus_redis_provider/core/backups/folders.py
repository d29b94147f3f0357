"""The folder of all backups, each a folder within it that appears when it is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

from nexus_redis_provider.core.backups.checks import Counts, Tools
from nexus_redis_provider.core.backups.files import (
    OF_THE_FILE_SYSTEM,
    named_failures,
    sha256_of,
    sync,
)
from nexus_redis_provider.core.backups.manifests import MANIFEST, BackupFile, Kind, Manifest
from nexus_redis_provider.core.backups.shares import fault_of
from nexus_redis_provider.core.errors import (
    BackupError,
    ConfigurationError,
    CorruptBackupError,
)

INCOMPLETE = ".incomplete-"


def folder_named(name: str | Path) -> Path:
    """The folder by that name.

    Raises:
        ConfigurationError: it is none, or empty, as of a variable that is not set, and would be
            whichever folder the process happens to be in.
    """
    if not isinstance(name, str | Path) or not str(name).strip():
        raise ConfigurationError(f"A folder must have a name, not {name!r}.")
    return Path(name)


@dataclass(frozen=True, slots=True)
class Backup:
    """A complete backup.

    Attributes:
        folder: where its files are.
        manifest: what it says of itself.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Backup:
        """The backup in a folder.

        Raises:
            BackupError: there is none; a symbolic link to one is none.
            CorruptBackupError: its manifest cannot be read.
        """
        try:
            if folder.is_symlink():
                raise BackupError(
                    f"There is no backup {folder}: it is a symbolic link. Name the folder that it "
                    "leads to."
                )
            text = (folder / MANIFEST).read_text("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise BackupError(f"There is no backup {folder}. See `backup list`.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise CorruptBackupError(
                folder.name, f"its manifest cannot be read: {error}"
            ) from error
        return cls(folder, Manifest.from_json(folder.name, text))

    @property
    def by_server(self) -> list[Backup]:
        """One for each server that it is of: for each node of a Cluster, or itself."""
        return [Backup(self.folder.parent / one.name, one) for one in self.manifest.parts] or [self]

    def path(self, file: BackupFile) -> Path:
        """Where one of its files is."""
        return self.folder / file.path


def backups(root: Path) -> list[Backup | CorruptBackupError]:
    """The backups in a folder, newest first; those that cannot be read as the error that says why.

    A symbolic link is none: what it leads to would count twice, and go under one of its names.

    Raises:
        BackupError: the folder cannot be read.
    """
    with named_failures(f"{root} cannot be read"):
        folders = sorted(root.iterdir())
    opened = [
        _opened(folder)
        for folder in folders
        if not folder.name.startswith(".") and folder.name not in OF_THE_FILE_SYSTEM
    ]
    return sorted(filter(None, opened), key=_made_at, reverse=True)


def _opened(folder: Path) -> Backup | CorruptBackupError | None:
    try:
        return Backup.open(folder)
    except CorruptBackupError as error:
        return error
    except BackupError:
        return None


def _made_at(found: Backup | CorruptBackupError) -> datetime:
    if isinstance(found, Backup):
        return found.manifest.created_at
    # Its name still tells, if that is ours: so one that is damaged is not passed over for an older
    # one in silence.
    with suppress(ValueError):
        return datetime.strptime(found.backup.partition("-")[0], "%Y%m%dT%H%M%S.%f%z")
    return datetime.min.replace(tzinfo=UTC)


def find_backup(root: Path, name: str | None = None) -> Backup:
    """The backup of that name, or the newest one.

    Args:
        root: folder of all backups.
        name: of its folder; with `/node-2`, of one node's part in that of a Cluster.

    Raises:
        BackupError: there is none.
        CorruptBackupError: its manifest cannot be read.
    """
    if name is not None:
        whole, _, part = name.partition("/")
        if not whole or whole.startswith(".") or "/" in part:
            raise ConfigurationError(f"A backup's name is that of its folder, not {name!r}.")
        backup = Backup.open(root / whole)
        for one in backup.by_server:
            if one.manifest.name == name:
                return one
        if not part:
            return backup
        names = ", ".join(one.manifest.name for one in backup.by_server)
        raise BackupError(f"There is no backup {name}; there is {names}.")
    for found in backups(root):
        if isinstance(found, Backup):
            return found
        raise found
    raise BackupError(f"There is no backup in {root}.")


def refuse_among_backups(directory: Path) -> None:
    """Refuse a place for other files that is a backup, within one, or a folder of backups.

    Raises:
        ConfigurationError: names the backup.
    """
    directory = directory.resolve()
    near = [_opened(folder) for folder in (directory, *directory.parents)]
    if directory.is_dir():
        near += backups(directory)
    for found in near:
        if isinstance(found, Backup):
            raise ConfigurationError(
                f"{directory} is no place for a server's data: backup {found.folder} is there. "
                "Name another directory."
            )


@contextmanager
def new_folder(root: Path, kind: Kind, created_at: datetime) -> Iterator[Path]:
    """A folder that becomes a backup when the block ends, and is gone when that fails.

    It is seen by its own name then, with all that is in it on disk.
    """
    name = f"{created_at:%Y%m%dT%H%M%S}.{created_at.microsecond // 1000:03}Z-{kind}"
    folder = root / f"{INCOMPLETE}{name}"
    with named_failures(f"No backup was made in {root}"):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        try:
            yield folder
            for inner, _, _ in os.walk(folder):
                sync(Path(inner))
            folder.rename(root / name)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        sync(root)


def name_of(folder: Path) -> str:
    """By which name a folder of `new_folder` will be seen."""
    return folder.name.removeprefix(INCOMPLETE)


def verify(backup: Backup, tools: Tools | None = None) -> Counts | None:
    """Compare every file with the manifest, and let the server's own tool read it.

    Of a Cluster, all nodes together must have every slot once.

    Args:
        backup: to look at.
        tools: by default those that are found.

    Returns:
        What the tool counted in RDB files; None where no tool could read them, and of a log.

    Raises:
        CorruptBackupError: a file is missing, changed, or not sound; or a slot is missing.
    """
    counted = verify_each(backup, tools)
    known = [counts for counts in counted if counts is not None]
    if len(known) < len(counted):
        return None
    return Counts(sum(one.keys for one in known), sum(one.expires for one in known))


def verify_each(backup: Backup, tools: Tools | None = None) -> list[Counts | None]:
    """As `verify`, with what was counted of each server in `by_server`."""
    tools = tools or Tools.find()
    if parts := backup.manifest.parts:
        fault = fault_of(chain.from_iterable(part.slots for part in parts))
        if fault is not None:
            raise CorruptBackupError(backup.manifest.name, fault)
    return [_verify_files(one, tools) for one in backup.by_server]


def _verify_files(backup: Backup, tools: Tools) -> Counts | None:
    name = backup.manifest.name
    for file in backup.manifest.files:
        path = backup.path(file)
        try:
            size = path.stat().st_size
            digest = sha256_of(path)
        except OSError as error:
            raise CorruptBackupError(name, f"{file.path} cannot be read: {error}") from error
        if (size, digest) != (file.size, file.sha256):
            raise CorruptBackupError(
                name,
                f"{file.path} has {size:,} bytes with SHA-256 {digest[:12]}…, and had "
                f"{file.size:,} with {file.sha256[:12]}… when it was made",
            )
    if backup.manifest.kind is Kind.RDB:
        return tools.check_rdb(backup.path(backup.manifest.files[0]), name)
    for file in backup.manifest.files:
        if not file.path.endswith(".manifest"):
            tools.check_log(backup.path(file), name)
    return None
