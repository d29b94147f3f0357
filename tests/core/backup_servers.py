"""What the tests of backups have in common: a server with keys of every type, and plans."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.backups.creating import Plan
from nexus_redis_provider.core.backups.digests import digests
from nexus_redis_provider.core.backups.manifests import Kind
from nexus_redis_provider.core.keyspace.walks import scan
from nexus_redis_provider.embedded import EmbeddedServer
from tests.guarded import own_server

HOUR_MS = 3_600_000
# No replica is waited for before a snapshot is sent.
AT_ONCE = ("--repl-diskless-sync-delay", "0")


@contextmanager
def replica_of(primary: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """A server that follows another one."""
    follow = ("--replicaof", f"127.0.0.1 {primary.port}")
    with own_server(*AT_ONCE, *follow, binary=primary._binary) as replica:
        yield replica


def fill(server: EmbeddedServer, count: int = 200) -> int:
    """Keys of every type in two databases, half of the plain ones with a TTL; how many in all."""
    soon = int(time.time() * 1000) + HOUR_MS
    with server.endpoint.client() as client:
        pipe = client.pipeline(transaction=False)
        for number in range(count):
            key = b"key:\xff%d" % number
            pipe.set(key, b"\x00\xff" * (number + 1), pxat=soon if number % 2 else None)
        pipe.hset("hash", mapping={f"f{number}": "x" * number for number in range(700)})
        pipe.hset("small", mapping={"a": 1})
        pipe.rpush("list", *range(500))
        pipe.sadd("set", *(f"m{number}" for number in range(700)))
        pipe.zadd("zset", {f"m{number}": number / 7 for number in range(300)})
        pipe.xadd("stream", {"f": "v"}, id="5-1")
        pipe.pexpireat("hash", soon)
        pipe.execute()
    with replace(server.endpoint, db=3).client() as client:
        client.set("other", "database")
    return count + 7


def expire_field(client: redis.Redis, key: str, field: str, *, ttl_ms: int) -> None:
    """A field of a hash that expires; the test is skipped where the server knows of no such."""
    client.hset(key, field, "x")
    try:
        client.hpexpire(key, ttl_ms, field)
    except redis.exceptions.ResponseError as error:
        client.delete(key)
        pytest.skip(f"fields do not expire here: {error}")


def contents(source: Any) -> dict[tuple[int, bytes], Any]:
    """What every key of both databases holds, by database and key."""
    found = {}
    for number in (0, 3):
        with replace(source, db=number).client() as client:
            keys = sorted(scan(client))
            found |= {
                (number, key): digest
                for key, digest in zip(keys, digests(client, keys), strict=True)
            }
    return found


@contextmanager
def started(directory: Path, *arguments: str, binary: Path) -> Iterator[EmbeddedServer]:
    """A server that starts as an operator would start it, with its data in this directory."""
    with own_server(*arguments, "--dir", str(directory), binary=binary) as server:
        yield server


def plan(own: EmbeddedServer, way: str, **options: Any) -> Plan:
    """A backup of this server that is sent, saved, or a copy of its log."""
    return Plan(
        kind=Kind.AOF if way == "log" else Kind.RDB,
        data_dir=None if way == "sent" else own.directory,
        server_binary=own._binary,
        **options,
    )


def left(root: Path) -> list[str]:
    """What is in the folder of all backups, by name."""
    return sorted(one.name for one in root.iterdir()) if root.exists() else []
