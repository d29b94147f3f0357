"""Making a backup of a server, or of all nodes of a Cluster."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis

from nexus_redis_provider.core.backups.checks import Tools
from nexus_redis_provider.core.backups.files import Recorder
from nexus_redis_provider.core.backups.folders import Backup, name_of, new_folder
from nexus_redis_provider.core.backups.logs import copy_log
from nexus_redis_provider.core.backups.manifests import (
    MANIFEST,
    NAMING,
    BackupFile,
    Kind,
    Manifest,
    Names,
    part_name,
)
from nexus_redis_provider.core.backups.saves import save_and_copy
from nexus_redis_provider.core.backups.shares import refuse_changes, shares_of
from nexus_redis_provider.core.backups.transfers import Position, receive_snapshot
from nexus_redis_provider.core.clusters import Primary, is_spread, primaries_of
from nexus_redis_provider.core.durations import Duration, to_ms
from nexus_redis_provider.core.endpoint import address_of, translated_errors
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    ServerError,
    UnreachableError,
)
from nexus_redis_provider.core.monitoring.infos import (
    ServerInfo,
    server_info,
)

HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to make a backup.

    Attributes:
        kind: what to back up.
        data_dir: the server's data directory (CONFIG GET dir) as it is seen from this machine.
            With it, the server saves to its disk (BGSAVE), and the file is copied from there;
            without it, the server sends its snapshot, as to a replica. A log needs it.
        timeout: seconds that a save, a snapshot that is sent, or a rewrite that is under way, may
            take.
        server_binary: whose tools check the file, where that of the PATH is older than the server.

    Raises:
        ConfigurationError: a log is wanted, and no directory given.
    """

    kind: Kind = Kind.RDB
    data_dir: Path | None = None
    timeout: Duration = HOUR
    server_binary: Path | None = None

    def __post_init__(self) -> None:
        to_ms(self.timeout, "timeout")
        if self.kind is Kind.AOF and self.data_dir is None:
            raise ConfigurationError(
                "A log is copied from the server's data directory: say where that is, as it is "
                "seen from this machine. Without it, back up a snapshot (rdb)."
            )


def create_backup(client: redis.Redis, root: Path, plan: Plan | None = None) -> Backup:
    """Returns when a checked backup is complete and on disk; until then there is none to be seen.

    Args:
        client: of one server, of the primary that Sentinels watch, or of a Cluster: then of all its
            primaries at once, each as it is at a moment of its own.
        root: folder of all backups, made where it is not there.
        plan: what, and how; by default a snapshot that the server sends.

    Raises:
        BackupError: and those under it; nothing is left behind. SaveUnderWayError, SaveFailedError:
            the server; CorruptBackupError: what came is not sound; of a Cluster, also where a slot
            has no node, or moved meanwhile.
        ConfigurationError: the data directory is not that of the server, or one is given for a
            Cluster.
        UnreachableError, AccessDeniedError, ServerError: as always.

    Cost: a fork of the server, of a Cluster of all primaries at the same time; the whole of its
    data over the line, or its disk.
    """
    plan = plan or Plan()
    if is_spread(client) and plan.data_dir is not None:
        raise ConfigurationError(
            "The nodes of a Cluster send their snapshots, since each has a data directory of its "
            "own: give none, or back up one node by its own address, as a plain redis:// URL."
        )
    maker = _Maker(plan, Tools.find(plan.server_binary))
    primaries = primaries_of(client)
    shares = shares_of(primaries) if is_spread(client) else []
    infos = [server_info(one.client, one.address) for one in primaries]
    began_at = time.monotonic()
    with new_folder(root, plan.kind, datetime.now(UTC)) as folder:
        name = name_of(folder)
        if shares:
            parts = maker.of_all(primaries, infos, folder, name)
            refuse_changes(primaries, shares, shares_of(primaries))
            pairs = zip(parts, shares, strict=True)
            parts = [replace(part, slots=share.slots) for part, share in pairs]
            took = time.monotonic() - began_at
            manifest = Manifest.of_cluster(name, address_of(client), took, parts)
        else:
            manifest = maker.of_one(client, infos[0], folder, name)
        with Recorder(folder, MANIFEST) as record:
            record.write(manifest.to_json().encode())
    return Backup(root / manifest.name, manifest)


