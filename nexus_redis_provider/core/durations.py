"""Durations: seconds or timedelta in public, whole milliseconds on the wire."""

from __future__ import annotations

import time
from datetime import timedelta

from nexus_redis_provider.core.errors import ConfigurationError

Duration = timedelta | float

_UPTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def uptime() -> float:
    """Seconds on a clock that never jumps and, on Linux, counts while the machine sleeps."""
    return time.clock_gettime(_UPTIME)


def to_ms(duration: Duration, name: str) -> int:
    """Whole milliseconds, at least one.

    Args:
        duration: seconds or a timedelta.
        name: the option it came from, for the error.

    Raises:
        ConfigurationError: it is not a positive duration.
    """
    if isinstance(duration, bool) or not isinstance(duration, int | float | timedelta):
        raise ConfigurationError(f"{name} must be seconds or a timedelta, not {duration!r}.")
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    # A NaN compares false with everything, hence the negation.
    if not 0 < seconds < 10**10:
        raise ConfigurationError(f"{name} must be a positive number of seconds, not {duration!r}.")
    return max(1, round(seconds * 1000))


def in_words(seconds: float) -> str:
    """A duration for messages, in its two largest units: `40 s`, `1 h 2 min`, `3 d`."""
    if seconds < 10:
        return f"{seconds:.1f} s".replace(".0 ", " ")
    left, parts = round(seconds), list[str]()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
    return " ".join(part for part in parts[:2] if part)
