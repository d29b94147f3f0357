"""The append-only files of a server, copied while it writes to them.

A rewrite replaces them, and removes what was there. It is not put off, so nothing of the server is
changed: all files of one moment are opened first, and are then read to their ends even if they have
no names any more. The last one only grows; its copy ends after a whole command.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import redis

from nexus_redis_provider.core.backups.checks import Tools
from nexus_redis_provider.core.backups.files import Recorder, copy
from nexus_redis_provider.core.backups.manifests import BackupFile, Names
from nexus_redis_provider.core.backups.states import await_state, state_of
from nexus_redis_provider.core.durations import in_words
from nexus_redis_provider.core.endpoint import address_of
from nexus_redis_provider.core.errors import (
    BackupError,
    ConfigurationError,
    CorruptBackupError,
    SaveFailedError,
    SaveTooLateError,
)

# As the server writes words of its manifest: in quotes where they have blanks, for example.
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\S+')
_ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|.)")
_CONTROLS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}
_PAUSE_S = 0.05
# A command whose bytes are being written just now is whole a moment later, and files are opened in
# less time than passes between two rewrites.
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
        words = [_unquoted(one) for one in _WORD.findall(line)]
        facts = dict(zip(words[::2], words[1::2], strict=False))
        # History is what an earlier rewrite has replaced.
        if facts.get("type") in ("b", "i"):
            found.append(LogFile(facts["file"], facts["type"], line))
    return found


def _unquoted(word: str) -> str:
    if not word.startswith('"'):
        return word
    # Bytes, of which those beyond ASCII are escaped one by one.
    return os.fsdecode(_ESCAPE.sub(_unescaped, os.fsencode(word[1:-1])))


def _unescaped(found: re.Match[bytes]) -> bytes:
    code = found[1]
    if code.startswith(b"x"):
        return bytes.fromhex(code[1:].decode())
    return _CONTROLS.get(code, code)


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
        SaveFailedError: a rewrite does not end.
        CorruptBackupError: they are not sound.
    """
    source = data_dir / names.appenddirname
    path = names.log.name
    with ExitStack() as stack:
        opened = _opened(client, source, path, stack, timeout)
        copied = [
            _copied(original, file, f"{names.appenddirname}/{file.name}", folder, tools)
            for file, original in opened
        ]
    with Recorder(folder, str(names.log)) as record:
        record.write("".join(f"{file.line}\n" for file, _ in opened).encode())
    return [*copied, record.written]


def _opened(
    client: redis.Redis, source: Path, path: str, stack: ExitStack, timeout: float
) -> list[tuple[LogFile, BinaryIO]]:
    """All files that the manifest names, from before the first one was opened to after the last."""
    address = address_of(client)
    too_late = SaveTooLateError(address, f"it still rewrites its log after {in_words(timeout)}")
    too_slow = SaveTooLateError(address, f"it has not written its log after {in_words(timeout)}")
    for _ in range(_LOOKS):
        # Until the first one is over, a server that has just begun a log may have an old one there.
        before = await_state(client, _is_not_rewritten, too_late, timeout)
        # Where a disk is slow, what clients were told of is written up to two seconds later.
        due = _size(client, before) + before["aof_buffer_length"]
        text = _manifest(source / path, client)
        with ExitStack() as trial:
            try:
                opened: list[tuple[LogFile, BinaryIO]] = [
                    (file, trial.enter_context((source / file.name).open("rb")))
                    for file in log_files(text)
                ]
            except FileNotFoundError:
                if _manifest(source / path, client) == text:
                    raise
                continue
            after = await_state(client, partial(_has_written, due, before), too_slow, timeout)
            sizes = {file: os.fstat(original.fileno()).st_size for file, original in opened}
            most = _size(client, state_of(client))
            is_same = after["aof_rewrites"] == before["aof_rewrites"]
            if is_same and _manifest(source / path, client) == text:
                _refuse_another(client, source, sizes, range(due, most + 1))
                stack.push(trial.pop_all())
                return opened
    raise SaveFailedError(address, "it rewrote its log each time that it was looked for")


def _is_not_rewritten(state: Any) -> bool:
    return not (state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"])


def _has_written(due: int, before: Any, state: Any) -> bool:
    # A rewrite counts anew.
    return bool(state["aof_current_size"] >= due or state["aof_rewrites"] != before["aof_rewrites"])


def _copied(original: BinaryIO, file: LogFile, path: str, folder: Path, tools: Tools) -> BackupFile:
    with Recorder(folder, path) as record:
        for look in range(_LOOKS):
            copy(original, record.write, os.fstat(original.fileno()).st_size - original.tell())
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
    client: redis.Redis, source: Path, sizes: Mapping[LogFile, int], written: range
) -> None:
    total = sum(sizes.values())
    # A server that has made its first log itself does not count the base of it.
    bases = sum(size for file, size in sizes.items() if file.kind == "b")
    if total not in written and total - bases not in written:
        raise ConfigurationError(
            f"{source} has {total:,} bytes, but Redis at {address_of(client)} has written "
            f"{written[0]:,} to {written[-1]:,}: it is not its data directory (CONFIG GET dir)."
        )


def _manifest(file: Path, client: redis.Redis) -> str:
    try:
        return file.read_text("utf-8")
    except FileNotFoundError:
        raise ConfigurationError(
            f"There is no {file}. Give the data directory (CONFIG GET dir) of Redis at "
            f"{address_of(client)} as it is seen from this machine."
        ) from None


def _size(client: redis.Redis, info: Any) -> int:
    if not info["aof_enabled"]:
        raise BackupError(
            f"Redis at {address_of(client)} keeps no log (appendonly no): back it up by its RDB."
        )
    return int(info["aof_current_size"])
