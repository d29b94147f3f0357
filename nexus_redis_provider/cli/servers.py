"""The commands on what servers say of themselves."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

import redis

from nexus_redis_provider.cli.running import Answer
from nexus_redis_provider.cli.server_documents import (
    latency_document,
    server_document,
    slow_document,
)
from nexus_redis_provider.core.endpoint import address_of
from nexus_redis_provider.core.monitoring.infos import server_infos
from nexus_redis_provider.core.monitoring.latencies import latency_events, ping
from nexus_redis_provider.core.monitoring.slow_logs import slow_log

if TYPE_CHECKING:
    from nexus_redis_provider.cli.running import Parts


def show_servers(client: redis.Redis, _: Namespace) -> Answer:
    """Every primary as it is now."""
    infos = server_infos(client)

    def view() -> Parts:
        from nexus_redis_provider.cli.server_tables import server_view

        return (part for info in infos for part in server_view(info))

    return Answer([server_document(info) for info in infos], view)


def list_slow_commands(client: redis.Redis, args: Namespace) -> Answer:
    """What the servers have logged."""
    entries = slow_log(client, args.count)

    def view() -> Parts:
        from nexus_redis_provider.cli.server_tables import slow_table

        return [slow_table(entries)] if entries else [f"No slow commands at {address_of(client)}."]

    return Answer([slow_document(entry) for entry in entries], view)


def show_latencies(client: redis.Redis, args: Namespace) -> Answer:
    """Round trips from here, and what held the servers up."""
    trips = ping(client, args.count)
    events = latency_events(client)

    def view() -> Parts:
        from nexus_redis_provider.cli.server_tables import latency_view

        return latency_view(trips, events)

    return Answer(latency_document(trips, events), view)
