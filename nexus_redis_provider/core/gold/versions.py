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
from operator import itemgetter
from typing import Any, TypeVar

from nexus_redis_provider.core.errors import ConfigurationError, GoldError, NotPublishedError
from nexus_redis_provider.core.gold.buckets import bucket_of, canonical, digest, share_of
from nexus_redis_provider.core.gold.chains import GONE, BucketMap, merged
from nexus_redis_provider.core.gold.hashes import Fields, arguments, field_heads, fields_decoder
from nexus_redis_provider.core.gold.manifests import Layout, Manifest, Mode
from nexus_redis_provider.core.gold.packing import PACKING, packed_columns, unpacker
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
_BUCKETS = 50


@dataclass(frozen=True, slots=True)
class Found:
    """Some rows, as they stand in Redis.

    Attributes:
        rows: key and value of each; None where the value is gone.
        checksum: what they contribute to that of the manifest.
    """

    rows: Sequence[tuple[bytes, Stored | None]]
    checksum: int


Collect = Callable[[list[Any]], Sequence[Stored | None]]
Talk = Generator[list[Command], list[Any], T]
"""Yields commands, is sent their replies, and returns what it found out."""
Walk = Generator[list[Command] | Found, Any, None]
"""Likewise, and yields what it found between."""


class Version(ABC):
    """What a reader knows of one version: immutable, hence good for as long as it is live."""

    @staticmethod
    def of(keys: GoldKeys, manifest: Manifest, *, is_spread: bool = False) -> Version:
        """The version of a manifest, by its layout.

        Args:
            is_spread: whether its keys are on several nodes of a Cluster, which answer in no order.
        """
        kinds: dict[Layout, type[Version]] = {
            Layout.JSON: RowVersion,
            Layout.HASH: HashVersion,
            Layout.PACKED: PackedVersion,
        }
        return kinds[manifest.layout](keys, manifest, is_spread=is_spread)

    def __init__(self, keys: GoldKeys, manifest: Manifest, *, is_spread: bool) -> None:
        """Use `of`."""
        self.manifest = manifest
        self._is_spread = is_spread
        self._keys = keys
        self._template = KeyTemplate.parse(manifest.key)

    def get(self, keys: Sequence[Key]) -> Talk[list[Row | None] | None]:
        """Rows in the order of the keys, None for each missing one; None if it is not live."""
        names = [self._template.render(key).encode() for key in keys]
        try:
            commands, collect = yield from self._find(names, alone=self._is_spread)
        except NotPublishedError:
            (live,) = yield [self._ask_live()]
            if self.is_live(live):
                raise
            return None
        # Last: what was live after the rows were read was live, and complete, before.
        *replies, live = yield [*commands, self._ask_live()]
        values = collect(replies)
        if self._is_spread and None in values and self.is_live(live):
            # Another node may have answered before this one removed a row.
            (live,) = yield [self._ask_live()]
        return self._rows(names, values) if self.is_live(live) else None

    def get_unchecked(self, keys: Sequence[Key]) -> Talk[list[Row | None] | None]:
        """As `get`, of a version that was live a moment ago; None if a row is missing."""
        names = [self._template.render(key).encode() for key in keys]
        values = yield from self.find(names, alone=True)
        return None if None in values else self._rows(names, values)

    def is_live(self, reply: bytes | None) -> bool:
        """Whether what the head says is this version."""
        return reply == self.manifest.version.encode()

    def _ask_live(self) -> Command:
        return "HGET", self._keys.head, "live"

    def _rows(self, names: Sequence[bytes], values: Sequence[Stored | None]) -> list[Row | None]:
        pairs = zip(names, values, strict=True)
        return [None if value is None else self.row(name, value) for name, value in pairs]

    def find(self, names: Sequence[bytes], *, alone: bool = False) -> Talk[Sequence[Stored | None]]:
        """Values in the order of rendered keys, whether the version is live or not.

        Args:
            names: the keys.
            alone: see `_find`.
        """
        commands, collect = yield from self._find(names, alone=alone)
        return collect((yield commands))

    @abstractmethod
    def walk(self) -> Walk:
        """All rows. Raises NotPublishedError when it notices that the version was removed."""

    @abstractmethod
    def row(self, name: bytes, value: Stored) -> Row:
        """The Python values of a row that was found."""

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
        """Use `Version.of`."""
        super().__init__(keys, manifest, is_spread=is_spread)
        upsert = manifest.mode is Mode.UPSERT
        self._prefix = b"" if upsert else keys.row_prefix(manifest.version).encode()
        self._decode = rows_decoder(manifest.columns)

    def row(self, name: bytes, value: Stored) -> Row:
        return self._decode([value])[0]

    def _rows(self, names: Sequence[bytes], values: Sequence[Stored | None]) -> list[Row | None]:
        rows = iter(self._decode([value for value in values if value is not None]))
        return [None if value is None else next(rows) for value in values]

    def walk(self) -> Walk:
        if self.manifest.mode is Mode.UPSERT:
            raise ConfigurationError(
                f"Gold dataset {self.manifest.dataset!r} is upserted in place and keeps no index "
                "of its keys; read rows by key."
            )
        (attempts,) = yield [("HGETALL", self._keys.attempts(self.manifest.version))]
        for key in self._page_keys(_hash(attempts)):
            (page,) = yield [("GET", key)]
            if page is None:
                raise self.gone()
            names = decode_page(page)
            for start in range(0, len(names), _PAGE_ROWS):
                chunk = names[start : start + _PAGE_ROWS]
                commands, collect = self._lookups(chunk)
                rows = list(zip(chunk, collect((yield commands)), strict=True))
                yield Found(rows, sum(self._checksum(*row) for row in rows))

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

    def _checksum(self, name: bytes, value: Stored | None) -> int:
        return 0 if value is None else zlib.crc32(b"%b\0%b" % (name, value))

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
        """Use `Version.of`."""
        super().__init__(keys, manifest, is_spread=is_spread)
        self._heads = field_heads(manifest.columns)
        self._names = [column.name.encode() for column in manifest.columns]
        self._values = fields_decoder(manifest.columns)

    def row(self, name: bytes, value: Stored) -> Row:
        return self._values(value)

    def _rows(self, names: Sequence[bytes], values: Sequence[Stored | None]) -> list[Row | None]:
        return [None if value is None else self._values(value) for value in values]

    def _lookups(self, names: Sequence[bytes]) -> tuple[list[Command], Collect]:
        commands: list[Command] = [("HMGET", self._prefix + name, *self._names) for name in names]
        # Each row has the fields of its key.
        return commands, lambda rows: [row if row.count(None) < len(row) else None for row in rows]

    def _checksum(self, name: bytes, value: Stored | None) -> int:
        fields: Fields | None = value
        return super()._checksum(name, fields and arguments(self._heads, fields))


