"""Whether replicas have what was written, told from the offsets that they confirm.

WAIT would tell it of the writes of its own connection alone; these marks are of all that a primary
has written, by whomever, and can be looked at from another process.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import redis

from nexus_redis_provider.core.bounds import is_whole
from nexus_redis_provider.core.clusters import aslots_by_node, is_spread, primaries_of
from nexus_redis_provider.core.durations import Duration, to_ms
from nexus_redis_provider.core.endpoint import address_of, translated_errors
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    ReplicationLagError,
    ReplicationLostError,
    UnreachableError,
)
from nexus_redis_provider.core.monitoring.infos import ReplicationInfo

if TYPE_CHECKING:
    import redis.asyncio

_NAMED = 5
_SECTIONS = ("server", "replication")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a primary has written up to a moment.

    Attributes:
        address: of the primary, for people.
        replid, offset: the place in the history of its data.
        run_id: of its process, where that kept no history yet; None where the history is enough.
    """

    address: str
    replid: str
    offset: int
    run_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Its facts, of JSON types alone."""
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Self:
        """The mark that `to_dict` has told."""
        return cls(**facts)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far replicas are with some marks.

    Attributes:
        confirmed: replicas that have all of it; in a Cluster the least of any primary.
        lags: what each primary waits for, in words; none when all is confirmed.
    """

    confirmed: int
    lags: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        """Whether as many replicas as were wanted have confirmed."""
        return not self.lags


@dataclass(frozen=True, slots=True)
class _Primary:
    """A server that a client goes to for writes, as it is now."""

    run_id: str
    info: ReplicationInfo

    @classmethod
    def of(cls, info: Any) -> Self:
        return cls(info["run_id"], ReplicationInfo.of(info))

    def has(self, one: Mark) -> bool:
        return self.info.is_primary and (
            one.run_id == self.run_id or self.info.has(one.replid, one.offset)
        )


def mark(client: redis.Redis) -> tuple[Mark, ...]:
    """What was written until now; of a Cluster, a mark for each primary.

    Raises:
        UnreachableError, AccessDeniedError: one of them cannot be asked.
        ConfigurationError: the server is a replica itself.
    """
    marks = []
    for address, primary in _primaries(client).items():
        info = primary.info
        if not info.is_primary:
            raise ConfigurationError(
                f"Redis at {address} is a replica of {info.primary}: ask that one."
            )
        run_id = None if info.has_backlog else primary.run_id
        marks.append(Mark(address=address, replid=info.replid, offset=info.offset, run_id=run_id))
    return tuple(marks)


def progress(client: redis.Redis, marks: Iterable[Mark], replicas: int) -> Progress:
    """How far replicas are by now; they confirm once a second.

    Raises:
        ReplicationLostError: a primary has lost what a mark was of.
        UnreachableError, AccessDeniedError: as `mark`.
    """
    return _judged(marks, _primaries(client), replicas)


async def aprogress(client: redis.asyncio.Redis, marks: Iterable[Mark], replicas: int) -> Progress:
    """The asyncio twin of `progress`."""
    with translated_errors(client):
        if is_spread(client):
            cluster: Any = client
            nodes = list(await aslots_by_node(cluster))
            found = await cluster.info(*_SECTIONS, target_nodes=nodes)
            if len(nodes) == 1:  # Then redis-py does not say whose it is.
                found = {nodes[0].name: found}
        else:
            found = {address_of(client): await client.info(*_SECTIONS)}
    return _judged(marks, _told(client, found), replicas)


def await_replicas(
    client: redis.Redis,
    replicas: int = 1,
    *,
    timeout: Duration = 60.0,
    poll_interval: Duration = 1.0,
) -> Progress:
    """Returns when so many replicas have confirmed all that was written before the call.

    It follows a failover: while a primary is away, it goes on looking.

    Args:
        client: of one primary, or of a whole Cluster: then of each primary's replicas.
        replicas: how many, at least 1.
        timeout: seconds to wait.
        poll_interval: seconds between two looks.

    Raises:
        ReplicationLagError: they have not in time; says who is behind.
        ReplicationLostError: a primary has lost it meanwhile.
        ConfigurationError: the server is a replica itself, or a number is not positive.
        UnreachableError: a primary cannot be asked, in the beginning or at the end.
        AccessDeniedError: as always.
    """
    refuse_none(replicas)
    pause = to_ms(poll_interval, "poll_interval") / 1000
    seconds = to_ms(timeout, "timeout") / 1000
    deadline = time.monotonic() + seconds
    marks = mark(client)
    while True:
        left = deadline - time.monotonic()
        try:
            found = progress(client, marks, replicas)
        except UnreachableError:
            if left <= 0:
                raise
        else:
            if found.is_done:
                return found
            if left <= 0:
                raise ReplicationLagError(replicas, "; ".join(found.lags), seconds)
        time.sleep(min(pause, left))


def refuse_none(replicas: int) -> None:
    """Refuse a number of replicas that nobody need wait for.

    Raises:
        ConfigurationError: it is below 1, or no whole number.
    """
    if not is_whole(replicas, 1):
        raise ConfigurationError(
            f"replicas must be a whole number of at least 1, not {replicas!r}."
        )


def _primaries(client: redis.Redis) -> dict[str, _Primary]:
    infos = {}
    for primary in primaries_of(client):
        with translated_errors(primary.client):
            infos[primary.address] = primary.client.info(*_SECTIONS)
    return _told(client, infos)


def _told(client: Any, infos: Mapping[str, Any]) -> dict[str, _Primary]:
    found = {address: _Primary.of(info) for address, info in infos.items()}
    for address, one in found.items():
        # Of who has taken over, the node that was asked has not heard yet.
        if is_spread(client) and not one.info.is_primary:
            what = f"it has just become a replica of {one.info.primary}"
            raise UnreachableError(address, what, "Try again.")
    return found


def _judged(marks: Iterable[Mark], primaries: Mapping[str, _Primary], replicas: int) -> Progress:
    counts, lags = list[int](), list[str]()
    for one in marks:
        # After a failover, another server has it.
        holders = [(address, found) for address, found in primaries.items() if found.has(one)]
        if not holders:
            raise ReplicationLostError(one.address, one.offset)
        address, holder = holders[0]
        counts.append(holder.info.confirmed(one.offset))
        if counts[-1] < replicas:
            behind = _behind(holder.info, one.offset)
            lags.append(f"{address} has {counts[-1]} of {replicas}, {behind}")
    return Progress(min(counts, default=0), tuple(lags))


def _behind(info: ReplicationInfo, offset: int) -> str:
    slow = [
        f"{one.address} ({one.state}) is {max(0, offset - one.offset):,} bytes behind, heard from "
        f"{one.lag} s ago"
        for one in info.replicas
        if not one.is_online or one.offset < offset
    ]
    if not slow:
        return "and no other replica is connected"
    more = f" and {len(slow) - _NAMED} more" if len(slow) > _NAMED else ""
    return "; ".join(slow[:_NAMED]) + more
