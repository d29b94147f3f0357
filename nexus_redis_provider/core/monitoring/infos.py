"""What INFO says, as far as operators act on it: typed, and the same for Redis and Valkey."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

import redis

from nexus_redis_provider.core.clusters import primaries_of
from nexus_redis_provider.core.endpoint import translated_errors


class Identity(NamedTuple):
    """What a server is: such as `redis`, 7.2.5, `standalone`."""

    name: str
    version: str
    mode: str

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Self:
        """From the server's INFO server: where Valkey's own words differ from those of Redis."""
        name = info.get("server_name", "redis")
        version = info.get(f"{name}_version", info["redis_version"])
        return cls(name, version, info.get("server_mode") or info["redis_mode"])


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryInfo:
    """Memory, in bytes.

    Attributes:
        used: by data and buffers; what `limit` is compared with, but for replicas' buffers.
        peak: the most that was ever used.
        resident: what the operating system counts.
        limit: `maxmemory`, or None where there is none.
        policy: what is evicted at the limit.
        fragmentation: resident by used.
    """

    used: int
    peak: int
    resident: int
    limit: int | None
    policy: str
    fragmentation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityInfo:
    """Clients, and what was done since the server started.

    Attributes:
        clients, blocked_clients, max_clients: connections, now.
        rejected_connections: for want of room.
        commands: that were done; commands_per_second: in the last second.
        hits, misses: of reads of keys.
        evicted, expired: keys.
    """

    clients: int
    blocked_clients: int
    max_clients: int
    rejected_connections: int
    commands: int
    commands_per_second: int
    hits: int
    misses: int
    evicted: int
    expired: int

    @property
    def hit_ratio(self) -> float | None:
        """Share of reads that found their key, 0 to 1; None before the first one."""
        reads = self.hits + self.misses
        return self.hits / reads if reads else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistenceInfo:
    """What is on disk.

    Attributes:
        is_loading: whether it still reads its data, and answers nothing else.
        is_saving: whether an RDB file is being written.
        last_saved_at: when one was last written, or the server started.
        is_last_save_ok: whether the last attempt succeeded.
        unsaved_changes: since the last one.
        has_aof: whether changes are written to an append-only file.
        is_rewriting: whether that is being rewritten.
        is_last_rewrite_ok, is_last_write_ok: whether the last attempts succeeded.
    """

    is_loading: bool
    is_saving: bool
    last_saved_at: datetime
    is_last_save_ok: bool
    unsaved_changes: int
    has_aof: bool
    is_rewriting: bool
    is_last_rewrite_ok: bool
    is_last_write_ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A replica as its primary sees it.

    Attributes:
        address: `host:port`.
        state: `online` when it follows.
        offset: up to which it has confirmed, in bytes.
        lag: seconds since it was last heard from.
    """

    address: str
    state: str
    offset: int
    lag: int

    @property
    def is_online(self) -> bool:
        """Whether it follows its primary."""
        return self.state == "online"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationInfo:
    """Whom the server follows, or who follows it.

    Attributes:
        is_primary: whether it takes writes of its own.
        replid: of the history of its data; another one after a failover or a restart.
        offset: bytes of that history so far; it stands still until the first replica comes.
        replid_before: of the history that a failover ended, which this one goes on from.
        shared_until: bytes of it that both have.
        has_backlog: whether it keeps its history for replicas; without, the first replica that
            comes begins another one.
        replicas: that follow it.
        primary: `host:port` that it follows, or None.
        is_linked: of a replica, whether it hears its primary.
    """

    is_primary: bool
    replid: str
    offset: int
    replid_before: str
    shared_until: int
    has_backlog: bool
    replicas: tuple[Replica, ...]
    primary: str | None
    is_linked: bool | None

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Self:
        """From the server's INFO replication."""
        is_primary = info["role"] == "master"
        return cls(
            is_primary=is_primary,
            replid=str(info["master_replid"]),
            offset=info["master_repl_offset"],
            replid_before=str(info["master_replid2"]),
            shared_until=max(0, info["second_repl_offset"] - 1),
            has_backlog=bool(info["repl_backlog_active"]),
            replicas=tuple(
                Replica(
                    address=f"{one['ip']}:{one['port']}",
                    state=one["state"],
                    offset=one["offset"],
                    lag=one["lag"],
                )
                for number in range(info["connected_slaves"])
                # One that has just gone is counted for a moment.
                if (one := info.get(f"slave{number}"))
            ),
            primary=None if is_primary else f"{info['master_host']}:{info['master_port']}",
            is_linked=None if is_primary else info["master_link_status"] == "up",
        )

    def has(self, replid: str, offset: int) -> bool:
        """Whether its data is that of a history up to an offset, or goes on from there."""
        is_its_own = replid == self.replid and offset <= self.offset
        return is_its_own or (replid == self.replid_before and offset <= self.shared_until)

    def confirmed(self, offset: int) -> int:
        """How many replicas have confirmed everything up to an offset."""
        return sum(one.is_online and one.offset >= offset for one in self.replicas)


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """One of a server's databases: keys in it, and how many of them expire."""

    keys: int
    expires: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """A server as it is now.

    Attributes:
        address: for people.
        name, version: such as `redis` 7.2.5 or `valkey` 9.1.2.
        mode: `standalone`, `sentinel` or `cluster`.
        run_id: of the process; another one after a restart.
        uptime: seconds.
        databases: by number; those without keys are left out.
    """

    address: str
    name: str
    version: str
    mode: str
    run_id: str
    uptime: int
    memory: MemoryInfo
    activity: ActivityInfo
    persistence: PersistenceInfo
    replication: ReplicationInfo
    databases: Mapping[int, Database]

    @classmethod
    def of(cls, address: str, info: Mapping[str, Any]) -> Self:
        """From all of the server's INFO."""
        identity = Identity.of(info)
        return cls(
            address=address,
            name=identity.name,
            version=identity.version,
            mode=identity.mode,
            run_id=info["run_id"],
            uptime=info["uptime_in_seconds"],
            memory=_memory(info),
            activity=_activity(info),
            persistence=_persistence(info),
            replication=ReplicationInfo.of(info),
            databases=databases_of(info),
        )


