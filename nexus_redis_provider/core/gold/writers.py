"""One task attempt's stream of rows: written in pipelined batches, every reply checked."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import redis

from nexus_redis_provider.core.durations import to_ms
from nexus_redis_provider.core.endpoint import address_of, translated_errors
from nexus_redis_provider.core.errors import (
    DuplicateKeyError,
    NullKeyError,
    PublishError,
    StaleFenceError,
    UnreachableError,
    WriteError,
)
from nexus_redis_provider.core.gold.manifests import Mode
from nexus_redis_provider.core.gold.pages import encode_page
from nexus_redis_provider.core.gold.publications import (
    Publication,
    Report,
    staging_gone,
)
from nexus_redis_provider.core.gold.sweeping import page_keys, staged_attempts, unlink
from nexus_redis_provider.core.gold.wire import (
    NULL,
    OK,
    QUEUED,
    ReplyStream,
    command,
    set_commands,
)
from nexus_redis_provider.core.scripts import script

_MAX_ROWS = 10_000
_UPSERT_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class _Sent:
    keys: pa.StringArray
    values: pa.StringArray


class PartitionWriter:
    """Writes the rows of one partition under a version; used as a context manager.

    At most two batches are under way: one is sent while the replies to the one before are read.
    Errors of the data or of the publish end up in the report; errors of the connection are raised,
    so that the framework tries the task again.
    """

    def __init__(
        self, publication: Publication, partition: int, attempt: str, *, retry: bool = False
    ) -> None:
        """Describe the attempt.

        Args:
            partition: index of the partition.
            attempt: name of this attempt, unique in the publish.
            retry: whether there may have been an earlier attempt at the same partition.
        """
        self._publication = publication
        self._spec = publication.spec
        self._keys = publication.spec.keys
        self._partition = partition
        # The partition leads the name, so that attempts at the same one find each other.
        self._attempt = f"{partition}.{attempt}"
        self._retry = retry
        self._rows = self._bytes = self._checksum = self._pages = 0
        self._under_way: _Sent | None = None
        self._conflicts: list[_Sent] = []
        upsert = self._spec.mode is Mode.UPSERT
        self._prefix = "" if upsert else self._keys.row_prefix(publication.version)
        expires_ms = publication.expires_ms
        expiry = () if expires_ms is None else ("PXAT", expires_ms)
        # NX finds a repeated key at no cost, and keeps late zombies from changing a row.
        self._options = expiry if upsert else ("NX", *expiry)

    def __enter__(self) -> Self:
        self._client = self._publication.endpoint.client(protocol=2)
        with translated_errors(self._client):
            if self._spec.mode is Mode.SNAPSHOT:
                self._client.script_load(script("stage_page").source)
            self._connection = self._client.connection_pool.get_connection()
        self._replies = ReplyStream(self._connection)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.disconnect()
        self._client.close()

    def write(self, keys: pa.StringArray, values: pa.StringArray, checksum: int) -> None:
        """Write a batch.

        Args:
            keys, values: UTF-8 string arrays of equal length; a null key is refused.
            checksum: sum of the CRC-32 of every `key NUL value` of the batch.

        Raises:
            PublishError: the data, or the publish, is refused.
            UnreachableError: the connection broke; nothing more can be written by this attempt.
        """
        if keys.null_count:
            raise NullKeyError(self._spec.dataset, self._spec.key.columns, keys.null_count)
        step = _UPSERT_ROWS if self._spec.mode is Mode.UPSERT else _MAX_ROWS
        try:
            for start in range(0, len(keys), step):
                batch = _Sent(_compact(keys, start, step), _compact(values, start, step))
                if self._spec.mode is Mode.UPSERT:
                    self._upsert(batch)
                else:
                    self._stage(batch)
        except (OSError, redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
            raise UnreachableError(address_of(self._client), error) from error
        self._bytes += _size(keys) + _size(values) + len(self._prefix.encode()) * len(keys)
        self._checksum += checksum

    def finish(self) -> Report:
        """Wait for every reply and settle repeated keys.

        Raises:
            PublishError, UnreachableError: as `write`.
        """
        try:
            self._settle()
        except (OSError, redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
            raise UnreachableError(address_of(self._client), error) from error
        if self._conflicts or self._retry:
            self._settle_conflicts()
        return Report(
            partition=self._partition,
            attempt=self._attempt,
            rows=self._rows,
            bytes=self._bytes,
            checksum=self._checksum,
            pages=self._pages,
        )

    def refused(self, error: PublishError) -> Report:
        """The report of an attempt that gave up; ends the staging area, so that others stop too."""
        self._publication.abandon()
        return Report(partition=self._partition, attempt=self._attempt, error=error)

    def _stage(self, batch: _Sent) -> None:
        page = command(
            *("EVALSHA", script("stage_page").sha, 3, self._keys.staging),
            self._keys.attempts(self._publication.version),
            self._keys.page(self._publication.version, self._attempt, self._pages),
            *(self._publication.version, self._attempt, self._pages + 1),
            *(encode_page(batch.keys), to_ms(self._spec.staging_lease, "staging_lease")),
            len(batch.keys),
        )
        rows = set_commands(self._prefix, batch.keys, batch.values, self._options)
        # No health check: it would read a reply that is not its own.
        self._connection.send_packed_command([page, rows], check_health=False)
        self._pages += 1
        self._settle()
        self._under_way = batch

    def _settle(self) -> None:
        """Read the replies to the batch under way."""
        batch, self._under_way = self._under_way, None
        if batch is None:
            return
        staged = self._replies.line()
        unusual = self._replies.unexpected(len(batch.keys), OK)
        if staged == b":0":
            self._remove_batch(batch)
            raise staging_gone(self._spec.dataset, self._publication.version)
        self._refuse_errors([(0, staged)] if staged.startswith(b"-") else unusual)
        repeated = [position for position, line in unusual if line == NULL[:-2]]
        if repeated:
            self._conflicts.append(
                _Sent(batch.keys.take(pa.array(repeated)), batch.values.take(pa.array(repeated)))
            )
        self._rows += len(batch.keys)

    def _upsert(self, batch: _Sent) -> None:
        """Write a batch unless a newer fencing token has come; WATCH makes both one step."""
        rows = set_commands(self._prefix, batch.keys, batch.values, self._options)
        while True:
            self._connection.send_packed_command(
                [command("WATCH", self._keys.fence), command("GET", self._keys.fence)],
                check_health=False,
            )
            self._refuse_errors(self._replies.unexpected(1, OK))
            self._check_fence(self._replies.bulk())
            self._connection.send_packed_command(
                [command("MULTI"), rows, command("EXEC")], check_health=False
            )
            self._refuse_errors(self._replies.unexpected(1, OK))
            refused = self._replies.unexpected(len(batch.keys), QUEUED)
            header = self._replies.line()
            self._refuse_errors(refused or [(0, header)])
            if header != b"*-1":
                self._refuse_errors(self._replies.unexpected(len(batch.keys), OK))
                self._rows += len(batch.keys)
                return

    def _check_fence(self, stored: bytes | None) -> None:
        fence = self._spec.fence
        if stored is not None and (fence is None or fence < int(stored)):
            raise StaleFenceError(self._spec.dataset, fence, int(stored))

    def _refuse_errors(self, replies: list[tuple[int, bytes]]) -> None:
        errors = [line for _, line in replies if line.startswith(b"-")]
        if errors:
            raise WriteError(self._spec.dataset, errors[0][1:].decode(), len(errors))

    def _settle_conflicts(self) -> None:
        """A key that was there already: an earlier attempt at this partition, or repeated."""
        earlier = self._rows_of_earlier_attempts()
        prefix = self._prefix.encode()
        unclaimed = set(earlier)
        repeated: list[str] = []
        with translated_errors(self._client):
            for batch in self._conflicts:
                pipeline = self._client.pipeline(transaction=False)
                for key, value in zip(
                    batch.keys.to_pylist(), batch.values.to_pylist(), strict=True
                ):
                    name = key.encode()
                    if name not in unclaimed:
                        repeated.append(key)
                        continue
                    unclaimed.discard(name)
                    pipeline.set(prefix + name, value, pxat=self._publication.expires_ms)
                pipeline.execute()
        if repeated:
            raise DuplicateKeyError(self._spec.dataset, repeated[0], len(repeated))
        self._remove_leftovers(earlier)

    def _remove_leftovers(self, earlier: set[bytes]) -> None:
        # A frame that is not deterministic may give a second attempt other keys than the first.
        keys, version = self._keys, self._publication.version
        for rows in page_keys(self._client, keys, version, self._attempt, self._pages):
            earlier.difference_update(rows)
        unlink(self._client, [self._prefix.encode() + row for row in earlier])

    def _rows_of_earlier_attempts(self) -> set[bytes]:
        keys, version = self._keys, self._publication.version
        others = staged_attempts(self._client, keys, version)
        others.pop(self._attempt, None)
        found: set[bytes] = set()
        for attempt, count in others.items():
            if attempt.startswith(f"{self._partition}."):
                for rows in page_keys(self._client, keys, version, attempt, count):
                    found.update(rows)
        return found

    def _remove_batch(self, batch: _Sent) -> None:
        # Its page was refused, so nobody else would find these rows.
        prefix = self._prefix.encode()
        unlink(self._client, [prefix + key.encode() for key in batch.keys.to_pylist()])


def _compact(column: pa.StringArray, start: int, length: int) -> pa.StringArray:
    """A slice whose buffers begin at its first row, as the wire and the index pages need it."""
    part = column.slice(start, length)
    return part if part.offset == 0 else pa.concat_arrays([part, part.slice(0, 0)])


def _size(column: pa.StringArray) -> int:
    total: int | None = pc.sum(pc.binary_length(column)).as_py()
    return total or 0
