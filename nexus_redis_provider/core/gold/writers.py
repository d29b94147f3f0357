"""One task attempt's stream of rows: written in pipelined batches, every reply checked."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from nexus_redis_provider.core.durations import to_ms
from nexus_redis_provider.core.endpoint import translated_errors
from nexus_redis_provider.core.errors import (
    DuplicateKeyError,
    NullKeyError,
    StaleFenceError,
)
from nexus_redis_provider.core.gold.attempts import Attempt
from nexus_redis_provider.core.gold.manifests import Mode
from nexus_redis_provider.core.gold.pages import encode_page
from nexus_redis_provider.core.gold.publications import Publication, staging_gone
from nexus_redis_provider.core.gold.row_commands import Commands, RowBatch, row_format
from nexus_redis_provider.core.gold.specs import Report
from nexus_redis_provider.core.gold.sweeping import page_keys, staged_attempts, unlink
from nexus_redis_provider.core.gold.wire import OK, QUEUED, command, slices
from nexus_redis_provider.core.scripts import script

_MAX_ROWS = 10_000
_UPSERT_ROWS = 2_000
_DAY = 86400
_Check = tuple[str, bytes, Callable[[bytes | None], None]]
"""A key to watch, a command about it, and what raises where its reply permits no write."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """Rows under way.

    Attributes:
        batch: the rows.
        commands: that write them.
        page: number of the index page that has their keys, and perhaps others.
        listed: the keys on that page.
    """

    batch: RowBatch
    commands: Commands
    page: int
    listed: pa.StringArray


class PartitionWriter(Attempt):
    """Writes the rows of one partition under a version; used as a context manager.

    At most two batches are under way: one is sent while the replies to the one before are read.
    """

    script = "stage_page"

    def __init__(self, publication: Publication, partition: int, attempt: str) -> None:
        """Describe the attempt; see `Attempt`."""
        super().__init__(publication, partition, attempt)
        self._pages = 0
        self._under_way: deque[_Sent] = deque()
        # Rows that this attempt made and that a sweep begun meanwhile may have missed.
        self._unsure: list[RowBatch] = []
        self._conflicts: list[RowBatch] = []
        upsert = self._spec.mode is Mode.UPSERT
        self._prefix = "" if upsert else self._keys.row_prefix(publication.version)
        self._format = row_format(self._spec.layout, self._prefix, publication.expires_ms)

    def write(
        self,
        keys: pa.StringArray,
        values: pa.StringArray | pa.BinaryArray,
        checksum: int,
        fields: pa.Int32Array | None = None,
    ) -> None:
        """Write a batch.

        Args:
            keys, values: arrays of equal length; keys are UTF-8, and a null is refused.
            checksum: sum of the CRC-32 of every `key NUL value` of the batch.
            fields: of rows that are hashes, how many each has.

        Raises:
            PublishError: the data, or the publish, is refused.
            UnreachableError: the connection broke; nothing more can be written by this attempt.
        """
        if keys.null_count:
            raise NullKeyError(self._spec.dataset, self._spec.key.columns, keys.null_count)
        # Spark may be told to send large strings.
        keys = pc.cast(keys, pa.string())
        values = pc.cast(values, pa.string() if fields is None else pa.binary())
        self._spec.limits.check_values(self._spec.dataset, keys, values)
        put = self._upsert if self._spec.mode is Mode.UPSERT else self._stage
        start = 0
        with self._connected():
            while start < len(keys):
                step = self._pace.rows
                columns = (_compact(keys, start, step), _compact(values, start, step))
                put(RowBatch(*columns, fields if fields is None else fields.slice(start, step)))
                start += step
        self._bytes += _size(keys) + _size(values) + len(self._prefix.encode()) * len(keys)
        self._checksum += checksum

    def finish(self) -> Report:
        """Wait for every reply and settle repeated keys.

        Raises:
            PublishError, UnreachableError: as `write`.
        """
        with self._connected():
            self._settle()
            if self._conflicts:
                self._settle_conflicts()
        self.check_staged()
        return Report(
            partition=self._partition,
            attempt=self._attempt,
            rows=self._rows,
            bytes=self._bytes,
            checksum=self._checksum,
            pages=self._pages,
        )

    def _most_rows(self) -> int:
        return _UPSERT_ROWS if self._spec.mode is Mode.UPSERT else _MAX_ROWS

    def _end(self) -> None:
        if self._under_way:  # The attempt ends early; a sweep may miss these rows.
            self._settle()
            self.check_staged()

    def _stage(self, batch: RowBatch) -> None:
        add = self._stage_added if self._format.adds_only else self._stage_watched
        page = self._page_name(self._pages)
        add(batch)
        if self._pace.wants_sample:
            names = [self._prefix + key for key in batch.keys.to_pylist()]
            self._pace.weigh(len(batch), names, [page])

    def _stage_watched(self, batch: RowBatch) -> None:
        """Write rows over what may be there, unless the version was published meanwhile."""
        with self._paced(len(batch), batch.keys.nbytes + batch.values.nbytes):
            self._pages += 1
            nothing = Commands(memoryview(b""), 1, 0, b"")
            self._send(
                _Sent(batch.take([]), nothing, self._pages - 1, batch.keys), announced=len(batch)
            )
            self._settle()
            self._unsure.append(batch)
            commands = self._format.add(batch)
            unusual = self._write_watched(commands, [self._lease_check])
        there = {row for at, _ in unusual for row in commands.rows_of(at, batch)}
        if there:
            self._conflicts.append(batch.take(sorted(there)))
        self._rows += len(batch)

    def _stage_added(self, batch: RowBatch) -> None:
        sent = _Sent(batch, self._format.add(batch), self._pages, batch.keys)
        with self._paced(len(batch), len(sent.commands.stream)):
            self._pages += 1
            self._send(sent, announced=len(batch))
            self._settle(leave=self._pace.under_way)

    def _send(self, sent: _Sent, *, announced: int) -> None:
        """Send an index page, and rows that are on it; so many are not announced yet."""
        page = command(
            *("EVALSHA", script("stage_page").sha, 3, self._keys.staging),
            *(self._keys.attempts(self._publication.version), self._page_name(sent.page)),
            *(self._publication.version, self._attempt, self._pages),
            *(encode_page(sent.listed), to_ms(self._spec.staging_lease, "staging_lease")),
            *(announced, self._publication.expires_ms or ""),
        )
        # No health check: it would read a reply that is not its own.
        self._connection.send_packed_command(
            [page, *slices(sent.commands.stream)], check_health=False
        )
        self._under_way.append(sent)

    def _page_name(self, number: int) -> str:
        return self._keys.page(self._publication.version, self._attempt, number)

    def _settle(self, leave: int = 0) -> None:
        """Read replies until so many batches are under way."""
        while len(self._under_way) > leave:
            sent = self._under_way.popleft()
            commands, batch = sent.commands, sent.batch
            staged = self._replies.line()
            unusual = self._replies.differing(commands.due)
            unwritten = {row for at, _ in unusual for row in commands.rows_of(at, batch)}
            if staged == b":1":
                # No sweep had begun when the batch before was complete; one will find that.
                self._unsure.clear()
            self._unsure.append(batch.without(unwritten))
            if staged != b":1" or any(line != commands.kept for _, line in unusual):
                self._withdraw()
                self._refuse_errors([(0, staged)] if staged.startswith(b"-") else unusual)
                raise staging_gone(self._spec.dataset, self._publication.version)
            self._rows += len(batch) - len(unwritten)
            if unwritten:
                self._set_aside(sent, batch.take(sorted(unwritten)))

    def _set_aside(self, sent: _Sent, unwritten: RowBatch) -> None:
        """Rows of which some were there: tell which, by writing each of the others alone."""
        if sent.commands.rows > 1:
            alone = self._format.add(unwritten, one_by_one=True)
            self._send(_Sent(unwritten, alone, sent.page, sent.listed), announced=0)
        else:
            self._conflicts.append(unwritten)
            self._rows += len(unwritten)

    def _upsert(self, batch: RowBatch) -> None:
        """Write a batch unless a newer fencing token has come, or a later run of a micro-batch."""
        checks: list[_Check] = [
            (self._keys.fence, command("GET", self._keys.fence), self._check_fence)
        ]
        if claim := self._publication.claim:
            held = command("HGET", self._keys.head, claim.field)
            checks.append((self._keys.head, held, self._check_claim))
        with self._paced(len(batch), batch.keys.nbytes + batch.values.nbytes):
            self._write_watched(self._format.replace(batch), checks)
        self._count(len(batch))
        self._rows += len(batch)

    def _count(self, rows: int) -> None:
        """Tell who watches how many rows were upserted; of others, `stage_page` tells."""
        name = self._keys.attempts(self._publication.version)
        with translated_errors(self._client):
            pipeline = self._client.pipeline(transaction=False)
            pipeline.hincrby(name, "rows", rows)
            pipeline.expire(name, _DAY)
            pipeline.execute()

    def _write_watched(
        self, commands: Commands, checks: Sequence[_Check]
    ) -> list[tuple[int, bytes]]:
        """Write rows, over some that are there, where the replies to questions permit it.

        WATCH makes it one step. Returns position and line of each reply that was not due.
        """
        keys, questions, permit = zip(*checks, strict=True)
        written = False
        while not written:
            self._connection.send_packed_command(
                [command("WATCH", *keys), *questions], check_health=False
            )
            self._refuse_errors(self._replies.differing(OK))
            for check, reply in [(check, self._replies.bulk()) for check in permit]:
                check(reply)
            self._connection.send_packed_command(
                [command("MULTI"), *slices(commands.stream), command("EXEC")], check_health=False
            )
            self._refuse_errors(self._replies.differing(OK))
            refused = self._replies.differing(QUEUED * commands.count)
            header = self._replies.line()
            self._refuse_errors(refused or [(0, header)])
            written = header != b"*-1"
        unusual = self._replies.differing(commands.due)
        self._refuse_errors(unusual)
        return unusual

    def _check_fence(self, stored: bytes | None) -> None:
        fence = self._spec.fence
        if stored is not None and (fence is None or fence < int(stored)):
            raise StaleFenceError(self._spec.dataset, fence, int(stored))

    def _check_claim(self, held: bytes | None) -> None:
        claim = self._publication.claim
        if claim is None or held != claim.text.encode():
            raise staging_gone(self._spec.dataset, self._publication.version)

    @property
    def _lease_check(self) -> _Check:
        # Every publish touches the head, so that no row of a published version is changed.
        lease = command("ZSCORE", self._keys.staging, self._publication.version)
        return self._keys.head, lease, self._check_lease

    def _check_lease(self, deadline: bytes | None) -> None:
        if deadline in (None, b"0"):
            self._withdraw()
            raise staging_gone(self._spec.dataset, self._publication.version)

    def _settle_conflicts(self) -> None:
        """Keys that were there already: repeated, or those of another attempt at this partition.

        Of two attempts the later one to finish overwrites, so that all rows are of one of them:
        a frame that is not deterministic may give them different values.
        """
        found = [name for batch in self._conflicts for name in batch.names()]
        siblings = chain.from_iterable(self._pages_of_others(siblings=True))
        ours = set(found).intersection(siblings)
        for names in self._pages_of_others(siblings=False):
            ours.difference_update(names)
        times = Counter(chain.from_iterable(self._pages_of(self._attempt, self._pages)))
        repeated = [name for name in found if name not in ours or times[name] > 1]
        if repeated:
            raise DuplicateKeyError(self._spec.dataset, repeated[0].decode(), len(repeated))
        for batch in self._conflicts:
            self._write_watched(self._format.replace(batch), [self._lease_check])
            self._unsure.append(batch)

    def _pages_of_others(self, *, siblings: bool) -> Iterator[list[bytes]]:
        """Keys that other attempts at this partition, or those at other partitions, announced."""
        attempts = staged_attempts(self._client, self._keys, self._publication.version)
        for attempt, count in attempts.items():
            if attempt != self._attempt and attempt.startswith(f"{self._partition}.") is siblings:
                yield from self._pages_of(attempt, count)

    def _pages_of(self, attempt: str, count: int) -> Iterator[list[bytes]]:
        return page_keys(self._client, self._keys, self._publication.version, attempt, count)

    def _withdraw(self) -> None:
        """Remove rows that no page lists, or that came after a sweep had read it."""
        self._publication.abandon()
        names = {name for batch in self._unsure for name in batch.names()}
        with translated_errors(self._client):
            published = self._client.zscore(self._keys.versions, self._publication.version)
        if published is not None:
            for theirs in self._pages_of_others(siblings=True):
                names.difference_update(theirs)
        unlink(self._client, [self._prefix.encode() + name for name in names])


def _compact(column: pa.StringArray, start: int, length: int) -> pa.StringArray:
    """A slice whose buffers begin at its first row, as the wire and the index pages need it."""
    part = column.slice(start, length)
    return part if part.offset == 0 else pa.concat_arrays([part, part.slice(0, 0)])


def _size(column: pa.StringArray) -> int:
    total: int | None = pc.sum(pc.binary_length(column)).as_py()
    return total or 0
