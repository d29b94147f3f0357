"""Waiting for replicas without holding a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexus_redis_provider.core.errors import ReplicationLostError
from nexus_redis_provider.core.replication import Mark, aprogress
from nexus_redis_provider.triggers.polling import PollingTrigger

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis.asyncio


class ReplicationTrigger(PollingTrigger):
    """Fires when replicas have confirmed, or cannot any more; a worker says which."""

    def __init__(
        self,
        *,
        redis_conn_id: str,
        marks: Sequence[dict[str, Any]],
        replicas: int,
        poll_interval: float,
        until: float | None = None,
    ) -> None:
        """Remember what is to be confirmed.

        Args:
            redis_conn_id: connection of type `nexus_redis` or `redis`.
            marks: of `core.replication.mark`, as dicts.
            replicas: how many have to confirm.
            poll_interval: seconds between two looks, spread by a fifth either way.
            until: when to fire in any case, in seconds since 1970.
        """
        super().__init__(redis_conn_id=redis_conn_id, poll_interval=poll_interval, until=until)
        self.marks = marks
        self.replicas = replicas

    def serialize(self) -> tuple[str, dict[str, Any]]:
        classpath, arguments = super().serialize()
        return classpath, arguments | {"marks": list(self.marks), "replicas": self.replicas}

    async def look(self, client: redis.asyncio.Redis) -> bool:
        marks = [Mark.from_dict(facts) for facts in self.marks]
        try:
            return (await aprogress(client, marks, self.replicas)).is_done
        except ReplicationLostError:
            return True
