"""Backups as people read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from nexus_redis_provider.cli.rendering import fact_grid, moment, new_table, printable
from nexus_redis_provider.core.backups.manifests import Kind, Manifest
from nexus_redis_provider.core.backups.restoring import Restoration
from nexus_redis_provider.core.backups.shares import slots_in_words
from nexus_redis_provider.core.durations import in_words


def backups_table(manifests: Sequence[Manifest]) -> Table:
    """One row for each backup."""
    table = new_table("BACKUP", "KIND", "WHEN (UTC)", "BYTES", "KEYS", "SERVER")
    for one in manifests:
        server = Text(printable(f"{one.server} {one.version} at {one.address}"))
        keys = f"{_keys(one):,}"
        table.add_row(
            Text(printable(one.name)),
            one.kind,
            moment(one.created_at),
            f"{one.bytes:,}",
            keys,
            server,
        )
    return table


def created_view(
    root: Path, manifest: Manifest, removed: Sequence[Manifest]
) -> Iterator[RenderableType]:
    """A backup that was made."""
    facts = [
        ("backup", root / manifest.name),
        ("server", f"{manifest.server} {manifest.version} at {manifest.address}"),
        ("bytes", f"{manifest.bytes:,}"),
        ("keys", f"{_keys(manifest):,}"),
        ("took", in_words(manifest.took)),
    ]
    if manifest.replid is not None:
        facts.append(("offset", f"{manifest.offset:,} of {manifest.replid}"))
    facts += [
        (
            part.name.rpartition("/")[2],
            f"{part.address}: {_keys(part):,} keys of slots {slots_in_words(part.slots)}",
        )
        for part in manifest.parts
    ]
    yield fact_grid(facts)
    if manifest.kind is Kind.RDB and manifest.keys is None:
        yield "No tool is here that can read it (see --server-binary): rehearse it."
    if manifest.names.assumed:
        yield (
            f"The server did not tell {', '.join(manifest.names.assumed)} (CONFIG GET): where its "
            "files are not called as usual, say so when you restore."
        )
    for one in removed:
        yield f"Removed: {one.name}"


def restored_view(done: Restoration) -> Iterator[RenderableType]:
    """A directory that was prepared, and what is to be done next."""
    settings = ", ".join(f"`{name} {printable(value)}`" for name, value in done.settings.items())
    yield (
        f"{printable(str(done.directory))} holds the {done.keys:,} keys of backup "
        f"{done.manifest.name}."
    )
    if done.expires:
        yield f"{done.expires:,} of them expire; those whose time is over are gone when it starts."
    if done.set_aside:
        yield f"What was there is in {printable(str(done.set_aside))}."
    if slots := done.manifest.slots:
        yield (
            f"Start the server with `cluster-enabled yes`, {settings}: it serves slots "
            f"{slots_in_words(slots)}. When all nodes have loaded, have them meet (CLUSTER MEET), "
            "and add replicas."
        )
    else:
        yield (
            f"Start the server with {settings}; of several, the primary alone, and "
            "replicas and Sentinels when it has loaded."
        )
    if done.assumed:
        yield (
            f"Nobody told {', '.join(done.assumed)}, so these are the usual ones: a server whose "
            "configuration says otherwise STARTS EMPTY. Look there, and restore with the options "
            "of the same names if need be."
        )


def _keys(manifest: Manifest) -> int:
    counted = sum(one.keys for one in manifest.databases.values())
    return counted if manifest.keys is None else manifest.keys
