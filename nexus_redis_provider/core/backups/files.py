"""Files that are there whole, or not at all, and what they hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

from nexus_redis_provider.core.backups.manifests import BackupFile
from nexus_redis_provider.core.errors import BackupError

# What a file system has at its root, for root alone to read.
OF_THE_FILE_SYSTEM = {"lost+found"}
_CHUNK = 1 << 20


class Recorder:
    """Writes a file of a backup, and remembers what it holds. A context manager."""

    def __init__(self, folder: Path, path: str) -> None:
        target = folder / path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What a server knows is for its own eyes.
        self._file = os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._path = path
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Add to it."""
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)

    def flush(self) -> None:
        """Let others see what was added."""
        self._file.flush()

    @property
    def written(self) -> BackupFile:
        """What it holds so far."""
        return BackupFile(path=self._path, size=self._size, sha256=self._digest.hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file as file:
            if kind is None:
                file.flush()
                os.fsync(file.fileno())


def copy(source: BinaryIO, write: Callable[[bytes], Any], size: int) -> None:
    """Hand the next bytes of an open file on.

    Raises:
        BackupError: it has fewer.
    """
    left = size
    while left > 0:
        chunk = source.read(min(_CHUNK, left))
        if not chunk:
            raise BackupError(f"{source.name} ends {left:,} bytes before it should.")
        write(chunk)
        left -= len(chunk)


def sha256_of(path: Path) -> str:
    """Of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Returns when a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def named_failures(what: str) -> Iterator[None]:
    """Within it, what the operating system refuses is a BackupError that says what it was for."""
    try:
        yield
    except OSError as error:
        raise BackupError(f"{what}: {error}.") from error
