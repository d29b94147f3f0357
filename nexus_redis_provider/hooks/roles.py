"""Which connection is for what: *state*, which must not be lost, and *cache*, which may be evicted.

One server may play both roles. Whoever has two says which one is for locks, once and for all.
"""

from __future__ import annotations

from airflow.sdk import conf

from nexus_redis_provider.hooks.redis import NexusRedisHook


def state_conn_id(given: str | None = None) -> str:
    """The connection for locks: that which was given, or `[nexus_redis] state_conn_id`."""
    default = NexusRedisHook.default_conn_name
    return given or conf.get("nexus_redis", "state_conn_id", fallback="") or default
