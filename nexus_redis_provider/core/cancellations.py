"""Cancellations of asyncio tasks that redis-py may swallow."""

from __future__ import annotations

import asyncio


def cancellations() -> int:
    """How often the running task was asked to end, for `heed_cancellation`."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def heed_cancellation(before: int = 0) -> None:
    """Raise the cancellation that an `await` of redis-py may have swallowed.

    Before Python 3.12 `asyncio.wait_for`, by which redis-py sends, swallows a cancellation that
    comes just when the sending is done. Most callers cancel but once.

    Args:
        before: how many there had been at the beginning; a task may clean up after one.
    """
    if cancellations() > before:
        raise asyncio.CancelledError