class _Maker:
    """Has the files of a backup written, and says what is in them."""

    def __init__(self, plan: Plan, tools: Tools) -> None:
        self._plan = plan
        self._tools = tools
        self._is_given_up = False

    def of_all(
        self, primaries: list[Primary], infos: list[ServerInfo], folder: Path, name: str
    ) -> list[Manifest]:
        """Of all at once, so that their moments are as close together as can be."""
        with ThreadPoolExecutor(len(primaries)) as pool:
            tasks = []
            for number, (primary, info) in enumerate(zip(primaries, infos, strict=True), 1):
                part = part_name(name, number)
                inner = folder / Path(part).name
                inner.mkdir(mode=0o700)
                tasks.append(pool.submit(self.of_one, primary.client, info, inner, part))
            try:
                # What fails first is the reason; the others need not go on.
                for task in as_completed(tasks):
                    task.result()
            except BaseException:
                self._is_given_up = True
                raise
        return [task.result() for task in tasks]

    def of_one(self, client: redis.Redis, info: ServerInfo, folder: Path, name: str) -> Manifest:
        """Of one server; `info` is what it said of itself just before."""
        plan = self._plan
        created_at, began_at = datetime.now(UTC), time.monotonic()
        names = _names(client, info)
        files, position = self._written(client, info.version, folder, names)
        # Files of a log were read by the tool when they were copied.
        is_snapshot = plan.kind is Kind.RDB
        counts = self._tools.check_rdb(folder / files[0].path, name) if is_snapshot else None
        return Manifest(
            name=name,
            kind=plan.kind,
            created_at=created_at,
            took=time.monotonic() - began_at,
            server=info.name,
            version=info.version,
            address=info.address,
            run_id=info.run_id,
            replid=position.replid if position else None,
            offset=position.offset if position else None,
            databases=info.databases,
            is_still=_is_still(info, server_info(client, info.address), plan),
            keys=counts.keys if counts else None,
            expires=counts.expires if counts else None,
            names=names,
            files=files,
        )

    def _written(
        self, client: redis.Redis, version: str, folder: Path, names: Names
    ) -> tuple[tuple[BackupFile, ...], Position | None]:
        plan = self._plan
        timeout = to_ms(plan.timeout, "timeout") / 1000
        if plan.data_dir is None:
            with Recorder(folder, names.dbfilename) as record:

                def write(data: bytes) -> None:
                    if self._is_given_up:
                        raise CancelledError
                    record.write(data)

                position = receive_snapshot(client, write, version=version, timeout=timeout)
            return (record.written,), position
        if plan.kind is Kind.AOF:
            files = copy_log(client, plan.data_dir, names, folder, self._tools, timeout=timeout)
            return tuple(files), None
        with Recorder(folder, names.dbfilename) as record:
            file = plan.data_dir / names.dbfilename
            save_and_copy(client, file, record.write, timeout=timeout)
        return (record.written,), None


def _names(client: redis.Redis, info: ServerInfo) -> Names:
    try:
        with translated_errors(client):
            found: Any = client.config_get(*NAMING)
    except UnreachableError:
        raise
    except ServerError:
        # Whoever may not ask, as on managed servers.
        found = {}
    # A node may have its file elsewhere; a restore puts it into the directory. And a server that
    # keeps a log alone may have no name for its snapshots.
    found = {setting: Path(name).name for setting, name in found.items() if name}
    return Names(appendonly=info.persistence.has_aof, assumed=NAMING).told(found)


def _is_still(before: ServerInfo, after: ServerInfo, plan: Plan) -> bool:
    """Whether nothing was written, so that the keys that were counted are those of the backup."""
    saved = plan.kind is Kind.RDB and plan.data_dir is not None
    return (
        after.databases == before.databases
        and after.run_id == before.run_id
        and after.activity.expired == before.activity.expired
        and after.activity.evicted == before.activity.evicted
        # Its own save sets the count back.
        and after.persistence.unsaved_changes
        == (0 if saved else before.persistence.unsaved_changes)
    )
