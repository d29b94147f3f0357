"""Restoring a backup where it does no harm, to know that it brings the data back."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import redis

from nexus_redis_provider.core.backups.checks import Tools
from nexus_redis_provider.core.backups.digests import digests
from nexus_redis_provider.core.backups.files import named_failures
from nexus_redis_provider.core.backups.folders import Backup, verify
from nexus_redis_provider.core.backups.manifests import Manifest
from nexus_redis_provider.core.backups.scratch import (
    databases_in,
    lay_out,
    loaded,
    reading,
    total,
)
from nexus_redis_provider.core.durations import Duration, to_ms
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ConfigurationError, RehearsalError
from nexus_redis_provider.core.keyspace.walks import scan
from nexus_redis_provider.core.monitoring.infos import Database

# A replica of nobody drops no key that has expired meanwhile, so all that is in the file counts.
_KEEPING = ("--replicaof", "127.0.0.1 1")
_BATCH = 100
_NOTHING = Database(keys=0, expires=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What came back of a backup.

    Attributes:
        manifest: of the backup.
        took: seconds to load it, as a restore would at least.
        databases: that came back, keys by number.
        compared: keys that were sampled from the source.
        different: those of them that the source has otherwise, by now, or the backup not at all.
    """

    manifest: Manifest
    took: float
    databases: Mapping[int, Database]
    compared: int = 0
    different: int = 0

    @property
    def keys(self) -> int:
        """That came back, of all databases."""
        return total(self.databases).keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How to compare a backup with the server that it is of.

    Attributes:
        source: that server.
        sample: keys of each database, at most; the first ones by their hash.
        tolerance: share of them that may differ, 0 to 1, for what was written since.
    """

    source: Endpoint
    sample: int = 1000
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if self.source.is_cluster:
            raise ConfigurationError(
                f"{self.source} has the keys of all its nodes; compare with the node that was "
                "backed up, by its own address."
            )
        if self.sample < 1:
            raise ConfigurationError(f"sample must be at least 1, not {self.sample}.")
        if not 0 <= self.tolerance <= 1:
            raise ConfigurationError(f"tolerance must be 0 to 1, not {self.tolerance}.")


def rehearse(
    backup: Backup,
    *,
    compare: Comparison | None = None,
    scratch: Path | None = None,
    server_binary: Path | None = None,
    timeout: Duration = 3600.0,
) -> Rehearsal:
    """Load a backup into a server of its own, and look whether all of it came back.

    The server has the loopback alone, a password, and a temporary folder, which is gone at the end.

    Args:
        backup: to load.
        compare: with the source, whose keys are read.
        scratch: where the temporary folder is made; it needs room for the files, of a log twice.
        server_binary: to load it, by default what `find_server` finds; no older than the source.
        timeout: seconds that loading may take.

    Raises:
        CorruptBackupError: a file is not what it was.
        RehearsalError: it cannot be loaded, keys are missing, or too many differ.
        BackupError: there is no room for it, for example.
        ConfigurationError: there is no server to load it with.

    Cost: memory for all of the data, on this machine.
    """
    counts = verify(backup, Tools.find(server_binary))
    manifest = backup.manifest
    with (
        named_failures(f"Backup {manifest.name!r} cannot be rehearsed"),
        tempfile.TemporaryDirectory(prefix="nexus-redis-rehearsal-", dir=scratch) as name,
    ):
        folder = Path(name)
        lay_out(backup, folder)
        began_at = time.monotonic()
        with loaded(
            manifest.name,
            folder,
            *reading(manifest.kind, manifest.names),
            *_KEEPING,
            binary=server_binary,
            timeout=to_ms(timeout, "timeout") / 1000,
        ) as (server, client):
            took = time.monotonic() - began_at
            found = databases_in(client)
            _refuse_losses(manifest, counts.keys if counts else manifest.keys, found)
            compared, different = _compared(server.endpoint, compare) if compare else (0, 0)
    rehearsal = Rehearsal(
        manifest=manifest, took=took, databases=found, compared=compared, different=different
    )
    if compare and different > compare.tolerance * compared:
        raise RehearsalError(
            manifest.name,
            f"{different:,} of {compared:,} keys that were sampled are not as {compare.source} has "
            f"them, more than tolerance={compare.tolerance:.1%}. What was written since the backup "
            "counts, too",
        )
    return rehearsal


def _refuse_losses(manifest: Manifest, expected: int | None, found: dict[int, Database]) -> None:
    came = total(found).keys
    if expected is not None and came != expected:
        raise RehearsalError(manifest.name, f"{came:,} keys came back of {expected:,} in the file")
    if manifest.is_still:
        for number in sorted({*manifest.databases, *found}):
            had, has = (one.get(number, _NOTHING) for one in (manifest.databases, found))
            if had != has:
                raise RehearsalError(
                    manifest.name,
                    f"database {number} has {has.keys:,} keys, of which {has.expires:,} expire, "
                    f"and had {had.keys:,} and {had.expires:,} when it was made",
                )


def _compared(copy: Endpoint, compare: Comparison) -> tuple[int, int]:
    compared = different = 0
    with compare.source.client() as client:
        numbers = sorted(databases_in(client))
    for number in numbers:
        # Replies of both in the same form.
        with (
            replace(compare.source, db=number).client(protocol=3) as source,
            replace(copy, db=number).client(protocol=3) as other,
        ):
            keys = list(islice(scan(source), compare.sample))
            compared += len(keys)
            different += _different(source, other, keys)
    return compared, different


def _different(source: redis.Redis, copy: redis.Redis, keys: list[bytes]) -> int:
    count = 0
    for start in range(0, len(keys), _BATCH):
        batch = keys[start : start + _BATCH]
        pairs: Any = zip(digests(source, batch), digests(copy, batch), strict=True)
        count += sum(one != other for one, other in pairs)
    return count