class PackedVersion(Version):
    """Rows in buckets (see `buckets`)."""

    def __init__(self, keys: GoldKeys, manifest: Manifest, *, is_spread: bool) -> None:
        """Use `Version.of`."""
        super().__init__(keys, manifest, is_spread=is_spread)
        if manifest.packing > PACKING:
            raise GoldError(
                f"Gold dataset {manifest.dataset!r}, version {manifest.version!r}: its rows are in "
                f"packing {manifest.packing}, and this release reads up to {PACKING}. Upgrade it.",
                manifest.dataset,
            )
        self._shares = manifest.shares
        self._known: dict[int, BucketMap] = {}
        columns, in_key = manifest.columns, self._template.columns
        packed = packed_columns(columns, self._template)
        types = {column.name: column.type for column in columns}
        self._unpack = unpacker(packed)
        self._key_values = self._template.reader([types[name] for name in in_key])
        self._names = [column.name for column in columns]
        places = {name: place for place, name in enumerate(in_key)}
        places |= {column.name: len(in_key) + place for place, column in enumerate(packed)}
        self._ordered = _getter([places[name] for name in self._names])

    def row(self, name: bytes, value: Stored) -> Row:
        values = self._ordered([*self._key_values(name.decode()), *self._unpack(value)])
        return dict(zip(self._names, values, strict=True))

    def walk(self) -> Walk:
        found, is_complete = 0, True
        for number, share in enumerate(self._shares):
            for start in range(0, share.buckets, _BUCKETS):
                some = range(start, min(start + _BUCKETS, share.buckets))
                layers = yield from self.layers(number, some)
                is_complete &= all(map(all, layers))
                buckets = list(map(merged, layers))
                rows = [row for bucket in buckets for row in bucket.items()]
                found += len(rows)
                yield Found(rows, sum(digest(canonical(bucket)) for bucket in buckets if bucket))
        # Only now, so that who counts what is left counts all of it.
        if not is_complete or found < self.manifest.rows:
            raise self.gone()

    def layers(self, number: int, some: Sequence[int]) -> Talk[list[list[dict[bytes, bytes]]]]:
        """What each source of some buckets of a share has, the newest first; see `merged`.

        One that has nothing was removed, or evicted, meanwhile. Raises NotPublishedError as `walk`.
        """
        chains = yield from self._chains(number)
        replies = yield [
            ("HGETALL", self._keys.bucket(source, number, bucket))
            for bucket in some
            for source in chains[bucket]
        ]
        layers = iter(replies)
        return [[_hash(next(layers)) for _ in chains[bucket]] for bucket in some]

    def _find(self, names: Sequence[bytes], *, alone: bool) -> Talk[tuple[list[Command], Collect]]:
        commands: list[Command] = []
        lengths: list[int] = []
        shares = len(self._shares)
        for name in names:
            key_hash = zlib.crc32(name)
            number = share_of(key_hash, shares)
            buckets = self._shares[number].buckets
            bucket = bucket_of(key_hash, shares, buckets) if buckets else 0
            chains = self._known.get(number) or (yield from self._chains(number))
            sources = chains[bucket] if buckets else ()
            layers = [self._keys.bucket(source, number, bucket) for source in sources]
            commands += [("HGET", layer, name) for layer in layers]
            if alone:
                # An overlay that was removed says nothing of a key, as one that has not changed it.
                commands += [("EXISTS", layer) for layer in layers[:-1]]
            lengths.append(len(layers))

        def collect(replies: list[Any]) -> list[bytes | None]:
            left = iter(replies)
            values = []
            for length in lengths:
                value = _newest([next(left) for _ in range(length)])
                are_there = [next(left) for _ in range(length - 1)] if alone else []
                values.append(value if all(are_there) else None)
            return values

        return commands, collect

    def _chains(self, number: int) -> Generator[list[Command], Any, BucketMap]:
        """Where the buckets of a share are."""
        if number not in self._known:
            share, version = self._shares[number], self.manifest.version
            if share.is_mapped:
                key = self._keys.bucket_map(version, f"{number}.{share.task}")
                (data,) = yield [("GET", key)]
                if data is None:
                    raise self.gone()
                self._known[number] = BucketMap.decode(data)
            else:
                self._known[number] = BucketMap.single(f"{version}.{share.task}", share.buckets)
        return self._known[number]


def _hash(reply: Any) -> dict[bytes, bytes]:
    # A flat list in RESP2.
    if isinstance(reply, dict):
        return reply
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _newest(layers: Sequence[bytes | None]) -> bytes | None:
    value = next((layer for layer in layers if layer is not None), None)
    return None if value == GONE else value


def _getter(places: Sequence[int]) -> Callable[[list[Any]], Sequence[Any]]:
    if len(places) == 1:
        return lambda values: [values[places[0]]]
    return itemgetter(*places)
