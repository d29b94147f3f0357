"""How long servers take: as they have noted themselves, and as it is seen from here."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import redis

from nexus_redis_provider.core.clusters import Primary, primaries_of
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.exchanges import execute_all


@dataclass(frozen=True, slots=True, kw_only=True)
class Spike:
    """Something that held a server up for longer than `latency-monitor-threshold`.

    Attributes:
        at: when; server clock, to the second.
        duration: seconds.
    """

    at: datetime
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyEvent:
    """What a server was held up by, such as `command`, `fork` or `expire-cycle`.

    Attributes:
        server: that noted it.
        event: its name.
        longest: seconds, since the server started or LATENCY RESET.
        spikes: up to the last 160, oldest first.
    """

    server: str
    event: str
    longest: float
    spikes: tuple[Spike, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTrips:
    """How long a server took to answer PING, seen from here: network and client included.

    Attributes:
        server: that was asked.
        count: how often.
        least, median, p90, p99, most: seconds.
    """

    server: str
    count: int
    least: float
    median: float
    p90: float
    p99: float
    most: float

    @classmethod
    def of(cls, server: str, seconds: Sequence[float]) -> Self:
        """The summary of some measurements, at least one."""
        ordered = sorted(seconds)

        def share(part: float) -> float:
            # The least one that so many are not above.
            return ordered[max(0, math.ceil(part * len(ordered)) - 1)]

        return cls(
            server=server,
            count=len(ordered),
            least=ordered[0],
            median=share(0.5),
            p90=share(0.9),
            p99=share(0.99),
            most=ordered[-1],
        )


def latency_events(client: redis.Redis) -> list[LatencyEvent]:
    """What has held the servers up, the longest first; nothing where their threshold is 0.

    Args:
        client: of one server, or of a whole Cluster: then of all its primaries.

    Raises:
        UnreachableError, AccessDeniedError: a server cannot be asked.

    Cost: for each server two round trips.
    """
    found = list[LatencyEvent]()
    for primary in primaries_of(client):
        latest = execute_all(primary.client, [("LATENCY", "LATEST")])[0]
        histories = execute_all(primary.client, [("LATENCY", "HISTORY", one[0]) for one in latest])
        for (name, _, _, longest_ms, *_), history in zip(latest, histories, strict=True):
            spikes = tuple(Spike(at=_moment(at), duration=ms / 1000) for at, ms in history)
            # Nothing is left of one that was reset in between.
            if spikes:
                found.append(
                    LatencyEvent(
                        server=primary.address,
                        event=name.decode(),
                        longest=longest_ms / 1000,
                        spikes=spikes,
                    )
                )
    return sorted(found, key=lambda event: event.longest, reverse=True)


def _moment(at: int) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def ping(client: redis.Redis, count: int = 100) -> list[RoundTrips]:
    """Measure the round trip to each server, one PING after the other.

    Args:
        client: of one server, or of a whole Cluster: then of all its primaries.
        count: how often.

    Raises:
        UnreachableError, AccessDeniedError: a server cannot be asked.
        ConfigurationError: `count` is not positive.

    Clock: monotonic, of the client.
    """
    if count < 1:
        raise ConfigurationError(f"count must be at least 1, not {count}.")
    return [
        RoundTrips.of(primary.address, [_round_trip(primary.client) for _ in range(count)])
        for primary in _connected(client)
    ]


def _connected(client: redis.Redis) -> list[Primary]:
    # Making a connection is not what is measured.
    primaries = primaries_of(client)
    for primary in primaries:
        _round_trip(primary.client)
    return primaries


def _round_trip(client: redis.Redis) -> float:
    began_at = time.perf_counter()
    execute_all(client, [("PING",)])
    return time.perf_counter() - began_at
