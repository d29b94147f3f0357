"""The folder of all backups, each a folder within it that appears when it is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from nexus_redis_provider.core.backups.checks import Counts, Tools
from nexus_redis_provider.core.backups.files import named_failures, sha256_of, sync
from nexus_redis_provider.core.backups.manifests import MANIFEST, BackupFile, Kind, Manifest
from nexus_redis_provider.core.errors import (
    BackupError,
    ConfigurationError,
    CorruptBackupError,
)

INCOMPLETE = ".incomplete-"


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
            BackupError: there is none.
            CorruptBackupError: its manifest cannot be read.
        """
        try:
            text = (folder / MANIFEST).read_text("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise BackupError(f"There is no backup {folder}. See `backup list`.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise CorruptBackupError(
                folder.name, f"its manifest cannot be read: {error}"
            ) from error
        return cls(folder, Manifest.from_json(folder.name, text))

    def path(self, file: BackupFile) -> Path:
        """Where one of its files is."""
        return self.folder / file.path


def backups(root: Path) -> Iterator[Backup | CorruptBackupError]:
    """The backups in a folder, newest first; those that cannot be read as the error that says why.

    Raises:
        BackupError: the folder cannot be read.
    """
    with named_failures(f"{root} cannot be read"):
        names = sorted((one.name for one in os.scandir(root) if one.is_dir()), reverse=True)
    for name in names:
        if name.startswith(".") or not (root / name / MANIFEST).exists():
            continue
        try:
            yield Backup.open(root / name)
        except CorruptBackupError as error:
            yield error


def find_backup(root: Path, name: str | None = None) -> Backup:
    """The backup of that name, or the newest one.

    Raises:
        BackupError: there is none.
        CorruptBackupError: its manifest cannot be read.
    """
    if name is not None:
        if Path(name).name != name:
            raise ConfigurationError(f"A backup's name is that of its folder, not {name!r}.")
        return Backup.open(root / name)
    for found in backups(root):
        if isinstance(found, Backup):
            return found
        raise found
    raise BackupError(f"There is no backup in {root}.")


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

    Args:
        backup: to look at.
        tools: by default those that are found.

    Returns:
        What the tool counted in an RDB file; None where no tool could read it, and of a log.

    Raises:
        CorruptBackupError: a file is missing, changed, or not sound.
    """
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
    tools = tools or Tools.find()
    if backup.manifest.kind is Kind.RDB:
        return tools.check_rdb(backup.path(backup.manifest.files[0]), name)
    for file in backup.manifest.files:
        if not file.path.endswith(".manifest"):
            tools.check_log(backup.path(file), name)
    return None
