"""`AsyncLock`: for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, ClassVar, Self

from redis.exceptions import RedisError

from nexus_redis_provider.core.cancellations import cancellations, heed_cancellation
from nexus_redis_provider.core.clients import ScriptClient, script_client
from nexus_redis_provider.core.durations import uptime
from nexus_redis_provider.core.errors import ServerError, UnreachableError
from nexus_redis_provider.core.locks.evictions import arefuse_eviction
from nexus_redis_provider.core.locks.holding import PythonLock
from nexus_redis_provider.core.locks.leases import Lease
from nexus_redis_provider.core.locks.renewal import renewal_endpoint
from nexus_redis_provider.core.locks.states import Acquisition
from nexus_redis_provider.core.locks.waiting import WaitingRoom
from nexus_redis_provider.core.scripts import Call, arun, arun_replicated


class AsyncLock(PythonLock):
    """The asyncio twin of `Lock`: `async with AsyncLock(endpoint, name) as lock:`.

    All locks of an event loop on one endpoint share a few connections, two of them to wait, and one
    more for each lock that is held for longer than a third of its lease.
    """

    # The event loop itself keeps no task from being collected.
    _giving_back: ClassVar[set[asyncio.Task[None]]] = set()

    async def __aenter__(self) -> Self:
        self._enter()
        self.lost = asyncio.Event()
        self._done = asyncio.Event()
        self._cancelled = cancellations()
        self._room = WaitingRoom.of(self._endpoint)
        await self._room.__aenter__()
        try:
            hold = await self._take(self._room)
        except BaseException as error:
            await self._to_the_end(self._leave(undo=self._may_have_left_something(error)))
            raise
        self._hold = hold
        hold.on_loss = self.lost.set
        self._renewing = asyncio.create_task(self._keep_renewing(hold))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._to_the_end(self._give_back())

    async def _to_the_end(self, closing: Coroutine[Any, Any, None]) -> None:
        # Whoever cancels us now does not keep the lock from being given back.
        self._closing = asyncio.create_task(closing)
        await asyncio.shield(self._closing)

    async def _give_back(self) -> None:
        # Told, not cancelled: before Python 3.12 redis-py may swallow a cancellation as it sends.
        self._done.set()
        hold = self._hold
        try:
            await asyncio.wait([self._renewing])
            if hold is not None and hold.is_of_this_process:
                with contextlib.suppress(ServerError):
                    try:
                        await self._room.run_beside(hold.release_call())
                    except UnreachableError:
                        self._keep_giving_back(hold)
        finally:
            await self._leave(undo=False)

    async def _leave(self, *, undo: bool) -> None:
        try:
            if undo:
                await self._withdraw(self._room)
        finally:
            await self._room.__aexit__()
            self._guard.release()

    async def _take(self, room: WaitingRoom) -> Lease:
        if self._asks_eviction:
            await arefuse_eviction(self._endpoint, room.run_beside, self._claim)
            self._asks_eviction = False  # Once is enough.
        asked_at, attempt = await self._ask(room)
        if self._is_slow(asked_at):
            asked_at, attempt = await self._ask(room)
        hold = Lease(self._claim, self._lease_s, asked_at, attempt)
        if self._replicas:
            self._check_replicas(
                *await room.use(
                    lambda client: arun_replicated(
                        client, hold.renew_call(), self._replica_ms, self._replicas
                    )
                )
            )
        return hold

    async def _ask(self, room: WaitingRoom) -> tuple[float, Acquisition]:
        asked_at = uptime()
        call = self._acquire_call(room.channel)
        try:
            attempt = await room.run_beside(call)
        except UnreachableError as error:
            attempt = self._not_yet(error)
        if not attempt.acquired:
            if not self._wait_s:
                raise self._refusal(attempt)
            asked_at, attempt = await self._wait(room, call, asked_at)
        heed_cancellation(self._cancelled)
        return asked_at, attempt

    async def _withdraw(self, room: WaitingRoom) -> None:
        with contextlib.suppress(ServerError):
            await room.run_beside(self._leave_call())
            for call in self._undo_calls(await room.run_beside(self._look_call())):
                await room.run_beside(call)

    async def _wait(
        self, room: WaitingRoom, call: Call[Acquisition], began_at: float
    ) -> tuple[float, Acquisition]:
        claim, deadline = self._claim, began_at + self._wait_s
        with room.place(
            claim.name, claim.owner, poll=self._poll_s, namespace=claim.namespace
        ) as place:
            while True:
                heed_cancellation(self._cancelled)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, deadline - uptime())):
                        while not (await place.news()).is_turn:
                            pass
                asked_at = uptime()
                try:
                    attempt = await room.run_beside(call)
                except UnreachableError:
                    if asked_at >= deadline:
                        raise
                    continue
                if attempt.acquired:
                    return asked_at, attempt
                if asked_at >= deadline:
                    raise self._refusal(attempt, asked_at - began_at)

    async def _keep_renewing(self, hold: Lease) -> None:
        # Most locks are given back before they need one.
        client: ScriptClient | None = None
        pause = max(0.0, hold.renewed_at + self._lease_s / 3 - uptime())
        try:
            while not await self._is_done(within=pause):
                asked_at, pause = uptime(), self._lease_s / 3
                try:
                    if client is None:
                        client = script_client(renewal_endpoint(self._endpoint, self._lease_s))
                    hold.renewed(asked_at, await arun(client, hold.renew_call()))
                except Exception:  # noqa: BLE001 - whatever it is, it needs another try
                    # What is left of the lease is for further tries.
                    pause = self._lease_s / 10
                if hold.is_over():
                    return
        finally:
            if client is not None:
                # It may take longer to close it than the short timeouts of a short lease allow.
                with contextlib.suppress(RedisError):
                    await client.aclose()

    def _keep_giving_back(self, hold: Lease) -> None:
        """Give a lease back in the background, trying again for as long as it lasts."""

        async def give_back() -> None:
            endpoint = renewal_endpoint(self._endpoint, self._lease_s)
            while hold.held:
                await asyncio.sleep(self._lease_s / 10)
                # Whatever goes wrong, it needs another try.
                with contextlib.suppress(Exception):
                    async with contextlib.aclosing(script_client(endpoint)) as client:
                        await arun(client, hold.release_call())
                        return

        task = asyncio.create_task(give_back())
        self._giving_back.add(task)
        task.add_done_callback(self._giving_back.discard)

    async def _is_done(self, within: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), within)
        return self._done.is_set()
