"""Making a backup of a server."""

from __future__ import annotations

import time
from dataclasses import dataclass
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
    BackupFile,
    Kind,
    Manifest,
    Names,
)
from nexus_redis_provider.core.backups.saves import save_and_copy
from nexus_redis_provider.core.backups.transfers import Position, receive_snapshot
from nexus_redis_provider.core.clusters import is_spread
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
        timeout: seconds that a save, or a rewrite that is under way, may take.
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
        client: of one server, or of the primary that Sentinels watch.
        root: folder of all backups, made where it is not there.
        plan: what, and how; by default a snapshot that the server sends.

    Raises:
        BackupError: and those under it; nothing is left behind. SaveUnderWayError, SaveFailedError:
            the server; CorruptBackupError: what came is not sound.
        ConfigurationError: it is a Cluster, or the data directory is not that of the server.
        UnreachableError, AccessDeniedError, ServerError: as always.

    Cost: a fork of the server; the whole of its data over the line, or its disk.
    """
    plan = plan or Plan()
    if is_spread(client):
        raise ConfigurationError(
            "A Cluster is backed up node by node: give the address of each primary by itself, as a "
            "plain redis:// URL. `server info` lists them."
        )
    info = server_info(client, address_of(client))
    names = _names(client, info)
    tools = Tools.find(plan.server_binary)
    created_at, began_at = datetime.now(UTC), time.monotonic()
    with new_folder(root, plan.kind, created_at) as folder:
        files, position = _written(client, folder, plan, names, tools)
        # Files of a log were read by the tool when they were copied.
        is_snapshot = plan.kind is Kind.RDB
        counts = tools.check_rdb(folder / files[0].path, name_of(folder)) if is_snapshot else None
        manifest = Manifest(
            name=name_of(folder),
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
        with Recorder(folder, MANIFEST) as record:
            record.write(manifest.to_json().encode())
    return Backup(root / manifest.name, manifest)


def _written(
    client: redis.Redis, folder: Path, plan: Plan, names: Names, tools: Tools
) -> tuple[tuple[BackupFile, ...], Position | None]:
    timeout = to_ms(plan.timeout, "timeout") / 1000
    if plan.data_dir is None:
        with Recorder(folder, names.dbfilename) as record:
            position = receive_snapshot(client, record.write)
        return (record.written,), position
    if plan.kind is Kind.AOF:
        files = copy_log(client, plan.data_dir, names, folder, tools, timeout=timeout)
        return tuple(files), None
    with Recorder(folder, names.dbfilename) as record:
        file = plan.data_dir / names.dbfilename
        save_and_copy(client, file, record.write, timeout=timeout)
    return (record.written,), None


def _names(client: redis.Redis, info: ServerInfo) -> Names:
    try:
        with translated_errors(client):
            found: Any = client.config_get("dbfilename", "appenddirname", "appendfilename")
    except UnreachableError:
        raise
    except ServerError:
        # Who may not ask, as on managed servers, gets the usual names.
        found = {}
    return Names(appendonly=info.persistence.has_aof, **found)


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
