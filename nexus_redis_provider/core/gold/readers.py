"""Reading a dataset: always all of one version, in one round trip.

A read asks for the live version and for rows of the version it knows in one pipeline. Where the
two differ, a flip came in between, and it asks again: never stale, never mixed. Nodes of a Cluster
answer in no order, so there it asks once more which version is live before a row counts as missing.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis
import redis.asyncio

from nexus_redis_provider.core.clusters import is_spread
from nexus_redis_provider.core.durations import Duration, to_ms
from nexus_redis_provider.core.errors import GoldError, NotPublishedError, RefusedError
from nexus_redis_provider.core.gold.coalescing import Coalescer
from nexus_redis_provider.core.gold.layouts import version_of
from nexus_redis_provider.core.gold.losses import have_expired
from nexus_redis_provider.core.gold.manifests import Manifest
from nexus_redis_provider.core.gold.talks import atalk, awalk, talk, walk
from nexus_redis_provider.core.gold.templates import Key
from nexus_redis_provider.core.gold.versions import Row, Version
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE, GoldKeys
from nexus_redis_provider.core.scripts import Call, arun, run


def live_manifest(dataset: str, *, namespace: str = DEFAULT_NAMESPACE) -> Call[Manifest | None]:
    """The manifest of the version that readers see, or None; one round trip."""
    keys = GoldKeys(dataset, namespace)

    def decode(reply: Any) -> Manifest | None:
        if len(reply) < 2:
            return None
        return Manifest.from_json(reply[0], published_ms=int(reply[1]))

    def missed(reply: Any) -> list[str]:
        return [keys.manifest(reply[0].decode())] if len(reply) == 1 else []

    return Call("live_manifest", (keys.head,), (keys.manifest(""),), decode, missed)


@dataclass(frozen=True, slots=True)
class Verification:
    """What reading every row of a version has shown.

    Attributes:
        manifest: of the version.
        expired: how many rows are not there any more; the others are as many as they should be.
    """

    manifest: Manifest
    expired: int


class _Reader:
    """What the sync and the async reader share."""

    def __init__(self, client: Any, dataset: str, namespace: str, max_staleness: Duration) -> None:
        self._is_spread = is_spread(client)
        self.dataset = dataset
        self._namespace = namespace
        self._known: Version | None = None
        self._max_staleness_s = to_ms(max_staleness, "max_staleness") / 1000 if max_staleness else 0
        self._fresh_until = 0.0

    def _manifest_call(self) -> Call[Manifest | None]:
        return live_manifest(self.dataset, namespace=self._namespace)

    def _expiry_call(self, version: Version) -> Call[bool]:
        return have_expired(GoldKeys(self.dataset, self._namespace), version.manifest)

    def _learn(self, manifest: Manifest | None) -> Version:
        if manifest is None:
            self._known = None
            raise NotPublishedError(self.dataset)
        keys = GoldKeys(self.dataset, self._namespace)
        self._known = version_of(keys, manifest, is_spread=self._is_spread)
        return self._known


class GoldDataset(_Reader):
    """Rows of a dataset by key, as dicts of Python values.

    Example:
        rows = GoldDataset(client, "flights_by_day")
        rows.get(("SEA", date(2013, 1, 1)))["flights"]
    """

    def __init__(
        self,
        client: redis.Redis,
        dataset: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        max_staleness: Duration = 0,
    ) -> None:
        """Read through a client.

        Args:
            client: its replies are bytes (the default of redis-py).
            dataset: its name.
            namespace: first part of its keys.
            max_staleness: seconds for which a version that was live may be read without asking
                again; still never mixed, and rows that are missing are asked about at once.
        """
        super().__init__(client, dataset, namespace, max_staleness)
        self._client = client

    def manifest(self) -> Manifest:
        """The facts of the live version.

        Raises:
            NotPublishedError: there is none.
        """
        return self._learn(run(self._client, self._manifest_call())).manifest

    def get(self, key: Key) -> Row | None:
        """One row, or None when the live version has no such key.

        Args:
            key: as for `get_many`.

        Cost: one round trip; one more after a flip.
        """
        return self.get_many([key])[0]

    def get_many(self, keys: Iterable[Key]) -> list[Row | None]:
        """Rows in the order of the keys, all of the same version; None for each missing one.

        Args:
            keys: for each row the value of its single key column, a tuple in the order of the
                key columns, or a mapping by column name.

        Raises:
            NotPublishedError: the dataset has no live version.
            ConfigurationError: a key has not the dataset's key columns.
        """
        keys = list(keys)
        if not keys:
            return []
        while True:
            version = self._known or self._learn(run(self._client, self._manifest_call()))
            asked_at = time.monotonic()
            try:
                if asked_at < self._fresh_until:
                    rows = talk(self._client, version.get_unchecked(keys))
                    if rows is not None:
                        return rows
                rows = talk(self._client, version.get(keys))
            except RefusedError:
                # Rows that were upserted since may be of another layout.
                if self.manifest() == version.manifest:
                    raise
                rows = None
            if rows is not None:
                self._fresh_until = asked_at + self._max_staleness_s
                return rows
            self._known, self._fresh_until = None, 0.0

    def scan(self) -> Iterator[Row]:
        """Every row of the version that is live when the scan begins, in no order.

        Raises:
            NotPublishedError: no live version, or it was removed during the scan (publish with a
                larger `keep`).
        """
        version = self._learn(run(self._client, self._manifest_call()))
        for found in walk(self._client, version.walk()):
            if found.missing and not run(self._client, self._expiry_call(version)):
                raise version.gone()
            yield from version.rows_of(found)

    def verify(self) -> Manifest:
        """Read every row and compare number and checksum with the manifest; see `verification`."""
        return self.verification().manifest

    def verification(self) -> Verification:
        """Read every row and compare number and checksum with the manifest.

        Once rows may have expired, those that are missing count as such, and the others have no
        checksum to compare.

        Raises:
            GoldError: they differ: rows were changed, removed or evicted behind the publisher.
            NotPublishedError: as `scan`; verify again.
        """
        version = self._learn(run(self._client, self._manifest_call()))
        rows = checksum = 0
        is_complete = False
        with suppress(NotPublishedError):  # What is missing shows in the sums.
            for found in walk(self._client, version.walk()):
                rows += len(found.rows)
                checksum += found.checksum
            is_complete = True
        manifest = version.manifest
        if (rows, checksum) == (manifest.rows, manifest.checksum):
            return Verification(manifest, 0)
        lacks_rows = is_complete and rows < manifest.rows
        if lacks_rows and run(self._client, self._expiry_call(version)):
            return Verification(manifest, manifest.rows - rows)
        if self.manifest() != manifest:
            raise NotPublishedError(self.dataset, manifest.version)
        raise GoldError(
            f"Gold dataset {self.dataset!r}, version {manifest.version!r}: {rows} rows with "
            f"checksum {checksum}, but {manifest.rows} with {manifest.checksum} published.",
            self.dataset,
        )


class AsyncGoldDataset(_Reader):
    """The asyncio twin of `GoldDataset`."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        dataset: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        max_staleness: Duration = 0,
    ) -> None:
        """Read through an asyncio client; options as of `GoldDataset`."""
        super().__init__(client, dataset, namespace, max_staleness)
        self._client = client
        self._rows = Coalescer(self.get_many)

    async def manifest(self) -> Manifest:
        """See `GoldDataset.manifest`."""
        return self._learn(await arun(self._client, self._manifest_call())).manifest

    async def get(self, key: Key) -> Row | None:
        """See `GoldDataset.get`. However many calls come at once, they take four connections."""
        return await self._rows.get(key)

    async def get_many(self, keys: Iterable[Key]) -> list[Row | None]:
        """See `GoldDataset.get_many`."""
        keys = list(keys)
        if not keys:
            return []
        while True:
            version = self._known or self._learn(await arun(self._client, self._manifest_call()))
            asked_at = time.monotonic()
            try:
                if asked_at < self._fresh_until:
                    rows = await atalk(self._client, version.get_unchecked(keys))
                    if rows is not None:
                        return rows
                rows = await atalk(self._client, version.get(keys))
            except RefusedError:
                # Rows that were upserted since may be of another layout.
                if await self.manifest() == version.manifest:
                    raise
                rows = None
            if rows is not None:
                self._fresh_until = asked_at + self._max_staleness_s
                return rows
            self._known, self._fresh_until = None, 0.0

    async def scan(self) -> AsyncIterator[Row]:
        """See `GoldDataset.scan`."""
        version = self._learn(await arun(self._client, self._manifest_call()))
        async for found in awalk(self._client, version.walk()):
            if found.missing and not await arun(self._client, self._expiry_call(version)):
                raise version.gone()
            for row in version.rows_of(found):
                yield row
