"""What callers of a deployment do, again and again, while it fails.

A caller is made in the thread that it runs in. Its `call` is given a number that rises by one, and
returns what was acknowledged, or read; it raises what a caller of this package would see.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from nexus_redis_provider.core.endpoint import Endpoint, translated_errors
from nexus_redis_provider.core.errors import NexusRedisError, ReplicationLagError
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.gold.tables import publish_table
from nexus_redis_provider.core.locks import Lock
from tests.chaos.resources import Resource
from tests.gold_faults import JSON

DATASET = "sales"
LOCK = "chaos"
# Of all plain writes, so that they are on one shard of a Cluster.
TAG = "{chaos}"
_WAIT_S = 1.0
_LEASE_S = 3.0
_WORK_S = 0.005


class HalfPublishedError(AssertionError):
    """A reader saw what no version has."""


class RefusedByResourceError(NexusRedisError):
    """What the lock protects has seen a newer token: the fence did its work."""


@dataclass
class Caller(ABC):
    """Somebody who depends on the deployment.

    Attributes:
        kind: of caller; `pause` seconds between two calls.
        endpoint: by which it goes to the deployment.
        name: first part of its keys, its lock's owner.
        directory: of what its lock protects.
    """

    kind: ClassVar[str]
    pause: ClassVar[float] = 0.02
    endpoint: Endpoint
    name: str
    directory: Path

    def begin(self, stack: ExitStack) -> None:  # noqa: B027 - not all keep something
        """Open what it keeps; the stack closes it."""

    @abstractmethod
    def call(self, number: int) -> int:
        """Do it once."""


class Writer(Caller):
    """Sets a key, and takes the server's word that it is written."""

    kind = "write"

    def begin(self, stack: ExitStack) -> None:
        self._client = stack.enter_context(self.endpoint.client_for(TAG))

    def call(self, number: int) -> int:
        with translated_errors(self._client):
            self._client.set(key_of(self.kind, self.name, number), number)
        return number


class WaitingWriter(Writer):
    """Counts it as written when a replica has confirmed it."""

    kind = "write and WAIT"

    def call(self, number: int) -> int:
        with translated_errors(self._client), self._client.pipeline(transaction=False) as pipe:
            # WAIT is of its own connection's writes: where one is sent again, so is the other.
            pipe.set(key_of(self.kind, self.name, number), number)
            pipe.wait(1, int(_WAIT_S * 1000))
            _, confirmed = pipe.execute()
        if not confirmed:
            raise ReplicationLagError(1, "a write", _WAIT_S)
        return number


class Locker(Caller):
    """Counts under a lock, in a file that refuses older tokens, and one of another owner."""

    kind = "lock"

    def begin(self, stack: ExitStack) -> None:
        self._resource = Resource(self.directory, LOCK, tells_owners=True)
        stack.callback(self._resource.close)

    def call(self, number: int) -> int:
        with Lock(self.endpoint, LOCK, lease=_LEASE_S, wait=5, poll=0.5) as lock:
            value = self._resource.read(lock.token, lock.owner)
            time.sleep(_WORK_S)
            # Without `ensure_held`: what is to be shown is that the token alone is enough.
            if value is None or not self._resource.write(lock.token, lock.owner, value):
                raise RefusedByResourceError(f"token {lock.token} is not the newest")
            return lock.token


class Publisher(Caller):
    """Publishes one version after the other, whose rows and whose fence have its number."""

    kind = "publish"
    pause = 0.1

    def call(self, number: int) -> int:
        rows = JSON.rows(number)
        table = pa.table({"id": [*rows], "n": pa.array(rows.values(), pa.int64())})
        publish_table(table, DATASET, key="id", endpoint=self.endpoint, fence=number)
        return number


class GoldReader(Caller):
    """Reads all rows, in both ways in turns."""

    kind = "read"

    def begin(self, stack: ExitStack) -> None:
        self._dataset = GoldDataset(stack.enter_context(self.endpoint.client()), DATASET)

    def call(self, number: int) -> int:
        found = self._dataset.scan() if number % 2 else self._dataset.get_many([*JSON.rows(0)])
        rows = {row["id"]: row["n"] for row in found if row is not None}
        version = next(iter(rows.values()), 0)
        if rows != JSON.rows(version):
            raise HalfPublishedError(f"{len(rows)} rows of versions {sorted({*rows.values()})}")
        return version


def key_of(kind: str, name: str, number: int) -> str:
    """The key of a plain write."""
    return f"{TAG}:{name}:{kind}:{number}"
