"""A server that loads a backup, for nobody else to talk to."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from nexus_redis_provider.core.backups.folders import Backup
from nexus_redis_provider.core.backups.manifests import Kind, Names
from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.endpoint import translated_errors
from nexus_redis_provider.core.errors import RehearsalError, ServerError
from nexus_redis_provider.core.monitoring.infos import Database, databases_of
from nexus_redis_provider.core.processes import ServerProcess

# A replica of nobody drops nothing that has expired meanwhile, be it a key or all fields of a hash,
# so all that is in the file counts.
_KEEPING = ("--replicaof", "127.0.0.1 1")


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


def reading(kind: Kind, names: Names) -> tuple[str, ...]:
    """Arguments of a server that loads this kind of files when it starts, and nothing else."""
    return (
        *("--appendonly", "yes" if kind is Kind.AOF else "no"),
        *("--dbfilename", names.dbfilename),
        *("--appenddirname", names.appenddirname, "--appendfilename", names.appendfilename),
    )


@contextmanager
def loaded(
    backup: str, folder: Path, *arguments: str, binary: Path | None, timeout: float
) -> Iterator[tuple[ServerProcess, redis.Redis]]:
    """A server that has loaded what is in a folder, and a client of it; it ends with the block.

    It listens on the loopback alone, asks for a password that nobody else knows, and keeps what
    has expired.

    Raises:
        RehearsalError: it cannot load it; with the end of its log.
    """
    password = Secret(SecretSource.LITERAL, secrets.token_hex(32))
    server = ServerProcess(folder, *_KEEPING, *arguments, binary=binary, password=password)
    try:
        server.start(timeout)
    except ServerError as error:
        raise RehearsalError(backup, str(error)) from error
    try:
        with server.endpoint.client() as client:
            yield server, client
    finally:
        server.stop()


def refuse_losses(backup: str, came: int, expected: int | None, where: str) -> None:
    """Refuse another number of keys than went into files; None where that is not known.

    Raises:
        RehearsalError: names both numbers.
    """
    if expected is not None and came != expected:
        raise RehearsalError(backup, f"{came:,} keys came back of {expected:,} in {where}")


def databases_in(client: redis.Redis) -> dict[int, Database]:
    """What a server has, by number of the database."""
    with translated_errors(client):
        info: Any = client.info("keyspace")
    return databases_of(info)


def total(databases: Mapping[int, Database]) -> Database:
    """Of all databases together."""
    found = databases.values()
    return Database(keys=sum(one.keys for one in found), expires=sum(one.expires for one in found))
