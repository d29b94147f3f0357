"""Reading a dataset: always all of one version, in one round trip.

A read asks for the live version and for rows of the version it knows in one pipeline. Where the
two differ, a flip came in between, and it asks again: never stale, never mixed.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import redis
import redis.asyncio

from nexus_redis_provider.core.endpoint import translated_errors
from nexus_redis_provider.core.errors import ConfigurationError, GoldError, NotPublishedError
from nexus_redis_provider.core.gold.manifests import Manifest, Mode
from nexus_redis_provider.core.gold.pages import decode_page
from nexus_redis_provider.core.gold.schemas import row_decoder
from nexus_redis_provider.core.gold.templates import KeyPart, KeyTemplate
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE, GoldKeys
from nexus_redis_provider.core.scripts import Call, arun, run

Key = KeyPart | Sequence[KeyPart] | Mapping[str, KeyPart]
Row = dict[str, Any]
_Command = tuple[Any, ...]
_SCAN_ROWS = 1000


def live_manifest(dataset: str, *, namespace: str = DEFAULT_NAMESPACE) -> Call[Manifest | None]:
    """The manifest of the version that readers see, or None; one round trip."""
    keys = GoldKeys(dataset, namespace)

    def decode(reply: Any) -> Manifest | None:
        if not reply:
            return None
        return Manifest.from_json(reply[0], published_ms=int(reply[1]))

    return Call("live_manifest", (keys.head,), (keys.manifest(""),), decode)


class _Version:
    """What a reader knows of one version: immutable, hence good for as long as it is live."""

    def __init__(self, keys: GoldKeys, manifest: Manifest) -> None:
        self.manifest = manifest
        self.keys = keys
        upsert = manifest.mode is Mode.UPSERT
        self.prefix = b"" if upsert else keys.row_prefix(manifest.version).encode()
        self._template = KeyTemplate.parse(manifest.key)
        self.row = row_decoder(manifest.columns)

    def read(self, keys: Sequence[Key]) -> list[_Command]:
        names = [self.prefix + self._template.render(key).encode() for key in keys]
        # In this order: what was live after the rows were read was live, and complete, before.
        return [("MGET", *names), ("HGET", self.keys.head, "live")]

    def is_live(self, reply: bytes | None) -> bool:
        return reply == self.manifest.version.encode()

    def rows(self, values: Sequence[bytes | None]) -> list[Row | None]:
        return [None if value is None else self.row(value) for value in values]

    def may_have_expired(self, values: Sequence[bytes | None]) -> bool:
        return self.manifest.expires_ms is not None and None in values

    def list_attempts(self) -> list[_Command]:
        if self.manifest.mode is Mode.UPSERT:
            raise ConfigurationError(
                f"Gold dataset {self.manifest.dataset!r} is upserted in place and keeps no index "
                "of its keys; read rows by key."
            )
        return [("HGETALL", self.keys.attempts(self.manifest.version))]

    def list_pages(self, attempts: Mapping[bytes, bytes]) -> list[_Command]:
        return [
            ("GET", self.keys.page(self.manifest.version, name.decode(), number))
            for name, count in attempts.items()
            if name != b"rows"
            for number in range(int(count))
        ]

    def read_page(self, page: bytes | None) -> Iterator[tuple[list[bytes], _Command]]:
        names = decode_page(page) if page is not None else self._gone()
        for start in range(0, len(names), _SCAN_ROWS):
            chunk = names[start : start + _SCAN_ROWS]
            yield chunk, ("MGET", *(self.prefix + name for name in chunk))

    def complete(self, values: Sequence[bytes | None]) -> Sequence[bytes]:
        return [value if value is not None else self._gone() for value in values]

    def _gone(self) -> Any:
        raise NotPublishedError(self.manifest.dataset, self.manifest.version)


class _Reader:
    """What the sync and the async reader share."""

    def __init__(self, dataset: str, namespace: str) -> None:
        self.dataset = dataset
        self._namespace = namespace
        self._known: _Version | None = None

    def _manifest_call(self) -> Call[Manifest | None]:
        return live_manifest(self.dataset, namespace=self._namespace)

    def _learn(self, manifest: Manifest | None) -> _Version:
        if manifest is None:
            self._known = None
            raise NotPublishedError(self.dataset)
        self._known = _Version(GoldKeys(self.dataset, self._namespace), manifest)
        return self._known


class GoldDataset(_Reader):
    """Rows of a dataset by key, as dicts of Python values.

    Example:
        rows = GoldDataset(client, "flights_by_day")
        rows.get(("SEA", date(2013, 1, 1)))["flights"]
    """

    def __init__(
        self, client: redis.Redis, dataset: str, *, namespace: str = DEFAULT_NAMESPACE
    ) -> None:
        """Read through a client whose replies are bytes (the default of redis-py)."""
        super().__init__(dataset, namespace)
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

    def get_many(self, keys: Sequence[Key]) -> list[Row | None]:
        """Rows in the order of the keys, all of the same version; None for each missing one.

        Args:
            keys: for each row the value of its single key column, a tuple in the order of the
                key columns, or a mapping by column name.

        Raises:
            NotPublishedError: the dataset has no live version.
            ConfigurationError: a key has not the dataset's key columns.
        """
        if not keys:
            return []
        while True:
            version = self._known or self._learn(run(self._client, self._manifest_call()))
            values, live = self._execute(version.read(keys))
            if version.is_live(live):
                if version.may_have_expired(values):
                    self.manifest()
                return version.rows(values)
            self._known = None

    def scan(self) -> Iterator[Row]:
        """Every row of the version that is live when the scan begins, in no order.

        Raises:
            NotPublishedError: no live version, or it was removed during the scan (publish with a
                larger `keep`).
        """
        version = self._learn(run(self._client, self._manifest_call()))
        for _, values in self._chunks(version):
            yield from map(version.row, version.complete(values))

    def verify(self) -> Manifest:
        """Read every row and compare number and checksum with the manifest.

        Raises:
            GoldError: they differ: rows were changed, removed or evicted behind the publisher.
            NotPublishedError: as `scan`; verify again.
        """
        version = self._learn(run(self._client, self._manifest_call()))
        rows = checksum = 0
        for names, values in self._chunks(version):
            for name, value in zip(names, values, strict=True):
                if value is not None:
                    rows += 1
                    checksum += zlib.crc32(b"%b\0%b" % (name, value))
        manifest = version.manifest
        if (rows, checksum) != (manifest.rows, manifest.checksum):
            if self.manifest() != manifest:
                raise NotPublishedError(self.dataset, manifest.version)
            raise GoldError(
                f"Gold dataset {self.dataset!r}, version {manifest.version!r}: {rows} rows with "
                f"checksum {checksum}, but {manifest.rows} with {manifest.checksum} published.",
                self.dataset,
            )
        return manifest

    def _chunks(self, version: _Version) -> Iterator[tuple[list[bytes], Sequence[bytes | None]]]:
        (attempts,) = self._execute(version.list_attempts())
        for get_page in version.list_pages(attempts):
            (page,) = self._execute([get_page])
            for names, get_rows in version.read_page(page):
                (values,) = self._execute([get_rows])
                yield names, values

    def _execute(self, commands: Sequence[_Command]) -> list[Any]:
        with translated_errors(self._client):
            pipeline = self._client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = pipeline.execute()
            return replies


class AsyncGoldDataset(_Reader):
    """The asyncio twin of `GoldDataset`."""

    def __init__(
        self, client: redis.asyncio.Redis, dataset: str, *, namespace: str = DEFAULT_NAMESPACE
    ) -> None:
        """Read through an asyncio client whose replies are bytes."""
        super().__init__(dataset, namespace)
        self._client = client

    async def manifest(self) -> Manifest:
        """See `GoldDataset.manifest`."""
        return self._learn(await arun(self._client, self._manifest_call())).manifest

    async def get(self, key: Key) -> Row | None:
        """See `GoldDataset.get`."""
        return (await self.get_many([key]))[0]

    async def get_many(self, keys: Sequence[Key]) -> list[Row | None]:
        """See `GoldDataset.get_many`."""
        if not keys:
            return []
        while True:
            version = self._known or self._learn(await arun(self._client, self._manifest_call()))
            values, live = await self._execute(version.read(keys))
            if version.is_live(live):
                if version.may_have_expired(values):
                    await self.manifest()
                return version.rows(values)
            self._known = None

    async def scan(self) -> AsyncIterator[Row]:
        """See `GoldDataset.scan`."""
        version = self._learn(await arun(self._client, self._manifest_call()))
        (attempts,) = await self._execute(version.list_attempts())
        for get_page in version.list_pages(attempts):
            (page,) = await self._execute([get_page])
            for _, get_rows in version.read_page(page):
                (values,) = await self._execute([get_rows])
                for value in version.complete(values):
                    yield version.row(value)

    async def _execute(self, commands: Sequence[_Command]) -> list[Any]:
        with translated_errors(self._client):
            pipeline = self._client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute()
            return replies
