"""What the tests of Gold datasets have in common: a small dataset, published by hand."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import redis

from nexus_redis_provider.core.clusters import primaries_of
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.gold.bucket_writers import BucketWriter
from nexus_redis_provider.core.gold.deltas import DeltaWriter
from nexus_redis_provider.core.gold.hashes import encode_hashes
from nexus_redis_provider.core.gold.manifests import Layout, Manifest, Mode
from nexus_redis_provider.core.gold.packing import pack
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.schemas import Column
from nexus_redis_provider.core.gold.specs import Report, Spec
from nexus_redis_provider.core.gold.templates import KeyTemplate
from nexus_redis_provider.core.gold.writers import PartitionWriter
from nexus_redis_provider.core.keys import GoldKeys
from tests.servers import as_user

PERMANENT_ROWS = "*:gold:sales:*"
COLUMNS = (Column("id", "string"), Column("n", "long"))
Batch = tuple[pa.StringArray, pa.StringArray, int]
PackedBatch = tuple[pa.StringArray, pa.BinaryArray, Any]


def spec(namespace: str, key: str = "{id}", **options: Any) -> Spec:
    return Spec(
        **{"dataset": "sales", "columns": COLUMNS, "key": KeyTemplate.parse(key)}
        | {"namespace": namespace}
        | options
    )


def batch(rows: Mapping[str, int] | Iterable[tuple[str, int]], prefix: str = "") -> Batch:
    """Keys, values and checksum of rows id -> n."""
    pairs = list(rows.items() if isinstance(rows, Mapping) else rows)
    keys = [prefix + key for key, _ in pairs]
    values = [f'{{"id":"{key}","n":{number}}}' for key, number in pairs]
    checksum = sum(
        zlib.crc32(f"{key}\0{value}".encode()) for key, value in zip(keys, values, strict=True)
    )
    return pa.array(keys, pa.string()), pa.array(values, pa.string()), checksum


def write(
    publication: Publication,
    rows: Mapping[str, int] | Iterable[tuple[str, int]],
    partition: int = 0,
    attempt: str = "a",
) -> Report:
    """One attempt at one partition, of one batch."""
    with PartitionWriter(publication, partition, attempt) as writer:
        writer.write(*arguments(publication, rows))
        return writer.finish()


def arguments(
    publication: Publication, rows: Mapping[str, int] | Iterable[tuple[str, int]]
) -> tuple[Any, ...]:
    """Of `PartitionWriter.write`, for rows id -> n."""
    rows_of = {Layout.JSON: batch, Layout.HASH: hashes}[publication.spec.layout]
    return rows_of(rows, publication.spec.key.literals[0])


def hashes(
    rows: Mapping[str, int | None] | Iterable[tuple[str, int | None]], prefix: str = ""
) -> tuple[Any, ...]:
    """As `batch`, with the arguments of each row and the number of its fields."""
    pairs = list(rows.items() if isinstance(rows, Mapping) else rows)
    columns = {"id": [key for key, _ in pairs], "n": pa.array([n for _, n in pairs], pa.int64())}
    return encode_hashes(pa.record_batch(columns), COLUMNS, KeyTemplate.parse(f"{prefix}{{id}}"))


def publish(endpoint: Endpoint, rows: Mapping[str, int], spec: Spec) -> Manifest:
    publication = Publication.begin(endpoint, spec)
    return publication.commit([write(publication, rows)])


def write_packed(
    publication: Publication, rows: Mapping[str, int], share: int = 0, attempt: str = "a"
) -> Report:
    """One attempt at one share of packed rows id -> n."""
    kind = DeltaWriter if publication.spec.mode is Mode.DELTA else BucketWriter
    with kind(publication, share, attempt) as writer:
        if rows:
            writer.write(*packed_batch(rows))
        return writer.finish()


def packed_batch(rows: Mapping[str, int] | Iterable[tuple[str, int]]) -> PackedBatch:
    """Keys, packed values and hashes of rows id -> n."""
    pairs = list(rows.items() if isinstance(rows, Mapping) else rows)
    values = pack(COLUMNS[1:], [pa.array([number for _, number in pairs], pa.int64())], len(pairs))
    hashes = [zlib.crc32(key.encode()) for key, _ in pairs]
    return pa.array([key for key, _ in pairs], pa.string()), values, np.array(hashes, np.int64)


def dealt(rows: Mapping[str, int], shares: int) -> list[dict[str, int]]:
    """The rows of each share."""
    parts: list[dict[str, int]] = [{} for _ in range(shares)]
    for key, number in rows.items():
        parts[zlib.crc32(key.encode()) % shares][key] = number
    return parts


def publish_packed(
    endpoint: Endpoint, rows: Mapping[str, int], spec: Spec, shares: int = 3
) -> Manifest:
    publication = Publication.begin(endpoint, spec, shares)
    parts = dealt(rows, publication.shares)
    return publication.commit([write_packed(publication, *part[::-1]) for part in enumerate(parts)])


def numbers(start: int, count: int, value: int = 0) -> dict[str, int]:
    return {f"k{n}": value for n in range(start, start + count)}


def keyspace(client: redis.Redis, namespace: str) -> set[str]:
    return {key.decode() for key in client.scan_iter(f"{namespace}*", count=10_000)}


def version_keys(
    namespace: str, version: str, rows: Iterable[str], pages: Iterable[str] = ("0.a:0",)
) -> set[str]:
    """Exactly the keys of a published version."""
    root = f"{namespace}:gold:{{sales}}"
    return (
        {f"{namespace}:gold:sales:{version}:{row}" for row in rows}
        | {f"{root}:page:{version}:{page}" for page in pages}
        | {f"{root}:manifest:{version}", f"{root}:attempts:{version}"}
    )


def dataset_keys(namespace: str, *names: str) -> set[str]:
    """Bookkeeping keys; where there are versions, there are events that tell of them."""
    events = ("events",) if "versions" in names else ()
    return {f"{namespace}:gold:{{sales}}:{name}" for name in (*names, *events)}


def leases_are_over(client: redis.Redis, namespace: str) -> bool:
    """Whether no publisher of the dataset has shown a sign of life within its lease."""
    seconds, micros = client.time()
    staging = GoldKeys("sales", namespace).staging
    return not client.zcount(staging, seconds * 1000 + micros // 1000 + 1, "+inf")


@contextmanager
def user(client: redis.Redis, endpoint: Endpoint, name: str, *rules: str) -> Iterator[Endpoint]:
    """The endpoint for a user with the password `right` and these ACL rules."""
    nodes = [primary.client for primary in primaries_of(client)]
    for node in nodes:
        node.execute_command("ACL", "SETUSER", name, "on", ">right", *rules)
    try:
        yield as_user(endpoint, name, "right")
    finally:
        for node in nodes:
            node.acl_deluser(name)
