"""What a server says of its files, and waiting until that is as wanted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import redis

from nexus_redis_provider.core.endpoint import translated_errors
from nexus_redis_provider.core.errors import BackupError

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0


def state_of(client: redis.Redis) -> Any:
    """INFO server and persistence of one server. Raises: as `scripts.run`."""
    with translated_errors(client):
        return client.info("server", "persistence")


def await_state(
    client: redis.Redis, is_reached: Callable[[Any], bool], too_late: BackupError, timeout: float
) -> Any:
    """The state of one server as soon as it is as wanted.

    Args:
        client: of it.
        is_reached: whether it is, or an error that says that it never will be.
        too_late: what is raised when it is not after `timeout` seconds; the server goes on.
        timeout: see there.
    """
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE_S
    while not is_reached(state := state_of(client)):
        if time.monotonic() > deadline:
            raise too_late
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
    return state
