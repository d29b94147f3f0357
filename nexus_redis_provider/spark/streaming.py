"""`df.writeStream.format("nexus_redis")`: micro-batches, each applied once.

Spark makes a new writer for every micro-batch, and another for its commit, so making one changes
nothing: the first task to write opens the staging area of its run of the batch, and the others
find it. How a batch is told from one that was applied stands in `core/gold/batches.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql.datasource import DataSourceStreamArrowWriter, WriterCommitMessage

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import PublishError
from nexus_redis_provider.core.gold.batches import Plan, begin_batch
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.row_commands import row_encoder
from nexus_redis_provider.core.gold.specs import Report, Spec
from nexus_redis_provider.spark.tasks import Batch, write_partition


@dataclass
class _Written(WriterCommitMessage):
    """What a task did: nothing, where its micro-batch had been applied before."""

    publication: Publication | None = None
    report: Report | None = None
    error: PublishError | None = None


class StreamWriter(DataSourceStreamArrowWriter):
    """Writes one run of one micro-batch; travels to the executors."""

    def __init__(self, endpoint: Endpoint, spec: Spec) -> None:
        """Plan a run; nothing is changed before the first task writes."""
        self._endpoint, self._spec = endpoint, spec
        self._plan = Plan.make(endpoint, spec)

    def write(self, iterator: Iterator[pa.RecordBatch]) -> WriterCommitMessage:
        try:
            publication = self._begin()
        except PublishError as error:
            # Raised at the commit: Spark would try the task again, to no better end.
            return _Written(error=error)
        if publication is None:
            return _Written()
        report = write_partition(publication, map(self._encode, iterator))
        return _Written(publication, report, report.error)

    def commit(self, messages: Sequence[WriterCommitMessage | None], batchId: int) -> None:  # noqa: N803 - Spark's
        written: Any = messages
        publication = _publication(messages)
        reports = [message.report for message in written]
        if publication is None or None in reports:
            errors = [message.error for message in written if message.error]
            if errors:
                raise errors[0]
            # It was applied already, if only by another run, after the first tasks of this one.
            self.abort(messages, batchId)
        else:
            publication.commit(reports)

    def abort(self, messages: Sequence[WriterCommitMessage | None], batchId: int) -> None:  # noqa: N803 - Spark's
        publication = _publication(messages)
        if publication is not None:
            publication.abort()

    def _begin(self) -> Publication | None:
        context = TaskContext.get()
        query = context and context.getLocalProperty("sql.streaming.queryId")
        number = context and context.getLocalProperty("streaming.sql.batchId")
        if not query or not number:
            raise RuntimeError("A micro-batch is written inside a task of a streaming query.")
        return begin_batch(self._endpoint, self._spec, self._plan, query, int(number))

    def _encode(self, batch: pa.RecordBatch) -> Batch:
        return row_encoder(self._spec)(batch)


def _publication(messages: Sequence[WriterCommitMessage | None]) -> Publication | None:
    """That of the tasks that wrote, all of which have the same."""
    written: Any = messages
    found = (message.publication for message in written if message is not None)
    return next((one for one in found if one is not None), None)
