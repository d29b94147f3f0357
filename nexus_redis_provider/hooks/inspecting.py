"""What the official hook leaves to redis-py: keys, tags, and what a server says of itself."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from nexus_redis_provider.core import tags as core_tags
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE
from nexus_redis_provider.core.keyspace import walks, weights
from nexus_redis_provider.core.monitoring import infos, latencies, slow_logs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import redis


class Inspecting:
    """Methods of a hook; of a Cluster, each is about all primaries."""

    @abstractmethod
    def get_conn(self) -> redis.Redis:
        """The client to ask."""

    def scan(self, pattern: str | bytes = "*", *, kind: str | None = None) -> Iterator[bytes]:
        """Every key like a glob, never by KEYS; see `core.keyspace.walks.scan`."""
        return walks.scan(self.get_conn(), pattern, kind=kind)

    def delete(
        self, pattern: str | bytes, *, kind: str | None = None, dry_run: bool = False
    ) -> walks.Deletion:
        """Unlink every key like a glob, in batches; see `core.keyspace.walks.delete`."""
        return walks.delete(self.get_conn(), pattern, kind=kind, dry_run=dry_run)

    def invalidate_tags(
        self, tags: Sequence[str], *, namespace: str = DEFAULT_NAMESPACE
    ) -> dict[str, int]:
        """Make all entries stale that carry one of the tags; see `core.tags.invalidate`."""
        return core_tags.invalidate(self.get_conn(), tags, namespace=namespace)

    def memory_of(
        self, keys: Iterable[str | bytes], *, samples: int = weights.SAMPLES
    ) -> dict[str | bytes, int]:
        """Bytes that each of these keys takes; see `core.keyspace.weights.memory_of`."""
        return weights.memory_of(self.get_conn(), keys, samples=samples)

    def weigh(
        self, pattern: str | bytes = "*", *, samples: int = weights.SAMPLES
    ) -> weights.Weight:
        """Bytes that all keys like a glob take; see `core.keyspace.weights.weigh`."""
        return weights.weigh(self.get_conn(), pattern, samples=samples)

    def big_keys(
        self, pattern: str | bytes = "*", *, top: int = 20, samples: int = weights.SAMPLES
    ) -> list[weights.BigKey]:
        """The largest keys like a glob; see `core.keyspace.weights.big_keys`."""
        return weights.big_keys(self.get_conn(), pattern, top=top, samples=samples)

    def server_infos(self) -> tuple[infos.ServerInfo, ...]:
        """What each primary says of itself; see `core.monitoring.infos`."""
        return infos.server_infos(self.get_conn())

    def slow_log(self, count: int = 128) -> list[slow_logs.SlowCommand]:
        """Commands that took long; see `core.monitoring.slow_logs`."""
        return slow_logs.slow_log(self.get_conn(), count)

    def latency_events(self) -> list[latencies.LatencyEvent]:
        """What has held the servers up; see `core.monitoring.latencies`."""
        return latencies.latency_events(self.get_conn())

    def ping(self, count: int = 100) -> list[latencies.RoundTrips]:
        """How long a round trip takes; see `core.monitoring.latencies.ping`."""
        return latencies.ping(self.get_conn(), count)
