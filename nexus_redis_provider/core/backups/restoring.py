"""Putting a backup into the data directory of a stopped server, so that it starts with that data.

With `appendonly yes` a server ignores the RDB file in its directory, and starts empty. So the log
is made first, in the order that the documentation of Redis gives: a server loads the RDB file with
`appendonly no`, is told to keep a log, writes one, and only then may start with `appendonly yes`.
That is done here by a server of our own, in a folder beside, and its result is tried before it is
put in place.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import redis

from nexus_redis_provider.core.backups.checks import Tools, is_rdb
from nexus_redis_provider.core.backups.files import OF_THE_FILE_SYSTEM, named_failures, sync
from nexus_redis_provider.core.backups.folders import Backup, refuse_among_backups, verify
from nexus_redis_provider.core.backups.manifests import Kind, Manifest, Names
from nexus_redis_provider.core.backups.saves import save
from nexus_redis_provider.core.backups.scratch import (
    Loader,
    databases_in,
    lay_out,
    refuse_losses,
    total,
)
from nexus_redis_provider.core.backups.shares import nodes_file
from nexus_redis_provider.core.backups.states import await_state
from nexus_redis_provider.core.durations import Duration, in_words, to_ms
from nexus_redis_provider.core.endpoint import Endpoint, translated_errors
from nexus_redis_provider.core.errors import (
    BackupError,
    ConfigurationError,
    ServerError,
    UnreachableError,
)
from nexus_redis_provider.core.monitoring.infos import Database

_STAGING = ".restoring-"
_SERVERS = ("redis", "valkey", "keydb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoration:
    """What was put into a data directory.

    Attributes:
        manifest: of the backup.
        directory: where the server is to be started.
        appendonly: whether it is to be started with `appendonly yes`, or no.
        names: by which the files are there.
        keys: that are in its files; those whose time is over by then are gone when it starts.
        expires: how many of them have such a time.
        set_aside: folder of what was there before, or None.
    """

    manifest: Manifest
    directory: Path
    appendonly: bool
    names: Names
    keys: int
    expires: int
    set_aside: Path | None

    @property
    def settings(self) -> dict[str, str]:
        """Of a configuration with which a server finds what is there; with others, it may not."""
        naming = ["appenddirname", "appendfilename"] if self.appendonly else ["dbfilename"]
        if self.manifest.slots:
            naming.append("cluster-config-file")
        word = "yes" if self.appendonly else "no"
        return {"appendonly": word, **{setting: self.names.of(setting) for setting in naming}}

    @property
    def assumed(self) -> list[str]:
        """Those of the settings that nobody told, and that have the usual values."""
        return [setting for setting in self.settings if setting in self.names.assumed]


def restore(
    backup: Backup,
    directory: Path,
    *,
    appendonly: bool | None = None,
    names: Names | None = None,
    replace: bool = False,
    server: Endpoint | None = None,
    server_binary: Path | None = None,
    modules: Sequence[Path] = (),
    timeout: Duration = 3600.0,
) -> Restoration:
    """Prepare the data directory of a stopped server; nothing of it is changed until all is ready.

    Then start the server with settings as the result has them; of a deployment with replicas, start
    the primary alone, and replicas and Sentinels when it has loaded.

    Of a Cluster, each node's part goes to a directory of its own, with a file of nodes by which the
    server serves the same slots under a new id; all old nodes stay away. When all have loaded, have
    them meet (CLUSTER MEET), and add replicas.

    Args:
        backup: whose data it shall have; of a Cluster, the part of one node.
        directory: `dir` of its configuration.
        appendonly: as in its configuration; by default as the server had it that was backed up.
        names: as in its configuration; by default those of the server that was backed up, of which
            some may be assumed. Whether it reads a log is for `appendonly` to say.
        replace: set aside what is there, in a folder beside it.
        server: that is to be started there: must not answer now, wherever it would run.
        server_binary: prepares the files; no newer than the server that is to read them, and by
            default what `find_server` finds.
        modules: files of those whose types are in the backup.
        timeout: seconds that each step may take.

    Raises:
        ConfigurationError: a server runs in the directory, or there is something in it, such as a
            server's files by other names, or it is among backups; or the backup is of a whole
            Cluster.
        CorruptBackupError: a file of the backup is not what it was.
        RehearsalError: the backup cannot be loaded; or not as many keys came back as are in it, or
            as each database had if nobody wrote while it was made, by which alone those of a log
            are known.
        BackupError: there is no room, for example.

    Cost: memory for all of the data, and room for it twice in the directory.
    """
    # The server that prepares the files runs in another one.
    directory = directory.absolute()
    manifest = backup.manifest
    if manifest.parts:
        parts = ", ".join(part.name for part in manifest.parts)
        raise ConfigurationError(
            f"Backup {manifest.name!r} is of a Cluster: restore the part of each node to a "
            f"directory of its own: {parts}."
        )
    refuse_among_backups(directory)
    loader = Loader(binary=server_binary, modules=modules, timeout=to_ms(timeout, "timeout") / 1000)
    if server is not None:
        _refuse_answering(server)
    verify(backup, Tools.find(server_binary))
    names = names or manifest.names
    wanted = manifest.names.appendonly if appendonly is None else appendonly
    with named_failures(f"Backup {manifest.name!r} was not restored to {directory}"):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_running(directory)
        _clear_remains(directory)
        _refuse_full(directory, replace=replace)
        _refuse_other_names(directory, names, appendonly=wanted)
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=directory))
        try:
            lay_out(backup, staging, names)
            kind = Kind.AOF if wanted else Kind.RDB
            found = _Preparation(manifest, names, staging, loader).prepare(kind)
            made = [staging / (names.appenddirname if wanted else names.dbfilename)]
            if manifest.slots:
                made.append(staging / names.clusterconfigfile)
                made[-1].write_text(nodes_file(manifest.slots), "utf-8")
            _settle(made, directory)
            refuse_running(directory)
            set_aside = (
                _set_aside(directory, names, is_node=bool(manifest.slots)) if replace else None
            )
            for one in made:
                one.rename(directory / one.name)
            sync(directory)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return Restoration(
        manifest=manifest,
        directory=directory,
        appendonly=wanted,
        names=names,
        keys=found.keys,
        expires=found.expires,
        set_aside=set_aside,
    )


def refuse_running(directory: Path) -> None:
    """Refuse a directory that a server works in, as far as this machine can tell.

    It would write its own data over what is put there. Only Linux says so, and only of processes
    that we may look at: not of those in another container.

    Raises:
        ConfigurationError: names the process.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            where = (process / "cwd").readlink()
            name = (process / "comm").read_text().strip()
            if where.is_relative_to(directory.resolve()) and name.startswith(_SERVERS):
                of = (
                    " for another restore, or one that was killed" if _STAGING in str(where) else ""
                )
                raise ConfigurationError(
                    f"{name} (process {process.name}) runs in {where}{of}: stop it first, it would "
                    "write over what is restored."
                )


