"""The append-only files of a server, copied while it writes to them.

As the documentation of Redis describes: rewrites are put off, which would replace the files, and
what is there then only grows. The copy ends after a whole command.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from nexus_redis_provider.core.backups.checks import Tools
from nexus_redis_provider.core.backups.files import Recorder, copy
from nexus_redis_provider.core.backups.manifests import BackupFile, Names
from nexus_redis_provider.core.durations import in_words
from nexus_redis_provider.core.endpoint import address_of, translated_errors
from nexus_redis_provider.core.errors import (
    BackupError,
    ConfigurationError,
    CorruptBackupError,
    SaveFailedError,
)

_SETTING = "auto-aof-rewrite-percentage"
_NEVER = "0"
_PAUSE_S = 0.05
# A command whose bytes are being written just now is whole a moment later.
_LOOKS = 20


@dataclass(frozen=True, slots=True)
class LogFile:
    """A line of the server's manifest: a file, its number, and `b`ase, `i`ncrement or `h`istory."""

    name: str
    kind: str
    line: str


def log_files(manifest: str) -> list[LogFile]:
    """The files that a server replays, in their order, as its manifest says."""
    found = []
    for line in manifest.splitlines():
        words = shlex.split(line)
        facts = dict(zip(words[::2], words[1::2], strict=False))
        # History is what an earlier rewrite has replaced.
        if facts.get("type") in ("b", "i"):
            found.append(LogFile(facts["file"], facts["type"], line))
    return found


def copy_log(
    client: redis.Redis,
    data_dir: Path,
    names: Names,
    folder: Path,
    tools: Tools,
    *,
    timeout: float,
) -> list[BackupFile]:
    """Copy a server's append-only files to `folder`, as they are at one moment.

    Args:
        client: of one server.
        data_dir: its directory, as it is seen from here.
        names: of its files.
        folder: of the backup.
        tools: to look whether the last command is whole.
        timeout: seconds to wait for a rewrite that is under way.

    Raises:
        ConfigurationError: the files are not there, or not those of this server.
        SaveFailedError: a rewrite does not end, or began by hand meanwhile.
        CorruptBackupError: they are not sound.
    """
    source = data_dir / names.appenddirname
    path = f"{names.appendfilename}.manifest"
    with _rewrites_put_off(client, timeout):
        least = _size(client)
        text = _manifest(source / path, client)
        files = log_files(text)
        copied = [
            (file, _copied(source, file, f"{names.appenddirname}/{file.name}", folder, tools))
            for file in files
        ]
        if _manifest(source / path, client) != text:
            raise SaveFailedError(address_of(client), "its log was rewritten by hand meanwhile")
        most = _size(client)
    _refuse_another(client, source, copied, range(least, most + 1))
    with Recorder(folder, f"{names.appenddirname}/{path}") as record:
        record.write("".join(f"{file.line}\n" for file in files).encode())
    return [*(one for _, one in copied), record.written]


def _copied(source: Path, file: LogFile, path: str, folder: Path, tools: Tools) -> BackupFile:
    original, size = source / file.name, 0
    with Recorder(folder, path) as record:
        for look in range(_LOOKS):
            now = original.stat().st_size
            copy(original, record.write, start=size, end=now)
            size = now
            record.flush()
            try:
                tools.check_log(folder / path, folder.name)
                break
            except CorruptBackupError:
                if file.kind == "b" or look == _LOOKS - 1:
                    raise
                time.sleep(_PAUSE_S)
        return record.written


def _refuse_another(
    client: redis.Redis, source: Path, copied: list[tuple[LogFile, BackupFile]], sizes: range
) -> None:
    total = sum(one.size for _, one in copied)
    # A server that has made its first log itself does not count the base of it.
    bases = sum(one.size for file, one in copied if file.kind == "b")
    if total not in sizes and total - bases not in sizes:
        raise ConfigurationError(
            f"{source} has {total:,} bytes, but Redis at {address_of(client)} has written "
            f"{sizes[0]:,} to {sizes[-1]:,}: it is not its data directory (CONFIG GET dir)."
        )


def _manifest(file: Path, client: redis.Redis) -> str:
    try:
        return file.read_text("utf-8")
    except FileNotFoundError:
        raise ConfigurationError(
            f"There is no {file}. Give the data directory (CONFIG GET dir) of Redis at "
            f"{address_of(client)} as it is seen from this machine."
        ) from None


@contextmanager
def _rewrites_put_off(client: redis.Redis, timeout: float) -> Iterator[None]:
    with translated_errors(client):
        found: Any = client.config_get(_SETTING)
        before = found[_SETTING]
        # Whoever else has put them off sets them back, too; to what it was before both.
        if before != _NEVER:
            client.config_set(_SETTING, _NEVER)
    try:
        _await_rewrite(client, timeout)
        yield
    finally:
        if before != _NEVER:
            with translated_errors(client):
                client.config_set(_SETTING, before)


def _await_rewrite(client: redis.Redis, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        info = _persistence(client)
        if not (info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"]):
            return
        if time.monotonic() > deadline:
            raise SaveFailedError(
                address_of(client), f"it still rewrites its log after {in_words(timeout)}"
            )
        time.sleep(_PAUSE_S)


def _size(client: redis.Redis) -> int:
    info = _persistence(client)
    if not info["aof_enabled"]:
        raise BackupError(
            f"Redis at {address_of(client)} keeps no log (appendonly no): back it up by its RDB."
        )
    return int(info["aof_current_size"])


def _persistence(client: redis.Redis) -> Any:
    with translated_errors(client):
        return client.info("persistence")
