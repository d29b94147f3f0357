"""The commands on backups."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from nexus_redis_provider.cli.running import Answer
from nexus_redis_provider.core.backups.checks import Tools
from nexus_redis_provider.core.backups.creating import Plan, create_backup
from nexus_redis_provider.core.backups.folders import (
    Backup,
    backups,
    find_backup,
    folder_named,
    verify,
)
from nexus_redis_provider.core.backups.manifests import NAMING, Kind, Manifest
from nexus_redis_provider.core.backups.rehearsing import Comparison, rehearse
from nexus_redis_provider.core.backups.restoring import restore
from nexus_redis_provider.core.backups.retention import Retention, prune
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ConfigurationError

if TYPE_CHECKING:
    from nexus_redis_provider.cli.running import Parts

Source = Callable[[], Endpoint]
# Some 270 years.
_MOST_DAYS = 100_000


def create(client: redis.Redis, args: Namespace) -> Answer:
    """Make a backup, and remove old ones where it is said what stays."""
    plan = Plan(
        kind=Kind(args.kind),
        data_dir=_path(args.data_dir),
        timeout=args.timeout,
        server_binary=_path(args.server_binary),
    )
    is_limited = args.keep is not None or args.keep_days is not None
    retention = _retention(args) if is_limited else None
    root = folder_named(args.folder)
    backup = create_backup(client, root, plan)
    removed = prune(root, retention, made=backup) if retention else []
    manifest = backup.manifest

    def view() -> Parts:
        from nexus_redis_provider.cli.backup_tables import created_view

        return created_view(root, manifest, removed)

    return Answer({**manifest.to_dict(), "removed": [one.name for one in removed]}, view)


def show_all(_: Source, args: Namespace) -> Answer:
    """Every backup in the folder; what cannot be read is a complaint."""
    found, complaints = list[Manifest](), list[str]()
    for one in backups(folder_named(args.folder)):
        if isinstance(one, Backup):
            found.append(one.manifest)
        else:
            complaints.append(str(one))

    def view() -> Parts:
        from nexus_redis_provider.cli.backup_tables import backups_table

        return [backups_table(found) if found else f"No backups in {args.folder}."]

    return Answer([one.to_dict() for one in found], view, tuple(complaints))


def verify_one(_: Source, args: Namespace) -> Answer:
    """Look whether a backup is sound."""
    backup = find_backup(folder_named(args.folder), args.name)
    tools = Tools.find(_path(args.server_binary))
    counts = verify(backup, tools)
    manifest = backup.manifest
    is_read = bool(tools.aof) if manifest.kind is Kind.AOF else counts is not None

    def view() -> Parts:
        count = sum(len(one.files) for one in manifest.by_server)
        yield f"Backup {manifest.name}: all {count} file(s) are as they were made."
        if counts is not None:
            keys, expires = f"{counts.keys:,} keys", f"{counts.expires:,} expire"
            yield f"The server's tool reads {keys}, of which {expires}."
        elif not is_read:
            yield "No tool is here that can read them (see --server-binary): rehearse it."

    document = {"name": manifest.name, "read_by_tool": is_read, "keys": counts and counts.keys}
    return Answer(document, view)


def rehearse_one(source: Source, args: Namespace) -> Answer:
    """Load a backup, and see whether all came back."""
    compare = None
    if args.compare:
        compare = Comparison(source=source(), sample=args.sample, tolerance=args.tolerance)
    done = rehearse(
        find_backup(folder_named(args.folder), args.name),
        compare=compare,
        scratch=_path(args.scratch),
        server_binary=_path(args.server_binary),
        modules=[Path(one) for one in args.loadmodule],
        timeout=args.timeout,
    )

    def view() -> Parts:
        yield (
            f"Backup {done.manifest.name} brings back {done.keys:,} keys; loaded in "
            f"{done.took:,.1f} s."
        )
        if compare:
            yield (
                f"{done.compared:,} keys compared with {compare.source}: {done.different:,} differ."
            )

    document: dict[str, Any] = {
        "name": done.manifest.name,
        "keys": done.keys,
        "databases": {number: asdict(one) for number, one in done.databases.items()},
        "took": done.took,
        "compared": done.compared,
        "different": done.different,
    }
    return Answer(document, view)


def restore_one(server: Source, args: Namespace) -> Answer:
    """Prepare the data directory of a stopped server."""
    is_named = args.url is not None or getattr(args, "conn_id", None) is not None
    directory = folder_named(args.to)
    backup = find_backup(folder_named(args.folder), args.name)
    given = {setting: getattr(args, setting.replace("-", "_")) for setting in NAMING}
    told = {setting: name for setting, name in given.items() if name is not None}
    done = restore(
        backup,
        directory,
        appendonly=None if args.appendonly is None else args.appendonly == "yes",
        names=backup.manifest.names.told(told),
        replace=args.replace,
        server=server() if is_named else None,
        server_binary=_path(args.server_binary),
        modules=[Path(one) for one in args.loadmodule],
        timeout=args.timeout,
    )

    def view() -> Parts:
        from nexus_redis_provider.cli.backup_tables import restored_view

        return restored_view(done)

    document = {
        "name": done.manifest.name,
        "directory": str(done.directory),
        "appendonly": done.appendonly,
        "settings": done.settings,
        "assumed": done.assumed,
        "keys": done.keys,
        "expires": done.expires,
        "set_aside": str(done.set_aside) if done.set_aside else None,
    }
    return Answer(document, view)


def prune_all(_: Source, args: Namespace) -> Answer:
    """Remove old backups."""
    removed = prune(folder_named(args.folder), _retention(args), dry_run=args.dry_run)

    def view() -> Parts:
        word = "would be removed" if args.dry_run else "removed"
        yield f"{len(removed)} backup(s) {word}."
        yield from (one.name for one in removed)

    document = {"dry_run": args.dry_run, "removed": [one.name for one in removed]}
    return Answer(document, view)


def _retention(args: Namespace) -> Retention:
    days = args.keep_days
    # A NaN compares false with everything, hence the negation.
    if days is not None and not 0 < days < _MOST_DAYS:
        raise ConfigurationError(
            f"--keep-days must be a positive number below {_MOST_DAYS:,}, not {days:g}."
        )
    return Retention(keep=args.keep, keep_for=None if days is None else timedelta(days=days))


def _path(given: str | None) -> Path | None:
    if given is not None and not given.strip():
        raise ConfigurationError("A path must not be empty: leave its option out, or say where.")
    return None if given is None else Path(given)
