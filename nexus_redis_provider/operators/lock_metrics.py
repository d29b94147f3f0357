"""What locks tell Airflow's metrics, by the name of the lock.

Each goes out as `nexus_redis.lock.<what>` with the tag `lock`, and, for StatsD without tags, as
`nexus_redis.lock.<name>.<what>`.
"""

from __future__ import annotations

from airflow.sdk.observability import stats

_PREFIX = "nexus_redis.lock"


def count(what: str, lock: str, times: int = 1) -> None:
    """Add to a counter: `contention`, `steals` or `expiries`."""
    if times:
        stats.incr(f"{_PREFIX}.{what}", times, tags={"lock": lock})
        stats.incr(_by_name(what, lock), times)


def duration(what: str, lock: str, seconds: float) -> None:
    """Record a duration: `wait_time` or `hold_time`."""
    stats.timing(f"{_PREFIX}.{what}", seconds * 1000, tags={"lock": lock})
    stats.timing(_by_name(what, lock), seconds * 1000)


def _by_name(what: str, lock: str) -> str:
    name = stats.normalize_name_for_stats(lock.replace(".", "_"), log_warning=False)
    return f"{_PREFIX}.{name}.{what}"
