"""Keys and servers as people read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from nexus_redis_provider.cli.rendering import fact_grid, heading, moment, new_table, printable
from nexus_redis_provider.cli.server_documents import text_of
from nexus_redis_provider.core.durations import in_words
from nexus_redis_provider.core.keyspace.weights import BigKey
from nexus_redis_provider.core.monitoring.infos import ReplicationInfo, ServerInfo
from nexus_redis_provider.core.monitoring.latencies import LatencyEvent, RoundTrips
from nexus_redis_provider.core.monitoring.slow_logs import SlowCommand


def big_keys_table(keys: Sequence[BigKey]) -> Table:
    """One row for each key, largest first."""
    table = new_table("KEY", "BYTES", "TYPE", "LENGTH")
    for one in keys:
        length = "-" if one.length is None else f"{one.length:,}"
        table.add_row(_text(one.key), f"{one.bytes:,}", one.type, length)
    return table


def server_view(info: ServerInfo) -> Iterator[RenderableType]:
    """What a server says of itself."""
    memory, activity, disk = info.memory, info.activity, info.persistence
    limit = f"of {memory.limit:,}" if memory.limit else "without a limit"
    ratio = "none yet" if activity.hit_ratio is None else f"{activity.hit_ratio:.1%}"
    keys = [
        (f"keys in db {number}", f"{one.keys:,}, of which {one.expires:,} expire")
        for number, one in info.databases.items()
    ]
    yield heading(f"{info.name} {info.version} at {info.address}, {info.mode}")
    yield fact_grid(
        [
            ("up", in_words(info.uptime)),
            ("memory", f"{memory.used:,} bytes {limit}, {memory.policy}; peak {memory.peak:,}"),
            ("fragmentation", f"{memory.fragmentation} ({memory.resident:,} bytes resident)"),
            *keys,
            ("clients", f"{activity.clients:,} of {activity.max_clients:,}"),
            (
                "blocked, rejected",
                f"{activity.blocked_clients:,}, {activity.rejected_connections:,}",
            ),
            ("commands", f"{activity.commands:,}; {activity.commands_per_second:,}/s"),
            ("hit ratio", ratio),
            ("evicted, expired", f"{activity.evicted:,}, {activity.expired:,}"),
            ("RDB", _rdb(info)),
            ("AOF", _aof(info) if disk.has_aof else "none"),
            *_replication(info.replication),
        ]
    )


def slow_table(entries: Sequence[SlowCommand]) -> Table:
    """One row for each command, newest first."""
    table = new_table("WHEN (UTC)", "MS", "SERVER", "CLIENT", "COMMAND")
    for one in entries:
        words = Text(" ".join(printable(text_of(word)) for word in one.words))
        client = Text(printable(one.client_name or one.client))
        table.add_row(moment(one.at), f"{one.duration * 1000:,.1f}", one.server, client, words)
    return table


def latency_view(
    trips: Sequence[RoundTrips], events: Sequence[LatencyEvent]
) -> Iterator[RenderableType]:
    """How long servers take."""
    table = new_table("PING, MS", "LEAST", "MEDIAN", "P90", "P99", "MOST")
    for one in trips:
        numbers = (one.least, one.median, one.p90, one.p99, one.most)
        table.add_row(one.server, *(f"{number * 1000:.3f}" for number in numbers))
    yield table
    if not events:
        yield "Nothing is noted that held a server up (see latency-monitor-threshold)."
        return
    yield heading("Held up by")
    table = new_table("EVENT", "SERVER", "LONGEST, MS", "LAST, MS", "WHEN (UTC)", "TIMES")
    for event in events:
        last = event.spikes[-1]
        longest = f"{event.longest * 1000:,.0f}"
        times = (f"{last.duration * 1000:,.0f}", moment(last.at), str(len(event.spikes)))
        table.add_row(event.event, event.server, longest, *times)
    yield table


def _rdb(info: ServerInfo) -> str:
    disk = info.persistence
    now = "is being written; " if disk.is_saving else ""
    last = "" if disk.is_last_save_ok else "; the last attempt FAILED"
    since = f"{disk.unsaved_changes:,} changes since {moment(disk.last_saved_at)} UTC"
    return f"{now}{since}{last}"


def _aof(info: ServerInfo) -> str:
    disk = info.persistence
    parts = ["is being rewritten" if disk.is_rewriting else "on"]
    parts += [] if disk.is_last_write_ok else ["the last write FAILED"]
    parts += [] if disk.is_last_rewrite_ok else ["the last rewrite FAILED"]
    return "; ".join(parts)


def _replication(info: ReplicationInfo) -> Iterator[tuple[str, str]]:
    if not info.is_primary:
        yield "replica of", f"{info.primary}, link {'up' if info.is_linked else 'DOWN'}"
    yield "offset", f"{info.offset:,} of {info.replid}"
    for one in info.replicas:
        behind = f"{max(0, info.offset - one.offset):,} bytes behind"
        yield f"replica {one.address}", f"{one.state}, {behind}, heard of {one.lag} s ago"


def _text(name: bytes) -> Text:
    return Text(printable(text_of(name)))
