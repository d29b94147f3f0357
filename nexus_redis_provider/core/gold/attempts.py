"""What all attempts at a partition have in common: a connection, a lease, and how they give up."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn, Self

import pyarrow as pa

from nexus_redis_provider.core.endpoint import translated_errors
from nexus_redis_provider.core.errors import (
    NexusRedisError,
    PublishError,
    RefusedError,
    ServerError,
    WriteError,
)
from nexus_redis_provider.core.gold.expiries import Expiries, spread
from nexus_redis_provider.core.gold.node_streams import stream_to
from nexus_redis_provider.core.gold.pacing import Pace
from nexus_redis_provider.core.gold.publications import Publication, staging_gone
from nexus_redis_provider.core.gold.specs import Report
from nexus_redis_provider.core.gold.streams import refuse_errors
from nexus_redis_provider.core.gold.wire import Replies
from nexus_redis_provider.core.scripts import run, script


class Attempt(ABC):
    """A task attempt at one partition of a version; used as a context manager.

    Errors of the data or of the publish end up in the report; errors of the connection are raised,
    so that the framework tries the task again. An attempt that goes on although its version was
    given up, or published by a faster attempt, changes no row and leaves none behind.
    """

    script: str
    """That registers what is written next, before it is written."""

    def __init__(self, publication: Publication, partition: int, attempt: str) -> None:
        """Describe the attempt.

        Args:
            partition: index of the partition.
            attempt: name of this attempt, unique in the publish.
        """
        self._publication = publication
        self._spec = publication.spec
        self._keys = publication.spec.keys
        self._partition = partition
        # The partition leads the name, so that attempts at the same one find each other.
        self._attempt = f"{partition}.{attempt}"
        self._rows = self._bytes = self._checksum = 0

    def __enter__(self) -> Self:
        self._client = self._publication.endpoint.client(protocol=2)
        with translated_errors(self._client):
            self._client.script_load(script(self.script).source)
        self._stream = stream_to(self._client, self._spec.dataset)
        self._leave()
        self._pace = Pace(
            *(self._publication, self._attempt, self._client),
            most=self._most_rows(),
            check=self.check_staged,
        )
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(NexusRedisError), translated_errors(self._client):
            self._end()
            self._pace.close()
        self._stream.disconnect()
        self._client.close()

    @abstractmethod
    def _end(self) -> None:
        """Make sure that nothing is left behind if the version was given up."""

    @abstractmethod
    def _most_rows(self) -> int:
        """How many a batch may have at most."""

    @abstractmethod
    def _withdraw(self) -> None:
        """End the staging area, and remove what a sweep may have missed."""

    def check_staged(self) -> None:
        """Renew the lease on the staging area.

        Raises:
            SupersededError: it was ended; nothing of this attempt is left.
        """
        with self._writing():
            if run(self._client, self._publication.renewal()) < 0:
                self._give_up()

    def refused(self, error: PublishError) -> Report:
        """The report of an attempt that gave up; ends the staging area, so that others stop too."""
        with suppress(ServerError):  # The report says more than that this failed, too.
            self._publication.abandon()
        return Report(partition=self._partition, attempt=self._attempt, error=error)

    def _expiries(self, names: pa.StringArray) -> Expiries:
        """When rows, or buckets, with these names expire."""
        expires_ms = self._publication.expires_ms
        if expires_ms is None:
            return None
        return spread(names, expires_ms, self._spec.jitter_ms)

    @contextmanager
    def _paced(self, rows: int, size: int) -> Iterator[None]:
        """Writes a batch when it is time, and notes how long the server took.

        Raises:
            NoRoomError, PublishError, UnreachableError: it must not, or cannot, be written.
        """
        self._pace.admit(rows)
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        self._leave()
        self._pace.note(seconds, size)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Within it, what the server refuses is an error of the publish, not of the line."""
        try:
            with translated_errors(self._client):
                yield
        except RefusedError as error:
            raise WriteError(self._spec.dataset, error.reply, 1) from error

    def _leave(self) -> None:
        """Where connections that write are limited, have none for as long as others write."""
        if self._spec.limits.max_writers is not None:
            self._stream.disconnect()  # It connects again by itself.

    def _give_up(self, replies: Replies = ()) -> NoReturn:
        """Raise why no more can be written: an error among replies, or the version is given up."""
        with suppress(ServerError):  # That of the replies came first.
            self._withdraw()
        refuse_errors(self._spec.dataset, replies)
        raise staging_gone(self._spec.dataset, self._publication.version)
