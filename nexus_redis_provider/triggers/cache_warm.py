"""Waiting for a warm cache without holding a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexus_redis_provider.core.locks.protocol import is_free, who_holds
from nexus_redis_provider.core.requirements import Requirement
from nexus_redis_provider.core.scripts import arun
from nexus_redis_provider.core.warmth import aprobe
from nexus_redis_provider.triggers.polling import PollingTrigger

if TYPE_CHECKING:
    import redis.asyncio


class CacheWarmTrigger(PollingTrigger):
    """Fires when the cache is warm, or when nobody fills it any more whom it was to wait for."""

    def __init__(
        self,
        *,
        redis_conn_id: str,
        requirement: dict[str, Any],
        poll_interval: float,
        until: float | None = None,
        filler: str | None = None,
    ) -> None:
        """Remember what must be there.

        Args:
            redis_conn_id: connection of type `nexus_redis` or `redis`.
            requirement: arguments of `Requirement`.
            poll_interval: seconds between two looks, spread by a fifth either way.
            until: when to fire in any case, in seconds since 1970.
            filler: lock of the one who is filling; fire also when it is free.
        """
        super().__init__(redis_conn_id=redis_conn_id, poll_interval=poll_interval, until=until)
        self.requirement = requirement
        self.filler = filler

    def serialize(self) -> tuple[str, dict[str, Any]]:
        classpath, arguments = super().serialize()
        return classpath, arguments | {"requirement": self.requirement, "filler": self.filler}

    async def look(self, client: redis.asyncio.Redis) -> bool:
        requirement = Requirement.from_dict(self.requirement)
        if (await aprobe(client, requirement)).is_warm:
            return True
        if self.filler is None:
            return False
        return is_free(await arun(client, who_holds(self.filler, namespace=requirement.namespace)))
