"""One task attempt's stream of rows: written in pipelined batches, every reply checked."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
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
from nexus_redis_provider.core.gold.expiries import Lifetimes
from nexus_redis_provider.core.gold.manifests import Mode
from nexus_redis_provider.core.gold.pages import encode_page
from nexus_redis_provider.core.gold.publications import Publication, staging_gone
from nexus_redis_provider.core.gold.row_commands import ROWS_AT_ONCE, Commands, RowBatch, row_format
from nexus_redis_provider.core.gold.specs import Report
from nexus_redis_provider.core.gold.streams import ServerStream, Writes
from nexus_redis_provider.core.gold.sweeping import page_keys, staged_attempts, unlink
from nexus_redis_provider.core.gold.transactions import Condition, Transactions
from nexus_redis_provider.core.scripts import Call
from nexus_redis_provider.core.slots import slots_of

_MAX_ROWS = 10_000
_WATCHED_ROWS = 2_000  # A transaction keeps all others waiting.
_DAY = 86400


@dataclass(frozen=True, slots=True)
class _Sent:
    """Rows under way.

    Attributes:
        batch: the rows.
        page: number of the index page that has their keys, and perhaps others.
        listed: the keys on that page.
        one_by_one: whether each is to have a command of its own.
    """

    batch: RowBatch
    page: int
    listed: pa.StringArray
    one_by_one: bool = False


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
        is_spread = publication.endpoint.is_cluster
        self._format = row_format(self._spec.layout, self._prefix, is_spread=is_spread)
        self._lifetimes = Lifetimes(self._spec, publication.created_ms)

    def write(
        self,
        keys: pa.StringArray,
        values: pa.StringArray | pa.BinaryArray,
        checksum: int,
        fields: pa.Int32Array | None = None,
        ttls: pa.Array | None = None,
    ) -> None:
        """Write a batch.

        Args:
            keys, values: arrays of equal length; keys are UTF-8, and a null is refused.
            checksum: sum of the CRC-32 of every `key NUL value` of the batch.
            fields: of rows that are hashes, how many each has.
            ttls: the column that says when rows expire, if one does.

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
        expires = self._expiries(keys) if ttls is None else self._lifetimes.of(keys, ttls)
        batch, start = RowBatch(keys, values, fields, expires), 0
        with self._writing():
            while start < len(keys):
                step = self._pace.rows
                put(batch.slice(start, step))
                start += step
        self._bytes += _size(keys) + _size(values) + len(self._prefix.encode()) * len(keys)
        self._checksum += checksum

    def finish(self) -> Report:
        """Wait for every reply and settle repeated keys.

        Raises:
            PublishError, UnreachableError: as `write`.
        """
        with self._writing():
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
            expires_from_ms=self._lifetimes.first_ms,
            expires_ms=self._lifetimes.last_ms,
            pages=self._pages,
        )

    def _most_rows(self) -> int:
        watched = self._spec.mode is Mode.UPSERT or not self._format.adds_only
        return _WATCHED_ROWS if watched else _MAX_ROWS

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
        """Write rows whose keys are not there, unless the version was published meanwhile."""
        with self._paced(len(batch), batch.keys.nbytes + batch.values.nbytes):
            self._pages += 1
            self._stream.send(self._page(self._pages - 1, batch.keys, announced=len(batch)))
            if (outcome := self._stream.receive()).is_refused:
                self._give_up(outcome.replies)
            self._unsure.clear()
            written = None
            while written is None:
                self._transactions.watch([self._lease])
                there = self._existing(batch, ROWS_AT_ONCE)
                new = batch.without(there)
                commands = self._format.add(new)
                written = self._transactions.execute(commands)
        # Keys that the batch has twice, or that a rival wrote since they were looked for.
        late = commands.rows_of(written, new)
        self._unsure.append(new.without(late))
        found = (batch.take(there), new.take(late))
        self._conflicts += [conflicts for conflicts in found if len(conflicts)]
        self._rows += len(batch)

    def _existing(self, batch: RowBatch, at_once: int) -> list[int]:
        """Positions of rows whose keys are there: most often none, which few questions tell."""
        questions = self._format.look(batch, at_once)
        rows = questions.rows_of(self._transactions.ask(questions), batch)
        if at_once > 1 and rows:
            return [rows[place] for place in self._existing(batch.take(rows), 1)]
        return rows

    @property
    def _transactions(self) -> Transactions:
        assert isinstance(self._stream, ServerStream)  # noqa: S101 - for mypy; see `servers`
        return self._stream.transactions

    def _stage_added(self, batch: RowBatch) -> None:
        sent = _Sent(batch, self._pages, batch.keys)
        with self._paced(len(batch), batch.keys.nbytes + batch.values.nbytes):
            self._pages += 1
            self._send(sent, announced=len(batch))
            self._settle(leave=self._pace.under_way)

    def _send(self, sent: _Sent, *, announced: int) -> None:
        """Send an index page, and rows that are on it; so many are not announced yet."""
        page = self._page(sent.page, sent.listed, announced=announced)
        add = partial(self._format.add, one_by_one=sent.one_by_one)
        self._stream.send(page, self._writes(sent.batch, add))
        self._under_way.append(sent)

    def _page(self, number: int, keys: pa.StringArray, *, announced: int) -> Call[int]:
        """Registers an index page."""
        version, lease = self._publication.version, self._spec.staging_lease
        return Call(
            "stage_page",
            (self._keys.staging, self._keys.attempts(version), self._page_name(number)),
            (
                *(version, self._attempt, self._pages, encode_page(keys)),
                *(to_ms(lease, "staging_lease"), announced, self._publication.expires_ms or ""),
            ),
            int,
        )

    def _writes(self, batch: RowBatch, commands: Callable[[RowBatch], Commands]) -> Writes:
        return Writes(
            len(batch),
            lambda places: commands(batch if places is None else batch.take(places)),
            lambda: slots_of(self._prefix, batch.names()),
        )

    def _page_name(self, number: int) -> str:
        return self._keys.page(self._publication.version, self._attempt, number)

    def _settle(self, leave: int = 0) -> None:
        """Read replies until so many batches are under way."""
        while len(self._under_way) > leave:
            sent = self._under_way.popleft()
            outcome, batch = self._stream.receive(), sent.batch
            if outcome.is_staged:
                # No sweep had begun when the batch before was complete; one will find that.
                self._unsure.clear()
            self._unsure.append(batch.without(outcome.unwritten))
            if outcome.is_refused:
                self._give_up(outcome.replies)
            self._rows += len(batch) - len(outcome.unwritten)
            unwritten = batch.take(outcome.unwritten)
            if outcome.one_by_one and len(unwritten):
                self._conflicts.append(unwritten)
                self._rows += len(unwritten)
            elif len(unwritten):
                # Tell which of them were there, by writing each of the others alone.
                alone = _Sent(unwritten, sent.page, sent.listed, one_by_one=True)
                self._send(alone, announced=0)

    def _upsert(self, batch: RowBatch) -> None:
        """Write a batch unless a newer fencing token has come, or a later run of a micro-batch."""
        fence = ("GET", self._keys.fence)
        conditions = [Condition(self._keys.fence, fence, self._check_fence)]
        if claim := self._publication.claim:
            held = ("HGET", self._keys.head, claim.field)
            conditions.append(Condition(self._keys.head, held, self._check_claim))
        with self._paced(len(batch), batch.keys.nbytes + batch.values.nbytes):
            self._stream.write_if(conditions, self._writes(batch, self._format.replace))
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

    def _check_fence(self, stored: bytes | None) -> None:
        fence = self._spec.fence
        if stored is not None and (fence is None or fence < int(stored)):
            raise StaleFenceError(self._spec.dataset, fence, int(stored))

    def _check_claim(self, held: bytes | None) -> None:
        claim = self._publication.claim
        if claim is None or held != claim.text.encode():
            raise staging_gone(self._spec.dataset, self._publication.version)

    @property
    def _lease(self) -> Condition:
        # Every publish touches the head, so that no row of a published version is changed.
        lease = ("ZSCORE", self._keys.staging, self._publication.version)
        return Condition(self._keys.head, lease, self._check_lease)

    def _check_lease(self, deadline: bytes | None) -> None:
        if deadline in (None, b"0"):
            self._give_up()

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
            self._stream.write_if([self._lease], self._writes(batch, self._format.replace))
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


def _size(column: pa.StringArray) -> int:
    total: int | None = pc.sum(pc.binary_length(column)).as_py()
    return total or 0
