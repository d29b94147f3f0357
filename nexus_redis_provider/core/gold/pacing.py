"""How fast a task attempt may write, so that a load is felt by nobody else.

A batch may have as many rows as the server takes without being slow, and by how much one was too
slow, so long a time is left to others. Now and then the attempt looks at the server: it waits for a
replica that falls behind, since one whose buffer overflows is dropped and has to begin anew, and
gives up when memory runs out, before the server evicts what others need. Rows a second and writers
at a time are counted by the server, for all attempts together.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import redis

from nexus_redis_provider.core.clusters import Primary, primaries_of
from nexus_redis_provider.core.endpoint import translated_errors
from nexus_redis_provider.core.errors import NoRoomError, PublishError
from nexus_redis_provider.core.gold.manifests import Mode
from nexus_redis_provider.core.gold.memory import (
    Expectation,
    Memory,
    mean_weight,
    refuse_what_does_not_fit,
)
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.readers import live_manifest
from nexus_redis_provider.core.gold.specs import Spec
from nexus_redis_provider.core.scripts import Call, run

log = logging.getLogger(__name__)

_FIRST_ROWS = 1000
_FEWEST_ROWS = 250
_MORE_ROWS = 1000
_SLOW = 0.25
_LONGEST_REST = 5.0
# A server drops a replica for which 256 MB wait, by default, or 64 MB for a minute. Replicas tell
# once a second how far they are, so that one that keeps up seems behind by what a second brings.
_WAITING_FOR_REPLICAS = 32 << 20
_REPLICA_GAP = 64 << 20
_LOOK_SECONDS = 0.5
_LOOK_BYTES = 8 << 20
_LOOK_AGAIN = 0.2
_PATIENCE = 600.0
_TURN_MS = 60_000


class Window:
    """How many rows a batch may have: half as many after a slow one, a few more after others."""

    def __init__(self, most: int) -> None:
        """Begin small, for a server of which nothing is known."""
        self._most = most
        self.rows = min(_FIRST_ROWS, most)

    def note(self, seconds: float) -> float:
        """Note what a batch took; returns for how many seconds to leave the server to others."""
        if seconds <= _SLOW:
            self.rows = min(self.rows + _MORE_ROWS, self._most)
            return 0.0
        self.rows = max(self.rows // 2, min(_FEWEST_ROWS, self._most))
        return min(seconds - _SLOW, _LONGEST_REST)


class Pace:
    """The pace of one attempt: it asks before each batch, and notes how that went."""

    def __init__(
        self,
        publication: Publication,
        attempt: str,
        client: redis.Redis,
        *,
        most: int,
        check: Callable[[], None],
    ) -> None:
        """Set out.

        Args:
            attempt: its unique name.
            client: not the connection on which it writes.
            most: rows of a batch.
            check: renews the lease on the staging area, and raises when it is gone.
        """
        self._publication = publication
        self._spec = publication.spec
        self._limits = publication.spec.limits
        self._attempt = attempt
        self._client = client
        self._check = check
        rate = self._limits.max_rows_per_second
        # Four batches a second at least, so that a low rate is a trickle.
        self._window = Window(most if rate is None else max(1, min(most, rate // 4)))
        self._look_at = 0.0
        self._look_bytes = _LOOK_BYTES
        self._bytes = 0
        self._has_limit = False
        self._expected: Expectation | None = None
        self._row_bytes: float | None = None

    @property
    def rows(self) -> int:
        """How many the next batch may have."""
        return self._window.rows

    @property
    def under_way(self) -> int:
        """How many batches may be under way when the next one is computed."""
        return 0 if self._limits.max_writers is not None or self.wants_sample else 1

    @property
    def wants_sample(self) -> bool:
        """Whether rows should be weighed, since it is known how many will come."""
        return self._expected is not None and self._row_bytes is None

    def admit(self, rows: int) -> None:
        """Return when the next batch may be written.

        Raises:
            NoRoomError: it would not fit into the server's memory.
            PublishError: a replica does not catch up, or the staging area is gone.

        Cost: nothing most of the time; a round trip twice a second, of a Cluster one to each
            primary and one more, and one for each limit.
        """
        rate, writers = self._limits.max_rows_per_second, self._limits.max_writers
        if rate is not None:
            keys = (self._spec.keys.pace(self._publication.version),)
            time.sleep(run(self._client, Call("pace_rows", keys, (rows, rate), int)) / 1000)
        if self._bytes >= self._look_bytes or time.monotonic() >= self._look_at:
            self._look()
        if writers is not None:
            self._wait_for_turn(writers)

    def note(self, seconds: float, size: int) -> None:
        """Note a batch that was written; rests after a slow one.

        Args:
            seconds: in which the server, not the source of the rows, was waited for.
            size: bytes.
        """
        self._bytes += size
        rest = self._window.note(seconds)
        self.close()
        if rest:
            time.sleep(rest)

    def weigh(self, rows: int, *kinds: Sequence[str]) -> None:
        """Weigh rows that were written, and refuse the load if all of its rows do not fit.

        Args:
            rows: how many they are.
            kinds: names of all keys that they take, of each kind by itself: those of a kind are
                about as large as each other.

        Raises:
            NoRoomError: they do not fit.
        """
        weights = [mean_weight(self._client, names) for names in kinds]
        total = sum(
            weight * len(names) for weight, names in zip(weights, kinds, strict=True) if weight
        )
        if total:
            self._row_bytes = total / rows
            self._look()

    def close(self) -> None:
        """Let another attempt write."""
        if self._limits.max_writers is not None:
            with translated_errors(self._client):
                self._client.zrem(self._spec.keys.writers(self._publication.version), self._attempt)

    def _wait_for_turn(self, writers: int) -> None:
        keys = (self._spec.keys.writers(self._publication.version),)
        turn = Call("take_turn", keys, (self._attempt, writers, _TURN_MS), int)
        pause = 0.005
        while not run(self._client, turn):
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, 0.1)

    def _look(self) -> None:
        """Return when nothing speaks against writing on."""
        began = time.monotonic()
        while (reason := self._held_by()) is not None:
            held = time.monotonic() - began
            if held > _PATIENCE:
                raise PublishError(
                    f"Gold dataset {self._spec.dataset!r}: the load waited for {held:.0f} s, since "
                    f"{reason}. See INFO replication and INFO memory, and publish again.",
                    self._spec.dataset,
                )
            log.info("%s: waiting, because %s", self._spec.dataset, reason)
            time.sleep(_LOOK_AGAIN)
            self._check()
        self._look_at, self._bytes = time.monotonic() + _LOOK_SECONDS, 0

    def _held_by(self) -> str | None:
        found = [(primary, self._info(primary)) for primary in primaries_of(self._client)]
        self._look_bytes = _LOOK_BYTES
        for primary, info in found:
            if (behind := _behind(info)) is not None:
                return behind
            memory = Memory.of(info)
            try:
                self._refuse_what_does_not_fit(primary, memory)
            except NoRoomError:
                if not memory.is_freeing:
                    raise
                return "removed keys are still being freed"
        return None

    def _info(self, primary: Primary) -> Any:
        began = time.monotonic()
        with translated_errors(primary.client):
            info = primary.client.info("replication", "memory")
        if (seconds := time.monotonic() - began) > _SLOW:
            # So long has anybody to wait for an answer now.
            time.sleep(self._window.note(seconds))
        return info

    def _refuse_what_does_not_fit(self, primary: Primary, memory: Memory) -> None:
        margin = self._limits.memory_margin
        if margin is None or memory.limit is None:
            return
        if not self._has_limit:
            self._has_limit = True
            # Rows of other modes take the place of some that are there.
            if self._spec.mode is Mode.SNAPSHOT:
                self._expected = expectation(self._client, self._spec)
        staged = self._staged() if self._row_bytes is not None else 0
        # The less is free the more often, since others write, too.
        self._look_bytes = min(self._look_bytes, max(0, memory.room(margin) or 0) // 16)
        refuse_what_does_not_fit(
            *(self._spec.dataset, primary, memory, margin),
            expected=self._expected,
            staged=staged,
            row_bytes=self._row_bytes,
        )

    def _staged(self) -> int:
        with translated_errors(self._client):
            rows: Any = self._client.hget(
                self._spec.keys.attempts(self._publication.version), "rows"
            )
        return int(rows or 0)


def expectation(client: redis.Redis, spec: Spec) -> Expectation | None:
    """How many rows a publish will write: as its publisher says, or as many as are live now.

    None if nobody knows: of a delta, only what changed is written.
    """
    if spec.mode is Mode.DELTA:
        return None
    if spec.limits.expected_rows is not None:
        return Expectation(spec.limits.expected_rows)
    if spec.mode is not Mode.SNAPSHOT:
        return None
    live = run(client, live_manifest(spec.dataset, namespace=spec.namespace))
    return Expectation(live.rows, is_estimate=True) if live and live.rows else None


def _behind(info: Mapping[str, Any]) -> str | None:
    """Why to wait for replicas, or None."""
    waiting = info.get("mem_clients_slaves", 0)
    if waiting > _WAITING_FOR_REPLICAS:
        return f"{waiting:,} bytes wait for replicas"
    for number in range(info.get("connected_slaves", 0)):
        replica = info.get(f"slave{number}", {})
        # One that is being copied to has no offset, and one that has just come tells none.
        gap = info["master_repl_offset"] - replica.get("offset", 0)
        if replica.get("state") == "online" and replica.get("offset") and gap > _REPLICA_GAP:
            return f"replica {replica['ip']}:{replica['port']} is {gap:,} bytes behind"
    return None
