"""What a version of a dataset says of itself."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NoReturn, Self

from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.gold.buckets import Share
from nexus_redis_provider.core.gold.packing import PACKING
from nexus_redis_provider.core.gold.schemas import Column


class _Choice(StrEnum):
    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ConfigurationError(
            f"{cls.__name__.lower()} is one of {', '.join(cls)}, not {value!r}."
        )


class Mode(_Choice):
    """How a publish changes what readers see."""

    SNAPSHOT = "snapshot"
    """A complete new version; readers move to it in one step."""
    DELTA = "delta"
    """As a snapshot, but only rows that changed are sent."""
    UPSERT = "upsert"
    """Rows are replaced in place, each row atomically, under stable keys."""


class Layout(_Choice):
    """How a row stands in Redis."""

    JSON = "json"
    """A string per row: a JSON object of all columns."""
    HASH = "hash"
    """A hash per row: a field for each column that is not null (see `hashes`)."""
    PACKED = "packed"
    """Some dozens of rows in a hash, by key, in binary (see `packing` and `buckets`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The facts of one version; immutable once published.

    Attributes:
        dataset, version: what it describes.
        mode, layout: how it was written.
        columns: names and types of all columns, in order.
        key: the key template over the key columns.
        rows, bytes: rows written, and bytes of their keys and values.
        checksum: sum of the CRC-32 of every `key NUL value`, or of every bucket of packed rows:
            the same in any order.
        partitions: task attempts whose rows these are.
        created_ms, published_ms: server clock, milliseconds since 1970.
        expires_from_ms: when the first of its rows expires, at the earliest; None if none does.
        expires_ms: when the last one does, at the latest; None if some do not.
        ttl_column: which said of each row when it expires, or None.
        fence: fencing token of the publisher, or None.
        lineage: where the rows came from: DAG, run, Spark application.
        shares: of packed rows, who wrote them; empty for other layouts.
        packing: version of the binary format of packed rows.
    """

    dataset: str
    version: str
    mode: Mode
    layout: Layout
    columns: tuple[Column, ...]
    key: str
    rows: int
    bytes: int
    checksum: int
    partitions: int
    created_ms: int
    published_ms: int = 0
    expires_from_ms: int | None = None
    expires_ms: int | None = None
    ttl_column: str | None = None
    fence: int | None = None
    lineage: Mapping[str, str] = field(default_factory=dict)
    shares: tuple[Share, ...] = ()
    packing: int = PACKING

    @property
    def published_at(self) -> datetime:
        """When readers first saw it."""
        return datetime.fromtimestamp(self.published_ms / 1000, tz=UTC)

    @property
    def expires_from(self) -> datetime | None:
        """When its rows begin to vanish, or None."""
        return _moment(self.expires_from_ms)

    @property
    def expires_at(self) -> datetime | None:
        """When the last of its rows vanishes, or None."""
        return _moment(self.expires_ms)

    def loses_rows(self, now_ms: int) -> bool:
        """Whether rows may have expired by then: server clock, ms since 1970."""
        return self.expires_from_ms is not None and self.expires_from_ms <= now_ms

    def to_json(self) -> str:
        """As text, without the publish time, which only the server knows."""
        body = asdict(self)
        del body["published_ms"]
        if self.layout is not Layout.PACKED:
            del body["shares"], body["packing"]
        return json.dumps(body, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | builtins.bytes, *, published_ms: int = 0) -> Self:
        """The manifest that `to_json` wrote. Fields of later releases are ignored."""
        body: dict[str, Any] = json.loads(text)
        known = {name: body[name] for name in cls.__dataclass_fields__ if name in body}
        known["columns"] = tuple(
            Column(column["name"], column["type"]) for column in body["columns"]
        )
        known["mode"], known["layout"] = Mode(body["mode"]), Layout(body["layout"])
        known["shares"] = tuple(Share(**share) for share in body.get("shares", ()))
        return cls(**known | {"published_ms": published_ms})


def _moment(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, tz=UTC)
