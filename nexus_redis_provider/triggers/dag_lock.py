"""Waiting for a lock without holding a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexus_redis_provider.core.locks import inspect, is_free
from nexus_redis_provider.core.scripts import arun
from nexus_redis_provider.triggers.polling import PollingTrigger

if TYPE_CHECKING:
    import redis.asyncio


class DagLockTrigger(PollingTrigger):
    """Fires when the lock is free or its lease is over. The worker takes it, the trigger never."""

    def __init__(
        self,
        *,
        redis_conn_id: str,
        name: str,
        namespace: str,
        poll_interval: float,
        until: float | None = None,
    ) -> None:
        """Remember which lock to wait for.

        Args:
            redis_conn_id: connection of type `nexus_redis` or `redis`.
            name: of the lock.
            namespace: first part of its keys.
            poll_interval: seconds between two looks, spread by a fifth either way.
            until: when to fire in any case, in seconds since 1970.
        """
        super().__init__(redis_conn_id=redis_conn_id, poll_interval=poll_interval, until=until)
        self.name = name
        self.namespace = namespace

    def serialize(self) -> tuple[str, dict[str, Any]]:
        classpath, arguments = super().serialize()
        return classpath, arguments | {"name": self.name, "namespace": self.namespace}

    async def look(self, client: redis.asyncio.Redis) -> bool:
        return is_free(await arun(client, inspect(self.name, namespace=self.namespace)))
