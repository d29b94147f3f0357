"""What runs in a Spark task: one attempt at one partition."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyspark import TaskContext

from nexus_redis_provider.core.errors import PublishError
from nexus_redis_provider.core.gold.bucket_writers import BucketWriter
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.specs import Report
from nexus_redis_provider.core.gold.writers import PartitionWriter

Batch = tuple[Any, ...]
"""Arguments of `PartitionWriter.write`: keys, values, the sum of their CRC-32, and so on."""


def write_partition(
    publication: Publication,
    batches: Iterable[tuple[Any, ...]],
    writer_of: type[PartitionWriter | BucketWriter] = PartitionWriter,
) -> Report:
    """Write every batch and say what was written, or why not.

    Args:
        publication: what the partition is part of.
        batches: arguments of `write` of the writer.
        writer_of: rows of the layout.

    Raises:
        UnreachableError: the connection broke; Spark tries the task again.
    """
    context = TaskContext.get()
    if context is None:
        raise RuntimeError("write_partition runs inside a Spark task.")
    attempt = str(context.taskAttemptId())
    with writer_of(publication, context.partitionId(), attempt) as writer:
        try:
            # Where another partition has failed, this one need not be computed.
            writer.check_staged()
            for batch in batches:
                writer.write(*batch)
            return writer.finish()
        except PublishError as error:
            return writer.refused(error)
