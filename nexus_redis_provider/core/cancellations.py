"""Cancellations of asyncio tasks: what redis-py swallows, and what it leaves open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio


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


@asynccontextmanager
async def closed_in_any_case(client: redis.asyncio.Redis) -> AsyncIterator[redis.asyncio.Redis]:
    """The client, closed after the block.

    As a context manager of its own it stays open where the task is cancelled while it closes.
    """
    try:
        yield client
    finally:
        await asyncio.shield(client.aclose())
