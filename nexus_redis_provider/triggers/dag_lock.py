"""Waiting for a lock without holding a worker."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from nexus_redis_provider.core.cancellations import heed_cancellation
from nexus_redis_provider.core.errors import AccessDeniedError, ServerError
from nexus_redis_provider.core.locks.protocol import extend
from nexus_redis_provider.core.locks.waiting import WaitingRoom
from nexus_redis_provider.hooks.dag_runs import ais_dag_run_alive
from nexus_redis_provider.hooks.redis import NexusRedisHook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nexus_redis_provider.core.locks.states import Holder
    from nexus_redis_provider.core.locks.waiting import Place, Standing

# A thousand waiters move up at every hand-off: who is not the first tells so once a minute.
_WORD_PAUSE_S = 60.0


class DagLockTrigger(BaseTrigger):
    """Fires when it is a waiter's turn, or at `until`. The worker takes the lock then.

    The trigger never does, so it does not matter if a trigger runs twice, or dies and runs again
    elsewhere. All triggers of a triggerer that wait on one server share two connections.
    """

    def __init__(
        self,
        *,
        redis_conn_id: str,
        name: str,
        namespace: str,
        owner: str,
        deployment: str,
        lease: float,
        poll_interval: float,
        until: float | None = None,
        ticket: int = 0,
    ) -> None:
        """Remember who waits for what.

        Args:
            redis_conn_id: connection of type `nexus_redis` or `redis`.
            name: of the lock.
            namespace: first part of its keys.
            owner: who has its place in the line since a worker asked for the lock.
            deployment: this one; of its runs Airflow can say whether they live.
            lease: seconds that a living holder of this deployment is given anew.
            poll_interval: seconds between two looks, spread by a fifth either way.
            until: when to fire in any case, in seconds since 1970.
            ticket: of the place; the event hands it back.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.redis_conn_id = redis_conn_id
        self.name = name
        self.namespace = namespace
        self.owner = owner
        self.deployment = deployment
        self.lease = lease
        self.poll_interval = poll_interval
        self.until = until
        self.ticket = ticket

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = (
            *("redis_conn_id", "name", "namespace", "owner", "deployment"),
            *("lease", "poll_interval", "until", "ticket"),
        )
        classpath = f"{type(self).__module__}.{type(self).__qualname__}"
        return classpath, {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        endpoint = await NexusRedisHook(self.redis_conn_id).get_endpoint()
        left = None if self.until is None else max(0.0, self.until - time.time())
        # Closed before the event goes out: nobody need come back to this generator after it.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left), WaitingRoom.of(endpoint) as room:
                with room.place(
                    self.name, self.owner, poll=self.poll_interval, namespace=self.namespace
                ) as place:
                    await self._turn(room, place)
        heed_cancellation()
        yield TriggerEvent({"until": self.until, "ticket": self.ticket})  # type: ignore[no-untyped-call]

    async def _turn(self, room: WaitingRoom, place: Place) -> None:
        """Return when a worker should ask for the lock."""
        told, next_word = "", 0.0
        while True:
            standing = await place.news()
            heed_cancellation()
            if standing.is_turn:
                return
            if isinstance(standing.error, AccessDeniedError):
                raise standing.error
            now = asyncio.get_running_loop().time()
            at_once = standing.position == 1 or standing.error
            if (line := self._in_words(standing)) != told and (at_once or now >= next_word):
                told, next_word = line, now + _WORD_PAUSE_S
                self.log.info("%s", line)
            if standing.is_first:
                for holder in standing.holders:
                    if not await self._lives(room, holder):
                        return

    async def _lives(self, room: WaitingRoom, holder: Holder) -> bool:
        if not holder.deployment or holder.deployment != self.deployment:
            return True
        try:
            alive = await ais_dag_run_alive(holder)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may be robbed
            self.log.warning("Airflow cannot say if %s lives: %s", holder.owner, error)
            return True
        if alive and holder.expires_in < self.lease / 2:
            with contextlib.suppress(ServerError):
                await room.run(extend(holder, self.lease, namespace=self.namespace))
        return alive

    def _in_words(self, standing: Standing) -> str:
        if standing.error:
            return f"{standing.error} Waiting on."
        holders = ", ".join(
            f"{holder.owner} since {holder.since.isoformat(timespec='seconds')}"
            for holder in standing.holders
        )
        return (
            f"Number {standing.position} of {standing.length} in line for lock {self.name!r}, "
            f"held by {holders or 'nobody'}."
        )
