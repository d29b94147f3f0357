"""How packed rows of a version are found: each in the bucket that its key tells (see `buckets`)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Sequence
from itertools import repeat
from typing import Any

from nexus_redis_provider.core.errors import GoldError
from nexus_redis_provider.core.gold.buckets import bucket_of, canonical, digest, share_of
from nexus_redis_provider.core.gold.chains import GONE, BucketMap, merged
from nexus_redis_provider.core.gold.manifests import Manifest
from nexus_redis_provider.core.gold.packing import PACKING, packed_columns, unpacker
from nexus_redis_provider.core.gold.versions import (
    Collect,
    Command,
    Found,
    Row,
    Stored,
    Talk,
    Version,
    Walk,
    hash_of,
)
from nexus_redis_provider.core.keys import GoldKeys

LayerKeys = Callable[[int], list[str]]
"""The keys of the hashes that a bucket of a share is made of, the newest first."""
_BUCKETS = 50


class PackedVersion(Version):
    """Rows in buckets (see `buckets`)."""

    def __init__(self, keys: GoldKeys, manifest: Manifest, *, is_spread: bool) -> None:
        """See `layouts.version_of`."""
        super().__init__(keys, manifest, is_spread=is_spread)
        if manifest.packing > PACKING:
            raise GoldError(
                f"Gold dataset {manifest.dataset!r}, version {manifest.version!r}: its rows are in "
                f"packing {manifest.packing}, and this release reads up to {PACKING}. Upgrade it.",
                manifest.dataset,
            )
        self._shares = manifest.shares
        self._known: dict[int, LayerKeys] = {}
        columns, in_key = manifest.columns, self._template.columns
        packed = packed_columns(columns, self._template)
        types = {column.name: column.type for column in columns}
        self._unpack = unpacker(packed)
        self._key_values = self._template.reader([types[name] for name in in_key])
        self._names = [column.name for column in columns]
        places = {name: place for place, name in enumerate(in_key)}
        places |= {column.name: len(in_key) + place for place, column in enumerate(packed)}
        self._places = [places[name] for name in self._names]

    def rows(self, names: Sequence[bytes], values: Sequence[Stored]) -> list[Row]:
        in_key = self._key_values(list(map(bytes.decode, names)))
        columns = [*in_key, *self._unpack(values)]
        ordered = (columns[place] for place in self._places)
        return list(map(dict, map(zip, repeat(self._names), zip(*ordered, strict=True))))

    def walk(self) -> Walk:
        found = missing = 0
        for number, share in enumerate(self._shares):
            for start in range(0, share.buckets, _BUCKETS):
                some = range(start, min(start + _BUCKETS, share.buckets))
                layers = yield from self.layers(number, some)
                buckets = [merged(sources) for sources in layers if all(sources)]
                rows = [row for bucket in buckets for row in bucket.items()]
                checksum = sum(digest(canonical(bucket)) for bucket in buckets if bucket)
                lost = len(layers) - len(buckets)
                found, missing = found + len(rows), missing + lost
                yield Found(rows, checksum, lost)
        # Only now, so that who counts what is left counts all of it.
        if found < self.manifest.rows and not missing:
            raise self.gone()

    def layers(self, number: int, some: Sequence[int]) -> Talk[list[list[dict[bytes, bytes]]]]:
        """What each source of some buckets of a share has, the newest first; see `merged`.

        One that has nothing was removed, or evicted, meanwhile. Raises NotPublishedError as `walk`.
        """
        layers_of = yield from self._layers_of(number)
        keys = list(map(layers_of, some))
        replies = iter((yield [("HGETALL", key) for chain in keys for key in chain]))
        return [[hash_of(next(replies)) for _ in chain] for chain in keys]

    def _find(self, names: Sequence[bytes], *, alone: bool) -> Talk[tuple[list[Command], Collect]]:
        # An overlay that has expired says nothing, either, and what is beneath may be there still.
        alone = alone or self.manifest.expires_from_ms != self.manifest.expires_ms
        commands: list[Command] = []
        lengths: list[int] = []
        shares = len(self._shares)
        for name, key_hash in zip(names, map(zlib.crc32, names), strict=True):
            number = share_of(key_hash, shares)
            layers_of = self._known.get(number) or (yield from self._layers_of(number))
            buckets = self._shares[number].buckets
            layers = layers_of(bucket_of(key_hash, shares, buckets)) if buckets else []
            commands += [("HGET", layer, name) for layer in layers]
            if alone:
                # An overlay that was removed says nothing of a key, as one that has not changed it.
                commands += [("EXISTS", layer) for layer in layers[:-1]]
            lengths.append(len(layers))

        def collect(replies: list[Any]) -> list[bytes | None]:
            if set(lengths) == {1}:  # Only an overlay says of a row that it vanished.
                return replies
            left = iter(replies)
            values = []
            for length in lengths:
                value = _newest([next(left) for _ in range(length)])
                are_there = [next(left) for _ in range(length - 1)] if alone else []
                values.append(value if all(are_there) else None)
            return values

        return commands, collect

    def _layers_of(self, number: int) -> Generator[list[Command], Any, LayerKeys]:
        """Where the buckets of a share are."""
        if number not in self._known:
            share, version = self._shares[number], self.manifest.version
            if share.is_mapped:
                key = self._keys.bucket_map(version, f"{number}.{share.task}")
                (data,) = yield [("GET", key)]
                if data is None:
                    raise self.gone()
                chains = BucketMap.decode(data)
            else:
                chains = BucketMap.single(f"{version}.{share.task}", share.buckets)
            self._known[number] = _layer_keys(self._keys, number, chains)
        return self._known[number]


def _layer_keys(keys: GoldKeys, share: int, chains: BucketMap) -> LayerKeys:
    around = [[keys.around_bucket(source, share) for source in chain] for chain in chains.chains]
    places = chains.places
    return lambda bucket: [f"{before}{bucket}{after}" for before, after in around[places[bucket]]]


def _newest(layers: Sequence[bytes | None]) -> bytes | None:
    value = next((layer for layer in layers if layer is not None), None)
    return None if value == GONE else value
