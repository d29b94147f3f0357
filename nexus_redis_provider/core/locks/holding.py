"""Locks for plain Python: held within a `with` block, renewed meanwhile, and told when lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from nexus_redis_provider.core.clients import thread_client
from nexus_redis_provider.core.durations import Duration, to_ms, uptime
from nexus_redis_provider.core.endpoint import Endpoint, address_of, translated
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    LockHeldError,
    NotReplicatedError,
    ServerError,
    UnreachableError,
)
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE, LockKeys
from nexus_redis_provider.core.locks.leases import Lease
from nexus_redis_provider.core.locks.protocol import (
    Claim,
    Mode,
    acquire,
    inspect,
    leave,
    steal,
)
from nexus_redis_provider.core.locks.renewal import Renewer, renewal_endpoint
from nexus_redis_provider.core.locks.states import Acquisition, LockState
from nexus_redis_provider.core.locks.waiting import WaitingRoom
from nexus_redis_provider.core.scripts import (
    Call,
    arun,
    arun_replicated,
    cancellations,
    heed_cancellation,
    run,
    run_replicated,
)

DEFAULT_LEASE = 30.0
_HOST = socket.gethostname()
_LEAST_STAY = 1.0


class _PythonLock:
    """What `Lock` and `AsyncLock` have in common: all but talking to the server."""

    def __init__(
        self,
        endpoint: Endpoint,
        name: str,
        *,
        lease: Duration = DEFAULT_LEASE,
        wait: Duration | None = None,
        mode: Mode = "exclusive",
        permits: int = 1,
        poll: Duration = 5.0,
        owner: str | None = None,
        description: Mapping[str, Any] | None = None,
        replicas: int = 0,
        replica_timeout: Duration = 1.0,
        namespace: str = DEFAULT_NAMESPACE,
    ) -> None:
        """Describe the lock; nothing is sent yet. One object is for one holder at a time.

        Args:
            endpoint: the server, of the *state* role.
            name: what is locked.
            lease: seconds after which a dead holder loses the lock; renewed at a third of it.
            wait: seconds to stand in line for it; None fails at once.
            mode: `exclusive`, or `shared` with others that say so too.
            permits: how many may hold it at once; more than 1 make it a semaphore.
            poll: seconds between two looks while waiting, in case a wake-up is lost. Who is not
                heard from for three times as long is passed over.
            owner: identity; by default unique to this object in this process. The same owner gets
                the same hold again, and then its earlier object no longer gives it back.
            description: shown to whoever inspects the lock or waits for it.
            replicas: how many replicas must confirm before the lock counts as taken.
            replica_timeout: seconds that they have for that.
            namespace: first part of the lock's keys.

        Raises:
            ConfigurationError: an option has a value it cannot have.
        """
        self.name = name
        self._endpoint = endpoint
        self._lease_s = to_ms(lease, "lease") / 1000
        self._wait_s = to_ms(wait, "wait") / 1000 if wait is not None else 0.0
        self._poll_s = to_ms(poll, "poll") / 1000
        self._replicas = replicas
        self._replica_ms = to_ms(replica_timeout, "replica_timeout")
        if replicas and self._replica_ms >= endpoint.read_timeout * 1000:
            raise ConfigurationError(
                f"Lock {name!r}: replica_timeout must be less than the endpoint's read_timeout of "
                f"{endpoint.read_timeout} s, not {self._replica_ms / 1000} s."
            )
        self._pid = 0
        self._owner_is_ours = owner is None
        self._claim = Claim(
            name=name,
            owner=owner or _new_owner(),
            mode=mode,
            permits=permits,
            description=description or {},
            namespace=namespace,
        )
        self._only_ask = acquire(self._claim, self._lease_s)
        self._guard = threading.Lock()
        self._hold: Lease | None = None

    @property
    def owner(self) -> str:
        """The identity by which the lock is held."""
        return self._claim.owner

    @property
    def token(self) -> int:
        """The fencing token of the last hold; 0 before the first."""
        return self._hold.token if self._hold else 0

    @property
    def held(self) -> bool:
        """Whether the lease, counted from before it was asked for, still runs."""
        return self._hold is not None and self._guard.locked() and self._hold.held

    def ensure_held(self) -> None:
        """Return only while the lock is ours. Sends nothing.

        Raises:
            LockLostError: it is not; stop the protected work.
        """
        if self._hold is None or not self._guard.locked():
            raise self._not_entered()
        self._hold.ensure_held()

    def _not_entered(self) -> ConfigurationError:
        return ConfigurationError(f"Lock {self.name!r} has not been entered.")

    def _enter(self) -> None:
        if not self._guard.acquire(blocking=False):
            raise ConfigurationError(
                f"Lock {self.name!r} is entered by this very object already. An object is for one "
                "holder at a time: make one for each thread or task."
            )
        if self._pid != os.getpid():
            self._begin_in_this_process()

    def _begin_in_this_process(self) -> None:
        # A child of a fork is somebody else.
        if self._pid and self._owner_is_ours:
            self._claim = replace(self._claim, owner=_new_owner())
            self._only_ask = acquire(self._claim, self._lease_s)
        self._pid = os.getpid()

    def _acquire_call(self, channel: str = "-") -> Call[Acquisition]:
        stay = max(3 * self._poll_s, _LEAST_STAY)
        return acquire(self._claim, self._lease_s, stay=stay, channel=channel)

    def _leave_call(self) -> Call[bool]:
        return leave(self.name, self.owner, namespace=self._claim.namespace)

    def _look_call(self) -> Call[LockState]:
        return inspect(self.name, waiters=0, namespace=self._claim.namespace)

    def _undo_calls(self, found: LockState) -> list[Call[float | None]]:
        # An owner that was given to us may have had the lock before.
        return [
            steal(holder, namespace=self._claim.namespace)
            for holder in found.holders
            if holder.owner == self.owner and (self._owner_is_ours or holder.entries == 1)
        ]

    def _refusal(self, attempt: Acquisition, waited: float = 0.0) -> LockHeldError:
        holder = attempt.holders[0] if attempt.holders else None
        owner, expires_in = (holder.owner, holder.expires_in) if holder else ("", 0.0)
        return LockHeldError(self.name, owner, expires_in, waited, attempt.position)

    def _next_look(self, attempt: Acquisition, deadline: float) -> float:
        pause = self._poll_s * random.uniform(0.8, 1.2)
        if attempt.position == 1:
            # Nobody calls when a lease runs out.
            ends = [h.expires_in for h in attempt.holders if h.expires_in > 0]
            pause = min(pause, min(ends, default=pause) + 0.005)
        return max(0.0, min(pause, deadline - uptime()))

    def _check_replicas(self, taken_by: str | None, confirmed: int) -> None:
        if taken_by is not None or confirmed < self._replicas:
            raise NotReplicatedError(self.name, self._replicas, confirmed, self._replica_ms / 1000)

    def _is_slow(self, asked_at: float) -> bool:
        # What is left of the lease may be over before it is renewed for the first time.
        return uptime() - asked_at > self._lease_s / 3

    def _may_have_left_something(self, error: BaseException) -> bool:
        # Even one who is interrupted before the reply may stand in line, or hold the lock. Where
        # the server does not answer, the lease and the place end by themselves.
        if isinstance(error, UnreachableError):
            return False
        return bool(self._wait_s) or not isinstance(error, LockHeldError)


class Lock(_PythonLock):
    """Within `with Lock(endpoint, name) as lock:` the lock is ours, or `lock.lost` is set.

    Raises:
        LockHeldError: on entry, others kept it for longer than `wait`.
        NotReplicatedError: on entry, too few `replicas` confirmed it.
        UnreachableError: on entry; without a server there is no lock.
    """

    def __enter__(self) -> Self:
        self._enter()
        client = None
        try:
            client = thread_client(self._endpoint)
            self._hold = self._take(client)
            self._renewer.add(self._hold)
        except BaseException as error:
            if client is not None and self._may_have_left_something(error):
                self._withdraw(client)
            self._guard.release()
            raise
        return self

    @property
    def lost(self) -> threading.Event:
        """Set when this hold is known to be lost; made when it is first asked for."""
        if self._hold is None:
            raise self._not_entered()
        if self._hold.on_loss is None:
            event = threading.Event()
            self._hold.on_loss = event.set
            self._lost = event
            if self._hold.is_lost:
                event.set()
        return self._lost

    def _begin_in_this_process(self) -> None:
        super()._begin_in_this_process()
        self._renewer = Renewer.of(self._endpoint, self._lease_s)

    def __exit__(self, *_: object) -> None:
        hold = self._hold
        if hold is not None and hold.is_of_this_process:
            self._renewer.discard(hold)
            # An unreachable server must not hide the error of the work; the lease ends anyway.
            with contextlib.suppress(ServerError):
                run(thread_client(self._endpoint), hold.release_call())
        self._guard.release()

    def _take(self, client: redis.Redis) -> Lease:
        asked_at, attempt = self._ask(client)
        if self._is_slow(asked_at):
            asked_at, attempt = self._ask(client)
        hold = Lease(self._claim, self._lease_s, asked_at, attempt)
        if self._replicas:
            self._check_replicas(
                *run_replicated(client, hold.renew_call(), self._replica_ms, self._replicas)
            )
        return hold

    def _ask(self, client: redis.Redis) -> tuple[float, Acquisition]:
        asked_at = uptime()
        attempt = run(client, self._acquire_call() if self._wait_s else self._only_ask)
        if attempt.acquired:
            return asked_at, attempt
        if not self._wait_s:
            raise self._refusal(attempt)
        return self._wait(client, attempt, asked_at)

    def _withdraw(self, client: redis.Redis) -> None:
        if self._hold is not None:
            self._renewer.discard(self._hold)
        with contextlib.suppress(ServerError):
            run(client, self._leave_call())
            for call in self._undo_calls(run(client, self._look_call())):
                run(client, call)

    def _wait(
        self, client: redis.Redis, attempt: Acquisition, began_at: float
    ) -> tuple[float, Acquisition]:
        deadline = began_at + self._wait_s
        wakes = _Wakes.of(client)
        call = self._acquire_call(wakes.channel)
        while True:
            try:
                # Subscribed before the lock is asked for again: no wake-up falls in between.
                wakes.subscribe()
                while True:
                    asked_at = uptime()
                    attempt = run(client, call)
                    if attempt.acquired:
                        return asked_at, attempt
                    if asked_at >= deadline:
                        raise self._refusal(attempt, asked_at - began_at)
                    wakes.listen(self._next_look(attempt, deadline))
            except UnreachableError:
                # A server that restarts knows the line again, or forms it anew.
                if uptime() >= deadline:
                    raise
                time.sleep(min(self._poll_s, 0.5))


class AsyncLock(_PythonLock):
    """The asyncio twin of `Lock`: `async with AsyncLock(endpoint, name) as lock:`.

    All locks of an event loop on one endpoint share a few connections, two of them to wait, and one
    more for each lock that is held for longer than a third of its lease.
    """

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
                    await self._room.run_beside(hold.release_call())
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
        call = self._acquire_call(room.channel) if self._wait_s else self._only_ask
        attempt = await room.run_beside(call)
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
        # Most locks are given back before they need a client for that.
        if await self._is_done(within=max(0.0, hold.renewed_at + self._lease_s / 3 - uptime())):
            return
        client = renewal_endpoint(self._endpoint, self._lease_s).async_client()
        try:
            await self._renew(hold, client)
        finally:
            # It may take longer to close it than the short timeouts of a short lease allow.
            with contextlib.suppress(RedisError):
                await client.aclose()

    async def _renew(self, hold: Lease, client: redis.asyncio.Redis) -> None:
        pause = 0.0
        while not await self._is_done(within=pause):
            asked_at, pause = uptime(), self._lease_s / 3
            try:
                hold.renewed(asked_at, await arun(client, hold.renew_call()))
            except Exception:  # noqa: BLE001 - whatever it is, it needs another try
                # What is left of the lease is for further tries.
                pause = self._lease_s / 10
            if hold.is_over():
                return

    async def _is_done(self, within: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), within)
        return self._done.is_set()


def _new_owner() -> str:
    return f"{_HOST}/{os.getpid()}/{uuid.uuid4().hex}"


class _Wakes:
    """What wakes a thread that waits: a channel, and a connection that is kept with its client.

    To connect for every wait, and to disconnect before the lock is had, takes longer than a
    hand-off.
    """

    _of_clients: ClassVar[WeakKeyDictionary[redis.Redis, _Wakes]] = WeakKeyDictionary()

    @classmethod
    def of(cls, client: redis.Redis) -> _Wakes:
        found = cls._of_clients.get(client)
        if found is None:
            found = cls._of_clients[client] = cls(client)
        return found

    def __init__(self, client: redis.Redis) -> None:
        self.channel = LockKeys.channel(uuid.uuid4().hex)
        self._where = address_of(client)
        self._pool = client.connection_pool
        self._connection: Any = None

    def subscribe(self) -> None:
        """Return when the server says that the channel is heard; what it said before is dropped."""
        try:
            if self._connection is None:
                self._connection = self._pool.get_connection()
            self._connection.retry.call_with_retry(
                self._subscribe, lambda _: self._connection.disconnect()
            )
        except RedisError as error:
            raise translated(self._where, error) from error

    def _subscribe(self) -> None:
        self._connection.send_command("SUBSCRIBE", self.channel, check_health=False)
        reply = None
        while not reply or reply[0] != b"subscribe":
            reply = self._connection.read_response(push_request=True)

    def listen(self, timeout: float) -> None:
        """Return on a wake-up, or after `timeout` seconds."""
        try:
            self._connection.read_response(
                disconnect_on_error=False, push_request=True, timeout=timeout
            )
        except RedisTimeoutError:
            pass
        except RedisError as error:
            self._connection.disconnect()
            raise translated(self._where, error) from error
