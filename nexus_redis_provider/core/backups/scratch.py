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


def lay_out(backup: Backup, folder: Path) -> None:
    """Copy a backup's files to where a server looks for them in its data directory."""
    for file in backup.manifest.files:
        target = folder / file.path
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

    It listens on the loopback alone, and asks for a password that nobody else knows.

    Raises:
        RehearsalError: it cannot load it; with the end of its log.
    """
    password = Secret(SecretSource.LITERAL, secrets.token_hex(32))
    server = ServerProcess(folder, *arguments, binary=binary, password=password)
    try:
        server.start(timeout)
    except ServerError as error:
        raise RehearsalError(backup, str(error)) from error
    try:
        with server.endpoint.client() as client:
            yield server, client
    finally:
        server.stop()


def databases_in(client: redis.Redis) -> dict[int, Database]:
    """What a server has, by number of the database."""
    with translated_errors(client):
        info: Any = client.info("keyspace")
    return databases_of(info)


def total(databases: Mapping[int, Database]) -> Database:
    """Of all databases together."""
    found = databases.values()
    return Database(keys=sum(one.keys for one in found), expires=sum(one.expires for one in found))