def _refuse_answering(server: Endpoint) -> None:
    try:
        with server.client() as client, translated_errors(client):
            client.ping()
    except UnreachableError:
        return
    except ServerError:
        # It is there to refuse.
        pass
    raise ConfigurationError(
        f"Redis at {server} answers: stop it first, it would write over what is restored."
    )


class _Preparation:
    """The steps from a backup's files to those that a server starts with."""

    def __init__(self, manifest: Manifest, names: Names, folder: Path, loader: Loader) -> None:
        self._manifest = manifest
        self._names = names
        self._folder = folder
        self._loader = loader

    def prepare(self, kind: Kind) -> Database:
        """Have files of the wanted kind in the folder; returns what they hold."""
        name, made = self._manifest.name, self._manifest.kind
        try:
            with self._loaded(made) as client:
                found = databases_in(client)
                refuse_losses(
                    *(name, found, "the file"),
                    keys=self._manifest.keys,
                    databases=self._manifest.counted,
                )
                self._convert(client, made, kind)
            if kind is not made:
                # What the server is to start with is tried once.
                with self._loaded(kind) as client:
                    came, keys = databases_in(client), total(found).keys
                    refuse_losses(name, came, "the new files", keys=keys, databases=found)
        except ServerError as error:
            raise BackupError(f"The server that was to load backup {name!r}: {error}") from error
        return total(found)

    @contextmanager
    def _loaded(self, kind: Kind) -> Iterator[redis.Redis]:
        loaded = self._loader.loaded(self._manifest, self._folder, kind, self._names)
        with loaded as (_, client):
            yield client

    def _convert(self, client: redis.Redis, kind: Kind, to: Kind) -> None:
        if kind is to:
            return
        if to is Kind.RDB:
            save(client, timeout=self._loader.timeout)
            return
        with translated_errors(client):
            client.config_set("appendonly", "yes")
        too_late = BackupError(f"Its log was not written within {in_words(self._loader.timeout)}.")
        await_state(client, _has_log, too_late, self._loader.timeout)


