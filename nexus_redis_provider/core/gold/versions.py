"""How the rows of one version are found and read, for each layout; whoever does the talking.

Each way is a generator: it yields commands for one round trip, and is sent their replies. So the
sync and the async reader differ in how they talk, and in nothing else.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

from nexus_redis_provider.core.errors import ConfigurationError, NotPublishedError
from nexus_redis_provider.core.gold.hashes import Fields, arguments, field_heads, fields_decoder
from nexus_redis_provider.core.gold.manifests import Manifest, Mode
from nexus_redis_provider.core.gold.pages import decode_page
from nexus_redis_provider.core.gold.schemas import rows_decoder
from nexus_redis_provider.core.gold.templates import Key, KeyTemplate
from nexus_redis_provider.core.keys import GoldKeys

T = TypeVar("T")
Row = dict[str, Any]
Command = tuple[Any, ...]
Stored = Any
"""The value of a row as it stands in Redis: bytes, or of a hash its `Fields`."""
_PAGE_ROWS = 1000
_MGET_KEYS = 1000


@dataclass(frozen=True, slots=True)
class Found:
    """Some rows, as they stand in Redis.

    Attributes:
        rows: key and value of each.
        checksum: what they contribute to that of the manifest.
        missing: how many others, or buckets of them, should be there and are not.
    """

    rows: Sequence[tuple[bytes, Stored]]
    checksum: int
    missing: int


Collect = Callable[[list[Any]], Sequence[Stored | None]]
Talk = Generator[list[Command], list[Any], T]
"""Yields commands, is sent their replies, and returns what it found out."""
Walk = Generator[list[Command] | Found, Any, None]
"""Likewise, and yields what it found between."""


class Version(ABC):
    """What a reader knows of one version: immutable, hence good for as long as it is live."""

    def __init__(self, keys: GoldKeys, manifest: Manifest, *, is_spread: bool) -> None:
        """See `layouts.version_of`."""
        self.manifest = manifest
        self._is_spread = is_spread
        self._keys = keys
        self._template = KeyTemplate.parse(manifest.key)

    def get(self, keys: Sequence[Key]) -> Talk[list[Row | None] | None]:
        """Rows in the order of the keys, None for each missing one; None if it is not live."""
        names = self._names_of(keys)
        try:
            commands, collect = yield from self._find(names, alone=self._is_spread)
        except NotPublishedError:
            if self._is_live((yield self._questions)):
                raise
            return None
        # Last: what was live after the rows were read was live, and complete, before.
        replies = yield [*commands, *self._questions]
        values = collect(replies[: len(commands)])
        is_live = self._is_live(replies[len(commands) :])
        if is_live and self._is_spread and None in values:
            # Another node may have answered before this one removed a row.
            is_live = self._is_live((yield self._questions))
        return self._rows(names, values) if is_live else None

    def get_unchecked(self, keys: Sequence[Key]) -> Talk[list[Row | None] | None]:
        """As `get`, of a version that was live a moment ago; None if a row is missing."""
        names = self._names_of(keys)
        values = yield from self.find(names, alone=True)
        return None if None in values else self._rows(names, values)

    @property
    def _questions(self) -> list[Command]:
        """What to ask about the version; see `_is_live`."""
        questions: list[Command] = [("HGET", self._keys.head, "live")]
        if self.manifest.expires_ms is not None:
            # Buckets that a delta shares with other versions may outlive it.
            questions.append(("EXISTS", self._keys.manifest(self.manifest.version)))
        return questions

    def _is_live(self, replies: Sequence[Any]) -> bool:
        """Whether readers see the version, and it has not expired."""
        live, *is_there = replies
        return live == self.manifest.version.encode() and all(is_there)

    def _names_of(self, keys: Sequence[Key]) -> list[bytes]:
        return list(map(str.encode, self._template.render_all(keys)))

    def _rows(self, names: Sequence[bytes], values: Sequence[Stored | None]) -> list[Row | None]:
        if None not in values:
            return list(self.rows(names, values))
        pairs = zip(names, values, strict=True)
        found = [(name, value) for name, value in pairs if value is not None]
        rows = iter(self.rows(*zip(*found, strict=True)) if found else ())
        return [None if value is None else next(rows) for value in values]

    def find(self, names: Sequence[bytes], *, alone: bool = False) -> Talk[Sequence[Stored | None]]:
        """Values in the order of rendered keys, whether the version is live or not.

        Args:
            names: the keys.
            alone: see `_find`.
        """
        commands, collect = yield from self._find(names, alone=alone)
        return collect((yield commands))

    def rows_of(self, found: Found) -> list[Row]:
        """The Python values of what a walk has found."""
        return self.rows(*zip(*found.rows, strict=True)) if found.rows else []

    @abstractmethod
    def walk(self) -> Walk:
        """All rows. Raises NotPublishedError when it notices that the version was removed."""

    @abstractmethod
    def rows(self, names: Sequence[bytes], values: Sequence[Stored]) -> list[Row]:
        """The Python values of some rows, at least one, all of which were found."""

    @abstractmethod
    def _find(self, names: Sequence[bytes], *, alone: bool) -> Talk[tuple[list[Command], Collect]]:
        """What to send for the rows with some keys, and how to find their values in the replies.

        Args:
            alone: whether a value that is found must be right although nobody asks afterwards
                whether the version is still there; then None is what is missing, or not sure.
        """

    def gone(self) -> NotPublishedError:
        """The error of who notices that rows are missing."""
        return NotPublishedError(self.manifest.dataset, self.manifest.version)


class RowVersion(Version):
    """A key for each row; index pages list them. Rows are JSON."""

    def __init__(self, keys: GoldKeys, manifest: Manifest, *, is_spread: bool) -> None:
        """See `layouts.version_of`."""
        super().__init__(keys, manifest, is_spread=is_spread)
        upsert = manifest.mode is Mode.UPSERT
        self._prefix = b"" if upsert else keys.row_prefix(manifest.version).encode()
        self._decode = rows_decoder(manifest.columns)

    def rows(self, names: Sequence[bytes], values: Sequence[Stored]) -> list[Row]:
        return self._decode(values)

    def walk(self) -> Walk:
        if self.manifest.mode is Mode.UPSERT:
            raise ConfigurationError(
                f"Gold dataset {self.manifest.dataset!r} is upserted in place and keeps no index "
                "of its keys; read rows by key."
            )
        (attempts,) = yield [("HGETALL", self._keys.attempts(self.manifest.version))]
        for key in self._page_keys(hash_of(attempts)):
            (page,) = yield [("GET", key)]
            if page is None:
                raise self.gone()
            names = decode_page(page)
            for start in range(0, len(names), _PAGE_ROWS):
                chunk = names[start : start + _PAGE_ROWS]
                commands, collect = self._lookups(chunk)
                pairs = zip(chunk, collect((yield commands)), strict=True)
                rows = [(name, value) for name, value in pairs if value is not None]
                checksum = sum(self._checksum(*row) for row in rows)
                yield Found(rows, checksum, len(chunk) - len(rows))

    def _find(self, names: Sequence[bytes], *, alone: bool) -> Talk[tuple[list[Command], Collect]]:
        yield from ()
        return self._lookups(names)

    def _lookups(self, names: Sequence[bytes]) -> tuple[list[Command], Collect]:
        keys = [self._prefix + name for name in names]
        if self._is_spread:
            # An MGET has keys of one slot.
            return [("GET", key) for key in keys], list
        # A long one makes other clients wait.
        pieces = [keys[start : start + _MGET_KEYS] for start in range(0, len(keys), _MGET_KEYS)]
        return [("MGET", *piece) for piece in pieces], lambda replies: list(chain(*replies))

    def _checksum(self, name: bytes, value: Stored) -> int:
        return zlib.crc32(b"%b\0%b" % (name, value))

    def _page_keys(self, attempts: Mapping[bytes, bytes]) -> list[str]:
        return [
            self._keys.page(self.manifest.version, name.decode(), number)
            for name, count in attempts.items()
            if name != b"rows"
            for number in range(int(count))
        ]


class HashVersion(RowVersion):
    """Likewise, rows being hashes (see `hashes`)."""

    def __init__(self, keys: GoldKeys, manifest: Manifest, *, is_spread: bool) -> None:
        """See `layouts.version_of`."""
        super().__init__(keys, manifest, is_spread=is_spread)
        self._heads = field_heads(manifest.columns)
        self._names = [column.name.encode() for column in manifest.columns]
        self._values = fields_decoder(manifest.columns)

    def rows(self, names: Sequence[bytes], values: Sequence[Stored]) -> list[Row]:
        return list(map(self._values, values))

    def _lookups(self, names: Sequence[bytes]) -> tuple[list[Command], Collect]:
        commands: list[Command] = [("HMGET", self._prefix + name, *self._names) for name in names]
        # Each row has the fields of its key.
        return commands, lambda rows: [row if row.count(None) < len(row) else None for row in rows]

    def _checksum(self, name: bytes, value: Stored) -> int:
        fields: Fields = value
        return super()._checksum(name, arguments(self._heads, fields))


def hash_of(reply: Any) -> dict[bytes, bytes]:
    """The fields of a hash, of a reply to `HGETALL`."""
    # A flat list in RESP2.
    if isinstance(reply, dict):
        return reply
    return dict(zip(reply[::2], reply[1::2], strict=True))
