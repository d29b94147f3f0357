"""A server that loads a backup, for nobody else to talk to."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from nexus_redis_provider.core.backups.checks import NEWER
from nexus_redis_provider.core.backups.folders import Backup
from nexus_redis_provider.core.backups.manifests import Kind, Manifest, Names
from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.endpoint import translated_errors
from nexus_redis_provider.core.errors import ConfigurationError, RehearsalError, ServerError
from nexus_redis_provider.core.monitoring.infos import Database, databases_of
from nexus_redis_provider.core.processes import ServerProcess, find_server

# A replica of nobody drops nothing that has expired meanwhile, be it a key or all fields of a hash,
# so all that is in the file counts.
_KEEPING = ("--replicaof", "127.0.0.1 1")
# As many as anybody has: what is in one that it lacks is lost in silence when a log is replayed.
# An empty one takes half a kilobyte at most.
_DATABASES = ("--databases", "16384")
_NOTHING = Database(keys=0, expires=0)
# In the log of a server that does not know a type, or a command in append-only files.
_MODULE = re.compile(r"(?:no matching |Unknown )((?:module(?: type)?|command) '[^']*')")


def lay_out(backup: Backup, folder: Path, names: Names) -> None:
    """Copy a backup's files to where a server with such names looks in its data directory."""
    for file in backup.manifest.files:
        path = Path(file.path)
        if backup.manifest.kind is Kind.RDB:
            target = folder / names.dbfilename
        elif path.suffix == names.log.suffix:
            target = folder / names.log
        else:
            # By the name that stands in there.
            target = folder / names.appenddirname / path.name
        target.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.copyfile(backup.path(file), target)


def refuse_missing(modules: Sequence[Path]) -> None:
    """Refuse modules that are not there.

    Raises:
        ConfigurationError: names the first one.
    """
    for module in modules:
        if not module.is_file():
            raise ConfigurationError(f"There is no module {module} to load.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """A server that loads what is in a folder, as one that starts there would.

    Attributes:
        binary: of the server, by default what `find_server` finds.
        modules: files of the modules whose types are in the data.
        timeout: seconds that loading may take.

    Raises:
        ConfigurationError: there is no such module.
    """

    binary: Path | None
    modules: Sequence[Path]
    timeout: float

    def __post_init__(self) -> None:
        refuse_missing(self.modules)

    @contextmanager
    def loaded(
        self, manifest: Manifest, folder: Path, kind: Kind, names: Names
    ) -> Iterator[tuple[ServerProcess, redis.Redis]]:
        """It, with what is in the folder, and a client of it; it ends with the block.

        It listens on the loopback alone, asks for a password that nobody else knows, and keeps what
        has expired.

        Args:
            manifest: of the backup whose data it is.
            folder: of files, and of its own.
            kind: of the files; others are not read.
            names: of the files.

        Raises:
            RehearsalError: it cannot load it; with the reason, or the end of its log.
        """
        binary = self.binary or find_server()
        arguments = (
            *_KEEPING,
            *_DATABASES,
            *("--appendonly", "yes" if kind is Kind.AOF else "no"),
            *("--dbfilename", names.dbfilename),
            *("--appenddirname", names.appenddirname, "--appendfilename", names.appendfilename),
            *(word for one in self.modules for word in ("--loadmodule", str(one.absolute()))),
        )
        password = Secret(SecretSource.LITERAL, secrets.token_hex(32))
        server = ServerProcess(folder, *arguments, binary=binary, password=password)
        try:
            server.start(self.timeout)
        except ServerError as error:
            raise RehearsalError(manifest.name, _reason(str(error), binary, manifest)) from error
        try:
            with server.endpoint.client() as client:
                yield server, client
        finally:
            server.stop()


def _reason(said: str, binary: Path, manifest: Manifest) -> str:
    if any(sign in said for sign in NEWER):
        return (
            f"{binary} cannot read what {manifest.server} {manifest.version} wrote. Load it with a "
            "server that is as new as that (--server-binary)"
        )
    if missing := _MODULE.search(said):
        return (
            f"{binary} knows no {missing[1]}, which is of a module of the server. Have that module "
            "loaded, too (--loadmodule)"
        )
    return said


def refuse_losses(
    backup: str,
    came: Mapping[int, Database],
    where: str,
    *,
    keys: int | None,
    databases: Mapping[int, Database] | None,
) -> None:
    """Refuse other numbers of keys than went into files.

    Args:
        backup: its name.
        came: keys that came back, by number of the database.
        where: they came from.
        keys: that are in the files; None where nobody has counted them, as those of a log.
        databases: that the keys were in when the files were made; None where that is not known.

    Raises:
        RehearsalError: names both numbers.
    """
    found = total(came).keys
    if keys is not None and found != keys:
        raise RehearsalError(backup, f"{found:,} keys came back of {keys:,} in {where}")
    if databases is None:
        return
    for number in sorted({*databases, *came}):
        had, has = (one.get(number, _NOTHING) for one in (databases, came))
        if had != has:
            raise RehearsalError(
                backup,
                f"database {number} has {has.keys:,} keys, of which {has.expires:,} expire, and "
                f"had {had.keys:,} and {had.expires:,} before",
            )


def databases_in(client: redis.Redis) -> dict[int, Database]:
    """What a server has, by number of the database."""
    with translated_errors(client):
        info: Any = client.info("keyspace")
    return databases_of(info)


def total(databases: Mapping[int, Database]) -> Database:
    """Of all databases together."""
    found = databases.values()
    return Database(keys=sum(one.keys for one in found), expires=sum(one.expires for one in found))