def _has_log(info: Any) -> bool:
    if info["aof_last_bgrewrite_status"] != "ok":
        raise BackupError("The server could not write its log: see whether there is room for it.")
    return bool(
        info["aof_enabled"]
        and not info["aof_rewrite_in_progress"]
        and not info["aof_rewrite_scheduled"]
    )


def _clear_remains(directory: Path) -> None:
    # Of one that was killed; its server does not run any more.
    for remains in directory.glob(f"{_STAGING}*"):
        shutil.rmtree(remains)


def _refuse_full(directory: Path, *, replace: bool) -> None:
    found = sorted(one.name for one in directory.iterdir() if one.name not in OF_THE_FILE_SYSTEM)
    if found and not replace:
        raise ConfigurationError(
            f"{directory} is not empty: {', '.join(found[:5])}{' …' if found[5:] else ''}. Say "
            "that what is there is to be set aside (replace), or name another directory."
        )


def _refuse_other_names(directory: Path, names: Names, *, appendonly: bool) -> None:
    """Refuse files of a server that may call them otherwise, and would go on with those."""
    if appendonly:
        wanted, there = names.log, directory.glob("*/*.manifest")
    else:
        # Beside them, what a save has left that was killed; and before Redis 7, a log is one file,
        # which begins as a snapshot does.
        files = (
            one
            for one in directory.iterdir()
            if one.name != names.appendfilename and not one.name.startswith("temp-")
        )
        wanted = Path(names.dbfilename)
        there = (one for one in files if one.is_file() and is_rdb(one))
    found = sorted(str(one.relative_to(directory)) for one in there)
    if found and str(wanted) not in found:
        raise ConfigurationError(
            f"{directory} has {', '.join(found)}, and no {wanted}: its server may call its "
            "files otherwise, and would go on with those. Say how (dbfilename, appenddirname, "
            "appendfilename of its configuration); or move what it does not read to another place."
        )


def _set_aside(directory: Path, names: Names, *, is_node: bool) -> Path | None:
    """Move a server's data, of either kind, to a folder beside it; None where there is none."""
    files = [names.dbfilename, names.appenddirname]
    if is_node:
        files.append(names.clusterconfigfile)
    there = [path for name in files if (path := directory / name).exists()]
    if not there:
        return None
    aside = directory / f"before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    aside.mkdir(mode=0o700)
    for path in there:
        path.rename(aside / path.name)
    return aside


def _settle(made: Iterable[Path], directory: Path) -> None:
    """Have what was made on disk, and readable for the server's user."""
    owner = directory.stat()
    for path in chain.from_iterable((one, *one.rglob("*")) for one in made):
        sync(path)
        # Root prepares what is for another user.
        if os.geteuid() == 0:
            os.chown(path, owner.st_uid, owner.st_gid)
