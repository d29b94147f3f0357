"""Gold datasets as JSON documents: times in ISO 8601, durations in seconds, null for what is none.

Words of a command line become key columns here, too.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.gold.history import History, StagingArea, Version
from nexus_redis_provider.core.gold.manifests import Manifest
from nexus_redis_provider.core.gold.templates import KeyPart, KeyTemplate


def state_of(version: Version) -> str:
    """What a kept version is to readers, in a word or two."""
    if not version.is_readable:
        return "expired"
    if version.is_live:
        return "live"
    return "rolled back" if version.is_rolled_back else "kept"


def version_document(version: Version, now_ms: int) -> dict[str, Any]:
    """A kept version, without what its manifest says of columns and origin."""
    manifest = version.manifest
    return {
        "version": version.version,
        "state": state_of(version),
        "published": version.published_at.isoformat(),
        "age": (now_ms - version.published_ms) / 1000,
        "expires_from": _iso(manifest.expires_from) if manifest else None,
        "expires": _iso(manifest.expires_at) if manifest else None,
        "mode": manifest.mode if manifest else None,
        "rows": manifest.rows if manifest else None,
        "bytes": manifest.bytes if manifest else None,
    }


def dataset_document(seen: History) -> dict[str, Any]:
    """A dataset with its live version, and how many others there are."""
    live, abandoned = seen.live_version, sum(area.is_abandoned for area in seen.staged)
    return {
        "dataset": seen.dataset,
        "live": version_document(live, seen.now_ms) if live else None,
        "kept": len(seen.versions),
        "staged": len(seen.staged) - abandoned,
        "to_sweep": abandoned,
    }


def history_document(seen: History) -> dict[str, Any]:
    """All that is known of a dataset."""
    live = seen.live_version
    return {
        "dataset": seen.dataset,
        "fence": seen.fence,
        "live": _manifest_document(live.manifest) if live and live.manifest else None,
        "versions": [version_document(one, seen.now_ms) for one in seen.versions],
        "staged": [_staging_document(area) for area in seen.staged],
    }


def row_document(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row. Decimals are text, which is exact, and so are NaN and the infinities."""
    return {name: _plain(value) for name, value in row.items()}


def key_of(manifest: Manifest, words: Sequence[str]) -> tuple[KeyPart, ...]:
    """The key columns that words of a command line give, in the order of the template.

    Raises:
        ConfigurationError: too many or too few, or one that is no value of its column's type.
    """
    names = KeyTemplate.parse(manifest.key).columns
    types = {column.name: str(column.type) for column in manifest.columns}
    if len(words) != len(names):
        wanted = ", ".join(f"{name} ({types.get(name)})" for name in names)
        raise ConfigurationError(
            f"A key of Gold dataset {manifest.dataset!r} is {wanted}, in this order; "
            f"{len(words)} value(s) were given."
        )
    return tuple(
        _key_part(name, types.get(name, "string"), word)
        for name, word in zip(names, words, strict=True)
    )


def _key_part(name: str, type_: str, word: str) -> KeyPart:
    try:
        word.encode()
        return _KEY_PARTS.get(type_, str)(word)
    except (KeyError, ValueError):
        raise ConfigurationError(
            f"Key column {name!r} has type {type_}, which {word!r} is not."
        ) from None


def _whole_number(word: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", word):
        raise ValueError(word)
    return int(word)


_KEY_PARTS: dict[str, Callable[[str], KeyPart]] = {
    **dict.fromkeys(("byte", "short", "integer", "long"), _whole_number),
    "boolean": lambda word: {"true": True, "false": False}[word.lower()],
    "date": date.fromisoformat,
}


def _manifest_document(manifest: Manifest) -> dict[str, Any]:
    return {
        "version": manifest.version,
        "mode": manifest.mode,
        "layout": manifest.layout,
        "key": manifest.key,
        "columns": [{"name": one.name, "type": one.type} for one in manifest.columns],
        "rows": manifest.rows,
        "bytes": manifest.bytes,
        "checksum": manifest.checksum,
        "partitions": manifest.partitions,
        "published": manifest.published_at.isoformat(),
        "expires_from": _iso(manifest.expires_from),
        "expires": _iso(manifest.expires_at),
        "ttl_column": manifest.ttl_column,
        "fence": manifest.fence,
        "lineage": dict(manifest.lineage),
    }


def _staging_document(area: StagingArea) -> dict[str, Any]:
    return {
        "version": area.version,
        "begun": area.created_at.isoformat(),
        "rows": area.rows,
        "lease_left": area.lease_left if not area.is_abandoned else None,
        "to_sweep": area.is_abandoned,
    }


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _plain(value: Any) -> Any:
    match value:
        case Mapping():
            return row_document(value)
        case list():
            return [_plain(item) for item in value]
        case _:
            return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    match value:
        case date():
            return value.isoformat()
        case bytes():
            return base64.b64encode(value).decode()
        case Decimal():
            return format(value, "f")
        case float() if not math.isfinite(value):
            return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
        case _:
            return value
