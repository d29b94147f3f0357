"""Keys and servers as JSON documents: times in ISO 8601, durations in seconds.

A key may have any bytes: those that are no UTF-8 are written as escapes, as everywhere on a
terminal; `key_base64` tells it exactly then.
"""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Any

from nexus_redis_provider.core.keyspace.walks import Deletion
from nexus_redis_provider.core.keyspace.weights import BigKey, Weight
from nexus_redis_provider.core.monitoring.infos import ServerInfo
from nexus_redis_provider.core.monitoring.latencies import LatencyEvent, RoundTrips
from nexus_redis_provider.core.monitoring.slow_logs import SlowCommand


def text_of(name: bytes) -> str:
    """Bytes as text."""
    return name.decode(errors="backslashreplace")


def key_document(key: bytes) -> dict[str, Any]:
    """A key."""
    text = text_of(key)
    exact = {} if text.encode() == key else {"key_base64": base64.b64encode(key).decode()}
    return {"key": text, **exact}


def deletion_document(pattern: bytes, deletion: Deletion, *, is_dry: bool) -> dict[str, Any]:
    """What a deletion came to."""
    return {"pattern": text_of(pattern), "dry_run": is_dry, **asdict(deletion)}


def big_key_document(one: BigKey) -> dict[str, Any]:
    """A large key."""
    return key_document(one.key) | {"bytes": one.bytes, "type": one.type, "length": one.length}


def weight_document(pattern: bytes, weight: Weight) -> dict[str, Any]:
    """What some keys take together."""
    return {"pattern": text_of(pattern), **asdict(weight), "mean": weight.mean}


def server_document(info: ServerInfo) -> dict[str, Any]:
    """What a server says of itself."""
    document = asdict(info)
    document["persistence"]["last_saved_at"] = info.persistence.last_saved_at.isoformat()
    document["activity"]["hit_ratio"] = info.activity.hit_ratio
    return document


def slow_document(entry: SlowCommand) -> dict[str, Any]:
    """A command that took long."""
    words = [text_of(word) for word in entry.words]
    return {**asdict(entry), "at": entry.at.isoformat(), "words": words}


def latency_document(trips: list[RoundTrips], events: list[LatencyEvent]) -> dict[str, Any]:
    """How long servers take."""
    return {
        "round_trips": [asdict(one) for one in trips],
        "events": [
            {
                **asdict(event),
                "spikes": [
                    {"at": spike.at.isoformat(), "duration": spike.duration}
                    for spike in event.spikes
                ],
            }
            for event in events
        ],
    }
