"""One task attempt's share of a delta: of packed rows, only those that changed are sent.

What the version before has is known by a sum of each row, 12 bytes that Redis keeps of the newest
version: the CRC-32 of its key, and a digest, which is zero where there is no row any more. Of that,
the upper 24 bits are those of another sum of the key, since of millions of keys some that come have
the CRC-32 of one that goes; the others are of the value. The server copies the sums, and they are
changed in place.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa

from nexus_redis_provider.core.endpoint import translated_errors
from nexus_redis_provider.core.gold.bucket_writers import BucketWriter
from nexus_redis_provider.core.gold.buckets import Arranged, Share, arrange, bucket_of
from nexus_redis_provider.core.gold.chains import GONE, LONGEST, BucketMap, Chain, merged
from nexus_redis_provider.core.gold.publications import base_gone

Sums = np.ndarray[Any, np.dtype[np.void]]
Hashes = np.ndarray[Any, np.dtype[np.uint32]]
Identities = np.ndarray[Any, np.dtype[np.uint64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
_SUM = np.dtype([("hash", "<u4"), ("digest", "<u8")])
_KEY_BITS, _VALUE_BITS = np.uint64(24), np.uint64(40)
_PIPELINE = 500


@dataclass(frozen=True, slots=True)
class _Changes:
    """How a share differs from that of the version before.

    Attributes:
        rows: which are new or have another value.
        places: where the sum of each row stands; -1 for new ones.
        vanished: places of sums whose rows are no more.
    """

    rows: Bools
    places: np.ndarray[Any, np.dtype[np.int64]]
    vanished: np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class _Base:
    """The same share of the version before."""

    version: str
    number: int
    share: Share

    @property
    def attempt(self) -> str:
        return f"{self.number}.{self.share.task}"


class DeltaWriter(BucketWriter):
    """Writes what of a share differs from the version before; used as a context manager.

    Where there is none that is like it, all of it.
    """

    def _bucket_count(self, rows: int) -> int:
        usual, base = super()._bucket_count(rows), self._base
        # As before, unless buckets have become much too small or too large.
        if base and usual / 4 <= base.share.buckets <= usual * 4:
            return base.share.buckets
        return usual

    @property
    def _base(self) -> _Base | None:
        if (base := self._publication.base) is None:
            return None
        return _Base(base.version, self._partition, base.shares[self._partition])

    def _write_all(self, arranged: Arranged) -> None:
        sums, base = _sums(arranged), self._base
        known = self._known_sums(base)
        if base is None or known is None:
            super()._write_all(arranged)
            self._replace_sums(sums)
        else:
            changes = _changes(sums, known)
            self._write_changes(base, arranged, changes, known)
            self._change_sums(base, sums, changes, known)
            # What was sent was counted, and all that there is counts.
            self._count_all(arranged)

    def _write_changes(
        self, base: _Base, arranged: Arranged, changes: _Changes, known: Sums
    ) -> None:
        self._register(0)
        before = self._chains_of(base)
        vanished = self._vanished_keys(
            arranged, known["hash"][changes.vanished].astype(np.int64), before
        )
        after, whole = self._chains_after(arranged, changes, vanished, before)
        chosen = changes.rows | whole[arranged.row_numbers]
        self._write_buckets(self._overlays(arranged, chosen, vanished, whole))
        self._prolong(after)
        self._write_map(after)

    def _chains_of(self, base: _Base) -> BucketMap:
        if not base.share.is_mapped:
            return BucketMap.single(f"{base.version}.{base.share.task}", base.share.buckets)
        with translated_errors(self._client):
            data: Any = self._client.get(self._keys.bucket_map(base.version, base.attempt))
        if data is None:
            raise base_gone(self._spec.dataset, self._publication.version)
        return BucketMap.decode(data)

    def _vanished_keys(
        self, arranged: Arranged, hashes: Hashes, chains: BucketMap
    ) -> dict[int, list[bytes]]:
        """Keys that are no more, by bucket. Sums do not have them, so their buckets are read."""
        shares = self._publication.shares
        numbers = bucket_of(hashes.astype(np.int64), shares, self._buckets)
        found: dict[int, list[bytes]] = {}
        wanted = np.unique(numbers).tolist()
        for start in range(0, len(wanted), _PIPELINE):
            some = wanted[start : start + _PIPELINE]
            for number, rows in zip(some, self._buckets_before(some, chains), strict=True):
                found[number] = [key for key in rows if key not in arranged.keys_of(number)]
        return found

    def _buckets_before(
        self, numbers: list[int], chains: BucketMap
    ) -> Iterator[dict[bytes, bytes]]:
        with translated_errors(self._client), self._client.pipeline(transaction=False) as pipeline:
            for number in numbers:
                for source in chains[number]:
                    pipeline.hgetall(self._keys.bucket(source, self._partition, number))
            replies = iter(pipeline.execute())
        for number in numbers:
            yield merged([next(replies) for _ in chains[number]])

    def _chains_after(
        self,
        arranged: Arranged,
        changes: _Changes,
        vanished: dict[int, list[bytes]],
        before: BucketMap,
    ) -> tuple[BucketMap, Bools]:
        """The chain of each bucket, and which of them are written as a whole."""
        changed = np.bincount(arranged.row_numbers[changes.rows], minlength=self._buckets)
        for number, keys in vanished.items():
            changed[number] += len(keys)
        rows = np.bincount(arranged.row_numbers, minlength=self._buckets)
        too_long = np.array([len(chain) >= LONGEST for chain in before.chains])
        # Where half of a bucket has changed, an overlay saves nothing.
        whole = (changed > 0) & ((changed * 2 >= rows) | too_long[np.asarray(before.places)])

        def chain(number: int) -> Chain:
            if whole[number]:
                return (self._source,) if rows[number] else ()
            return (self._source, *before[number]) if changed[number] else before[number]

        return BucketMap.of(map(chain, range(self._buckets))), whole

    def _overlays(
        self, arranged: Arranged, chosen: Bools, vanished: dict[int, list[bytes]], whole: Bools
    ) -> Arranged:
        gone = [key for number, keys in vanished.items() if not whole[number] for key in keys]
        mask = pa.array(chosen)
        return arrange(
            pa.concat_arrays([arranged.keys.filter(mask), pa.array(gone, pa.binary())]),
            pa.concat_arrays(
                [arranged.values.filter(mask), pa.array([GONE] * len(gone), pa.binary())]
            ),
            np.concatenate(
                [arranged.hashes[chosen], np.fromiter(map(zlib.crc32, gone), np.int64, len(gone))]
            ),
            self._publication.shares,
            self._buckets,
        )

    def _prolong(self, chains: BucketMap) -> None:
        """Let buckets of earlier versions live as long as this one."""
        expires = self._bucket_expiries(np.arange(len(chains)))
        if expires is None:
            return
        moments = [expires] * len(chains) if isinstance(expires, int) else expires.to_pylist()
        prolonged = [
            (self._keys.bucket(source, self._partition, bucket), moments[bucket])
            for bucket, source in chains.sources()
            if source != self._source
        ]
        for start in range(0, len(prolonged), _PIPELINE):
            with translated_errors(self._client):
                pipeline = self._client.pipeline(transaction=False)
                for name, expires_ms in prolonged[start : start + _PIPELINE]:
                    pipeline.pexpireat(name, expires_ms, gt=True)
                pipeline.execute()

    @property
    def _sums_key(self) -> str:
        return self._keys.sums(self._publication.version, self._attempt)

    def _known_sums(self, base: _Base | None) -> Sums | None:
        if base is None or base.share.buckets != self._buckets:
            return None
        with translated_errors(self._client):
            data: Any = self._client.get(self._keys.sums(base.version, base.attempt))
        return None if data is None else np.frombuffer(data, _SUM)

    def _replace_sums(self, sums: Sums) -> None:
        with translated_errors(self._client):
            self._client.set(self._sums_key, sums.tobytes(), pxat=self._publication.expires_ms)

    def _change_sums(self, base: _Base, sums: Sums, changes: _Changes, known: Sums) -> None:
        """Copy the sums of the version before, and change what is different."""
        if np.count_nonzero(changes.rows) * 4 > len(sums):
            self._replace_sums(sums)
            return
        new = np.flatnonzero(changes.places < 0)
        free = np.concatenate([changes.vanished, np.flatnonzero(known["digest"] == 0)])
        reused = min(len(new), len(free))
        places = changes.places.copy()
        places[new[:reused]] = free[:reused]
        written = np.flatnonzero(changes.rows & (places >= 0))
        key, size = self._sums_key, _SUM.itemsize
        with translated_errors(self._client), self._client.pipeline(transaction=False) as pipeline:
            pipeline.copy(self._keys.sums(base.version, base.attempt), key, replace=True)
            for row, place in zip(written.tolist(), places[written].tolist(), strict=True):
                pipeline.setrange(key, place * size, sums[row].tobytes())
            for place in free[reused : len(changes.vanished)].tolist():
                pipeline.setrange(key, place * size, bytes(size))
            if reused < len(new):
                pipeline.append(key, sums[new[reused:]].tobytes())
            if self._publication.expires_ms is not None:
                pipeline.pexpireat(key, self._publication.expires_ms)
            is_copied = pipeline.execute()[0]
        if not is_copied:  # A version was published meanwhile, the sums of which take their place.
            self._replace_sums(sums)


def _sums(arranged: Arranged) -> Sums:
    values = arranged.values.to_pylist()
    sums = np.empty(len(values), _SUM)
    sums["hash"] = arranged.hashes
    # Two keys with one CRC-32 have two of their bytes in reverse order.
    others = (zlib.crc32(key[::-1]) for key in arranged.keys.to_pylist())
    keys = np.fromiter(others, np.uint64, len(values))
    digests = b"".join([blake2b(value, digest_size=8).digest() for value in values])
    sums["digest"] = keys << _VALUE_BITS | np.frombuffer(digests, "<u8") >> _KEY_BITS
    sums["digest"] = np.maximum(sums["digest"], 1)
    return sums


def _identities(sums: Sums) -> Identities:
    """What tells the keys of rows from one another."""
    others = sums["digest"] >> _VALUE_BITS
    return sums["hash"].astype(np.uint64) << _KEY_BITS | others


def _changes(sums: Sums, known: Sums) -> _Changes:
    """What differs. Rows whose keys have the same identity count as new, and as vanished."""
    ours, theirs = _identities(sums), _identities(known)
    alive = np.flatnonzero(known["digest"])
    tied = np.union1d(_repeated(theirs[alive]), _repeated(ours))
    clear = alive[~np.isin(theirs[alive], tied)]
    order = clear[np.argsort(theirs[clear])]
    places = np.full(len(sums), -1)
    same = np.zeros(len(sums), bool)
    if len(order):
        before = theirs[order]
        at = np.minimum(np.searchsorted(before, ours), len(order) - 1)
        found = before[at] == ours
        places[found] = order[at[found]]
        same[found] = known["digest"][places[found]] == sums["digest"][found]
    return _Changes(~same, places, np.setdiff1d(alive, places))


def _repeated(identities: Identities) -> Identities:
    ordered = np.sort(identities)
    repeated: Identities = ordered[1:][ordered[1:] == ordered[:-1]]
    return repeated