def server_infos(client: redis.Redis) -> tuple[ServerInfo, ...]:
    """Every server that takes writes, as it is now: one, but for a Cluster.

    Raises:
        UnreachableError, AccessDeniedError: one of them cannot be asked.
    """
    return tuple(server_info(one.client, one.address) for one in primaries_of(client))


def server_info(client: redis.Redis, address: str) -> ServerInfo:
    """What one server says of itself. Raises: as `server_infos`."""
    with translated_errors(client):
        info: Any = client.info()
    return ServerInfo.of(address, info)


def databases_of(info: Mapping[str, Any]) -> dict[int, Database]:
    """The databases of the server's INFO keyspace, by number."""
    found = {name.removeprefix("db"): one for name, one in info.items() if name.startswith("db")}
    return {
        int(number): Database(keys=one["keys"], expires=one["expires"])
        for number, one in found.items()
        if number.isdecimal()
    }


def _memory(info: Mapping[str, Any]) -> MemoryInfo:
    return MemoryInfo(
        used=info["used_memory"],
        peak=info["used_memory_peak"],
        resident=info["used_memory_rss"],
        limit=info["maxmemory"] or None,
        policy=info["maxmemory_policy"],
        fragmentation=float(info["mem_fragmentation_ratio"]),
    )


def _activity(info: Mapping[str, Any]) -> ActivityInfo:
    return ActivityInfo(
        clients=info["connected_clients"],
        blocked_clients=info["blocked_clients"],
        max_clients=info["maxclients"],
        rejected_connections=info["rejected_connections"],
        commands=info["total_commands_processed"],
        commands_per_second=info["instantaneous_ops_per_sec"],
        hits=info["keyspace_hits"],
        misses=info["keyspace_misses"],
        evicted=info["evicted_keys"],
        expired=info["expired_keys"],
    )


def _persistence(info: Mapping[str, Any]) -> PersistenceInfo:
    return PersistenceInfo(
        is_loading=bool(info["loading"]),
        is_saving=bool(info["rdb_bgsave_in_progress"]),
        last_saved_at=datetime.fromtimestamp(info["rdb_last_save_time"], UTC),
        is_last_save_ok=info["rdb_last_bgsave_status"] == "ok",
        unsaved_changes=info["rdb_changes_since_last_save"],
        has_aof=bool(info["aof_enabled"]),
        is_rewriting=bool(info["aof_rewrite_in_progress"]),
        is_last_rewrite_ok=info["aof_last_bgrewrite_status"] == "ok",
        is_last_write_ok=info["aof_last_write_status"] == "ok",
    )
