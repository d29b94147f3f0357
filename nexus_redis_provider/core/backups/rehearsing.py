"""Restoring a backup where it does no harm, to know that it brings the data back."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from nexus_redis_provider.core.backups.checks import Counts, Tools
from nexus_redis_provider.core.backups.digests import digests
from nexus_redis_provider.core.backups.files import named_failures
from nexus_redis_provider.core.backups.folders import Backup, verify_each
from nexus_redis_provider.core.backups.manifests import Manifest, added
from nexus_redis_provider.core.backups.scratch import (
    Loader,
    databases_in,
    lay_out,
    refuse_losses,
    total,
)
from nexus_redis_provider.core.backups.shares import SlotRange
from nexus_redis_provider.core.bounds import is_whole
from nexus_redis_provider.core.clusters import primaries_of
from nexus_redis_provider.core.durations import Duration, to_ms
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ConfigurationError, RehearsalError
from nexus_redis_provider.core.keyspace.walks import scan
from nexus_redis_provider.core.monitoring.infos import Database

_BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What came back of a backup.

    Attributes:
        manifest: of the backup.
        took: seconds to load it, as a restore would at least.
        databases: that came back, keys by number.
        compared: keys that were sampled, from the source and from what came back.
        different: those of them that one of both has otherwise than the other, or not at all.
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
        sample: keys of each database of each server, at most, and as many of what came back; the
            first ones by their hash. What has expired by then is not among them.
        tolerance: share of them that may differ, 0 to 1, for what was written, or deleted, since.
    """

    source: Endpoint
    sample: int = 1000
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        check_sampling(self.sample, self.tolerance)

    def refuse_another(self, manifest: Manifest) -> None:
        """Refuse a source that the backup cannot be of.

        Raises:
            ConfigurationError: one of both is a Cluster, the other a single server.
        """
        if (manifest.parts and not self.source.is_cluster) or (
            self.source.is_cluster and not (manifest.parts or manifest.slots)
        ):
            raise ConfigurationError(
                f"Backup {manifest.name!r} is of {manifest.address}, and cannot be compared with "
                f"{self.source}: of a Cluster give its redis+cluster:// URL, of one server its own "
                "address."
            )


def check_sampling(sample: int, tolerance: float) -> None:
    """Refuse what no `Comparison` takes, also where its source is not known yet.

    Raises:
        ConfigurationError: names the option and its value.
    """
    if not is_whole(sample, 1):
        raise ConfigurationError(f"sample must be a whole number of at least 1, not {sample!r}.")
    is_number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if not is_number or not 0 <= tolerance <= 1:
        raise ConfigurationError(f"tolerance must be a number from 0 to 1, not {tolerance!r}.")


def rehearse(
    backup: Backup,
    *,
    compare: Comparison | None = None,
    scratch: Path | None = None,
    server_binary: Path | None = None,
    modules: Sequence[Path] = (),
    timeout: Duration = 3600.0,
) -> Rehearsal:
    """Load a backup into a server of its own, and look whether all of it came back.

    The server has the loopback alone, a password, and a temporary folder, which is gone at the end.
    Of a Cluster, the nodes are loaded one after the other, each by itself.

    Args:
        backup: to load.
        compare: with the source, whose keys are read.
        scratch: where the temporary folder is made; it needs room for the files, of a log twice.
        server_binary: to load it, by default what `find_server` finds; no older than the source.
        modules: files of those whose types are in the backup.
        timeout: seconds that loading may take.

    Raises:
        CorruptBackupError: a file is not what it was.
        RehearsalError: it cannot be loaded; there are not as many keys as are in the file, or as
            each database had if nobody wrote while it was made, by which alone those of a log are
            known; or too many differ.
        BackupError: there is no room for it, for example.
        ConfigurationError: there is no server, or no module, to load it with; or only one of the
            backup and what it is compared with is a Cluster.

    Cost: memory for all of the data, of the largest node of a Cluster, on this machine.
    """
    manifest = backup.manifest
    if compare:
        compare.refuse_another(manifest)
    loader = Loader(binary=server_binary, modules=modules, timeout=to_ms(timeout, "timeout") / 1000)
    done = [
        _rehearsed(one, counts, compare, scratch, loader)
        for one, counts in zip(
            backup.by_server, verify_each(backup, Tools.find(server_binary)), strict=True
        )
    ]
    compared = sum(one.compared for one in done)
    different = sum(one.different for one in done)
    if compare and different > compare.tolerance * compared:
        raise RehearsalError(
            manifest.name,
            f"{different:,} of {compared:,} keys that were sampled are not as {compare.source} has "
            f"them, more than tolerance={compare.tolerance:.1%}. What was written since the backup "
            "counts, too",
        )
    return Rehearsal(
        manifest=manifest,
        took=sum(one.took for one in done),
        databases=added(one.databases for one in done),
        compared=compared,
        different=different,
    )


def _rehearsed(
    backup: Backup,
    counts: Counts | None,
    compare: Comparison | None,
    scratch: Path | None,
    loader: Loader,
) -> Rehearsal:
    manifest = backup.manifest
    with (
        named_failures(f"Backup {manifest.name!r} cannot be rehearsed"),
        tempfile.TemporaryDirectory(prefix="nexus-redis-rehearsal-", dir=scratch) as name,
    ):
        # The server runs in it; before Python 3.12 the name is relative where `scratch` is.
        folder = Path(name).absolute()
        lay_out(backup, folder, manifest.names)
        began_at = time.monotonic()
        with loader.loaded(manifest, folder, manifest.kind, manifest.names) as (server, client):
            took = time.monotonic() - began_at
            found = databases_in(client)
            refuse_losses(
                *(manifest.name, found, "the file"),
                keys=counts.keys if counts else manifest.keys,
                databases=manifest.counted,
            )
            compared, different = (
                _compared(server.endpoint, found, compare, manifest.slots) if compare else (0, 0)
            )
    return Rehearsal(
        manifest=manifest, took=took, databases=found, compared=compared, different=different
    )


def _compared(
    copy: Endpoint, brought: Iterable[int], compare: Comparison, slots: Sequence[SlotRange]
) -> tuple[int, int]:
    source = compare.source
    compared = different = 0
    for number in sorted({*brought, *_databases(source)}):
        # Replies of both in the same form.
        with (
            replace(source, db=number).client(protocol=3) as original,
            replace(copy, db=number).client(protocol=3) as other,
        ):
            # A source that lacks what the backup has is another one, or has lost it.
            found = (_in_slots(original, slots), scan(other))
            keys = list({key for one in found for key in islice(one, compare.sample)})
            compared += len(keys)
            different += _different(original, other, keys)
    return compared, different


def _databases(source: Endpoint) -> Iterable[int]:
    if source.is_cluster:
        return (0,)
    with source.client() as client:
        return databases_in(client)


def _in_slots(source: redis.Redis, ranges: Sequence[SlotRange]) -> Iterator[bytes]:
    """Keys that a node's part of a backup would have now, wherever they are; of a server, all."""
    if not ranges:
        return scan(source)
    slots = {slot for first, last in ranges for slot in range(first, last + 1)}
    keys = (key for primary in primaries_of(source, slots) for key in scan(primary.client))
    return (key for key in keys if key_slot(key) in slots)


def _different(source: redis.Redis, copy: redis.Redis, keys: list[bytes]) -> int:
    count = 0
    for start in range(0, len(keys), _BATCH):
        batch = keys[start : start + _BATCH]
        pairs: Any = zip(digests(source, batch), digests(copy, batch), strict=True)
        count += sum(one != other for one, other in pairs)
    return count
