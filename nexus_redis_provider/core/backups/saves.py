"""A snapshot that the server writes to its own disk, awaited to its real end."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import redis
from redis.exceptions import ResponseError

from nexus_redis_provider.core.backups.files import copy
from nexus_redis_provider.core.backups.states import await_state, state_of
from nexus_redis_provider.core.durations import in_words
from nexus_redis_provider.core.endpoint import address_of, translated_errors
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    SaveFailedError,
    SaveTooLateError,
    SaveUnderWayError,
)

_BUSY = re.compile("in progress|child process is active")


def save(client: redis.Redis, *, timeout: float) -> None:
    """BGSAVE; returns when the file is complete on the server's disk.

    Args:
        client: of one server.
        timeout: seconds after which nobody waits any more; the server goes on.

    Raises:
        SaveUnderWayError: another snapshot, or a rewrite of the log, has begun before.
        SaveFailedError: it failed, the server restarted meanwhile, or it takes too long.
        UnreachableError, AccessDeniedError: as always.
    """
    address = address_of(client)
    before = state_of(client)
    if before["rdb_bgsave_in_progress"]:
        since = in_words(max(0, before["rdb_current_bgsave_time_sec"]))
        raise SaveUnderWayError(address, f"another one is under way for {since}")
    with translated_errors(client):
        try:
            client.execute_command("BGSAVE")
        except ResponseError as error:
            if not _BUSY.search(str(error)):
                raise
            raise SaveUnderWayError(address, str(error)) from error

    def is_over(state: Any) -> bool:
        if state["run_id"] != before["run_id"]:
            raise SaveFailedError(address, "it restarted meanwhile, or another server took over")
        return not state["rdb_bgsave_in_progress"]

    too_late = SaveTooLateError(address, f"it still saves after {in_words(timeout)}")
    after = await_state(client, is_over, too_late, timeout)
    if (status := after["rdb_last_bgsave_status"]) != "ok":
        raise SaveFailedError(address, f"rdb_last_bgsave_status is {status!r}")


def save_and_copy(client: redis.Redis, file: Path, write: Any, *, timeout: float) -> None:
    """BGSAVE, and hand on the file that came of it.

    Args:
        file: as it is seen from here.
        write: is given its bytes in pieces.
        client, timeout: as for `save`.

    Raises: as `save`; ConfigurationError: the file is not that of this server.
    """
    if not file.parent.is_dir():
        raise ConfigurationError(
            f"There is no directory {file.parent}. Give the data directory (CONFIG GET dir) of "
            f"Redis at {address_of(client)} as it is seen from this machine."
        )
    before = _identity(file)
    save(client, timeout=timeout)
    if _identity(file) in (None, before):
        raise ConfigurationError(
            f"{file} is not what Redis at {address_of(client)} has just saved. Give its own data "
            "directory (CONFIG GET dir) as it is seen from this machine, or none at all to have "
            "the snapshot sent."
        )
    with file.open("rb") as saved:
        copy(saved, write, os.fstat(saved.fileno()).st_size)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    # Each snapshot is a new file that takes the name of the one before.
    return found.st_ino, found.st_mtime_ns
