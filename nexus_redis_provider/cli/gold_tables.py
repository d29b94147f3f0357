"""Gold datasets as people read them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from nexus_redis_provider.cli.gold_documents import row_document, state_of
from nexus_redis_provider.cli.gold_watching import Load
from nexus_redis_provider.cli.rendering import fact_grid, heading, moment, new_table, printable
from nexus_redis_provider.core.durations import in_words
from nexus_redis_provider.core.gold.history import History, StagingArea, Version
from nexus_redis_provider.core.gold.manifests import Manifest
from nexus_redis_provider.core.gold.schemas import ColumnType


def datasets_table(all_seen: Sequence[History]) -> Table:
    """One row for each dataset."""
    table = new_table(
        *("DATASET", "LIVE", "ROWS", "BYTES", "PUBLISHED (UTC)", "AGE", "EXPIRES"),
        *("KEPT", "STAGED", "TO SWEEP"),
    )
    for seen in all_seen:
        abandoned = sum(area.is_abandoned for area in seen.staged)
        live = seen.live_version
        table.add_row(
            printable(seen.dataset),
            printable(seen.live or "-"),
            *(_extent(live) if live else ("-", "-")),
            moment(live.published_at) if live else "-",
            in_words((seen.now_ms - live.published_ms) / 1000) if live else "-",
            _expires(live, seen.now_ms) if live else "-",
            *(str(len(seen.versions)), str(len(seen.staged) - abandoned), str(abandoned)),
        )
    return table


def history_view(seen: History) -> Iterator[RenderableType]:
    """Everything about one dataset."""
    live = seen.live_version
    yield fact_grid(_facts_of(seen, live))
    if live and live.manifest:
        if live.manifest.lineage:
            yield heading("Where it came from")
            yield fact_grid(list(live.manifest.lineage.items()))
        yield heading("Columns")
        yield _columns_table(live.manifest)
    if seen.versions:
        yield heading("Kept, newest first")
        yield _versions_table(seen)
    if seen.staged:
        yield heading("Being written or removed, oldest first")
        yield _staging_table(seen.staged)


def rollback_view(seen: History, now: Manifest) -> Iterator[RenderableType]:
    """From where to where readers were moved, and what may move them on."""
    live = seen.live_version
    before = _brief(live.manifest) if live and live.manifest else f"{seen.live}, expired"
    yield f"Readers of {printable(seen.dataset)} see another version now."
    yield fact_grid([("before", before), ("now", _brief(now))])
    if now.expires_from_ms is not None:
        yield f"It expires {_lifetime(now, seen.now_ms)}."
    writing = [printable(area.version) for area in seen.staged if not area.is_abandoned]
    if writing:
        yield f"A publish is under way, and moves readers when it commits: {', '.join(writing)}."
    yield "The next publish moves readers to what it brings: mend first what was wrong."


def sweep_view(removed: Mapping[str, Sequence[str]]) -> Iterator[RenderableType]:
    """Which versions were removed."""
    table = new_table("DATASET", "REMOVED")
    for dataset, versions in removed.items():
        table.add_row(printable(dataset), printable(", ".join(versions)))
    yield table


def loads_view(loads: Sequence[Load]) -> Iterator[RenderableType]:
    """A line for each publish that is under way, or was a moment ago."""
    if not loads:
        yield "Nothing is being published."
    for load in loads:
        name = f"{printable(load.dataset)} {printable(load.version)}"
        match load.state:
            case "staging":
                yield f"{name} {load.progress.bar()}"
            case "published":
                after = in_words(load.progress.seconds)
                yield f"{name} is published, about {after} after it was begun"
            case _:
                yield f"{name} is gone: aborted, or given up"


def row_table(row: Mapping[str, Any]) -> Table:
    """One line for each column of a row."""
    table = new_table("COLUMN", "VALUE")
    for name, value in row_document(row).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        table.add_row(printable(name), Text(printable(text)))
    return table


def _facts_of(seen: History, live: Version | None) -> list[tuple[str, Any]]:
    facts: list[tuple[str, Any]] = [("dataset", seen.dataset)]
    facts.append(("live version", seen.live or "none"))
    if live:
        age = in_words((seen.now_ms - live.published_ms) / 1000)
        facts.append(("published", f"{moment(live.published_at)} UTC, {age} ago"))
        facts.append(("expires", _expires(live, seen.now_ms)))
        if live.manifest and live.manifest.ttl_column:
            facts.append(("expires by", live.manifest.ttl_column))
    if live and (manifest := live.manifest):
        facts += [
            ("key", manifest.key),
            ("mode", manifest.mode),
            ("layout", manifest.layout),
            ("rows", f"{manifest.rows:,}"),
            ("bytes", f"{manifest.bytes:,}"),
            ("checksum", manifest.checksum),
            ("partitions", manifest.partitions),
            ("fencing token", manifest.fence or "none"),
        ]
    facts.append(("newest token", seen.fence or "none"))
    return facts


def _columns_table(manifest: Manifest) -> Table:
    table = new_table("COLUMN", "TYPE")
    for column in manifest.columns:
        table.add_row(printable(column.name), printable(_type(column.type)))
    return table


def _versions_table(seen: History) -> Table:
    table = new_table("VERSION", "STATE", "PUBLISHED (UTC)", "ROWS", "BYTES", "EXPIRES")
    for one in seen.versions:
        table.add_row(
            printable(one.version),
            state_of(one),
            moment(one.published_at),
            *_extent(one),
            _expires(one, seen.now_ms),
        )
    return table


def _staging_table(areas: Sequence[StagingArea]) -> Table:
    table = new_table("VERSION", "BEGUN (UTC)", "ROWS", "LEASE LEFT")
    for area in areas:
        left = "over, to be swept" if area.is_abandoned else in_words(area.lease_left)
        table.add_row(printable(area.version), moment(area.created_at), f"{area.rows:,}", left)
    return table


def _extent(version: Version) -> tuple[str, str]:
    manifest = version.manifest
    return (f"{manifest.rows:,}", _size(manifest.bytes)) if manifest else ("-", "-")


def _expires(version: Version, now_ms: int) -> str:
    if version.manifest is None:
        return "expired"
    return _lifetime(version.manifest, now_ms)


def _lifetime(manifest: Manifest, now_ms: int) -> str:
    """When rows expire: the first, and the last."""
    first_ms, last_ms = manifest.expires_from_ms, manifest.expires_ms
    if first_ms is None:
        return "never"
    first = in_words(max(0, first_ms - now_ms) / 1000)
    if last_ms is None:
        return f"in {first}, some rows never"
    last = in_words(max(0, last_ms - now_ms) / 1000)
    return f"in {last}" if first == last else f"in {first} to {last}"


def _brief(manifest: Manifest) -> str:
    published = f"published {moment(manifest.published_at)} UTC"
    return f"{manifest.version}, {published}, {manifest.rows:,} rows"


def _size(count: float) -> str:
    units = iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    # What would be shown as 1000.0 is one of the next unit.
    while count >= 999.95 and unit != "GB":
        count, unit = count / 1000, next(units)
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"


def _type(type_: ColumnType) -> str:
    if isinstance(type_, str):
        return type_
    match type_["type"]:
        case "array":
            return f"array<{_type(type_['elementType'])}>"
        case "map":
            return f"map<{_type(type_['keyType'])},{_type(type_['valueType'])}>"
        case "struct":
            fields = (f"{field['name']}:{_type(field['type'])}" for field in type_["fields"])
            return f"struct<{','.join(fields)}>"
        case other:
            return str(other)
