"""What every waiting of this package has in common."""

from __future__ import annotations

import asyncio
import random
import time
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from nexus_redis_provider.core.cancellations import heed_cancellation
from nexus_redis_provider.core.errors import UnreachableError
from nexus_redis_provider.core.sharing import LoopClient
from nexus_redis_provider.hooks.redis import NexusRedisHook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis.asyncio

# Seconds past `until` that Airflow should allow: a trigger fires in time by itself and lets the
# worker say what is amiss; Airflow's own timeout is for a triggerer that is gone.
TRIGGER_GRACE = 60.0


class PollingTrigger(BaseTrigger):
    """Looks now and then, changes nothing, and fires once: when it is time to go on, or at `until`.

    A worker does whatever follows, so it does not matter if a trigger runs twice. While the server
    is away the trigger keeps looking; that is not the answer it waits for. All triggers of a
    triggerer that look at one server share a few connections.
    """

    def __init__(self, *, redis_conn_id: str, poll_interval: float, until: float | None) -> None:
        """Remember what to wait for.

        Args:
            redis_conn_id: connection of type `nexus_redis` or `redis`.
            poll_interval: seconds between two looks, spread by a fifth either way.
            until: when to fire in any case, in seconds since 1970; the event hands it back.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.redis_conn_id = redis_conn_id
        self.poll_interval = poll_interval
        self.until = until

    @abstractmethod
    async def look(self, client: redis.asyncio.Redis) -> bool:
        """Whether it is time to go on."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        classpath = f"{type(self).__module__}.{type(self).__qualname__}"
        return classpath, {
            "redis_conn_id": self.redis_conn_id,
            "poll_interval": self.poll_interval,
            "until": self.until,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        endpoint = await NexusRedisHook(self.redis_conn_id).get_endpoint()
        # Left before the event goes out: nobody need come back to this generator after it.
        async with LoopClient.of(endpoint) as shared:
            while not await self._is_due(shared):  # noqa: ASYNC110 - what it waits for is remote
                await asyncio.sleep(self._pause())
        yield TriggerEvent({"until": self.until})  # type: ignore[no-untyped-call]

    async def _is_due(self, shared: LoopClient) -> bool:
        if self.until is not None and time.time() >= self.until:
            return True
        try:
            due = await shared.use(self.look)
        except UnreachableError as error:
            self.log.warning("%s Waiting on.", error)
            due = False
        heed_cancellation()
        return due

    def _pause(self) -> float:
        pause = self.poll_interval * random.uniform(0.8, 1.2)
        return pause if self.until is None else max(0.0, min(pause, self.until - time.time()))
