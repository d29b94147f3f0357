"""Which backups stay, and the removal of the others."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nexus_redis_provider.core.backups.files import named_failures
from nexus_redis_provider.core.backups.folders import INCOMPLETE, Backup, backups
from nexus_redis_provider.core.backups.manifests import Manifest
from nexus_redis_provider.core.bounds import is_whole
from nexus_redis_provider.core.durations import Duration, to_ms
from nexus_redis_provider.core.errors import ConfigurationError

_REMOVED = ".removed-"
# Whoever made or removed it is gone.
_ABANDONED_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which backups stay: the newest `keep`, and those younger than `keep_for`.

    The newest one stays in any case.

    Args:
        keep: how many, or None.
        keep_for: seconds or a timedelta, or None.

    Raises:
        ConfigurationError: neither was given, or one is no positive number.
    """

    keep: int | None = None
    keep_for: Duration | None = None

    def __post_init__(self) -> None:
        if self.keep is None and self.keep_for is None:
            raise ConfigurationError("Say which backups stay: so many, those so young, or both.")
        if self.keep is not None and not is_whole(self.keep, 1):
            raise ConfigurationError(
                f"keep must be a whole number of at least 1, not {self.keep!r}: one backup always "
                "stays."
            )
        if self.keep_for is not None:
            to_ms(self.keep_for, "keep_for")

    def old(self, newest_first: list[Backup], now: datetime) -> list[Backup]:
        """Those that do not stay, oldest first."""
        beyond = newest_first[max(1, self.keep or 0) :]
        if self.keep_for is not None:
            age = timedelta(milliseconds=to_ms(self.keep_for, "keep_for"))
            beyond = [one for one in beyond if now - one.manifest.created_at > age]
        return beyond[::-1]


def prune(
    root: Path,
    retention: Retention,
    *,
    made: Backup | None = None,
    dry_run: bool = False,
    now: datetime | None = None,
) -> list[Manifest]:
    """Remove old backups; returns them, oldest first.

    What cannot be read stays. What a maker that died has left behind for a day goes, too.

    Args:
        root: folder of all backups.
        retention: which stay.
        made: just now, by the caller; stays in any case, also where the clock of a host that made
            another one is ahead, or somebody else has made one meanwhile.
        dry_run: only say which do not.
        now: by default the time.

    Raises:
        BackupError: a folder cannot be read or removed.
    """
    sound = [found for found in backups(root) if isinstance(found, Backup)]
    spared = made and made.folder
    old = retention.old(sound, now or datetime.now(UTC))
    old = [one for one in old if one.folder != spared]
    if not dry_run:
        with named_failures(f"{root} cannot be cleared"):
            for one in old:
                _remove(one.folder)
            _remove_abandoned(root)
    return [one.manifest for one in old]


def _remove(folder: Path) -> None:
    # At once, so that nobody restores what is half gone.
    gone = folder.with_name(f"{_REMOVED}{folder.name}")
    folder.rename(gone)
    shutil.rmtree(gone)


def _remove_abandoned(root: Path) -> None:
    for found in list(os.scandir(root)):
        # Files and links are not of our making.
        is_ours = found.name.startswith((INCOMPLETE, _REMOVED)) and found.is_dir(
            follow_symlinks=False
        )
        if is_ours and time.time() - found.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(found.path)
