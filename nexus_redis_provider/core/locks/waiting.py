"""Waiting for locks in an event loop: two connections, however many wait.

One connection attends the lines, now and then, for all who stand in them; the other one listens for
wake-ups. Neither ever takes a lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar, Self, TypeVar
from weakref import WeakKeyDictionary

import redis.asyncio
from redis.exceptions import RedisError

from nexus_redis_provider.core.clients import ScriptClient, script_client
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ServerError
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE, LockKeys
from nexus_redis_provider.core.locks.protocol import attend
from nexus_redis_provider.core.locks.states import Attendance, Holder
from nexus_redis_provider.core.nodes import AsyncNodes
from nexus_redis_provider.core.scripts import Call, arun, arun_all

T = TypeVar("T")

# Owners in one go: they keep the server busy for about a millisecond. A script is as much work as
# so many of them.
_BATCH = 250
_SCRIPT = 15
_LISTENING_PAUSE = 5.0
# Of all that take and give back locks in an event loop, beside the two for waiting.
_CONNECTIONS = 8
# Those who arrive within it are looked after together.
_ARRIVAL_PAUSE = 0.05
_RECONNECT_PAUSE = 1.0
# How long a room stays open for the next guest, who would have to connect again.
_LINGER = 1.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How a waiter stands.

    Attributes:
        is_turn: time to ask for the lock: it is its turn, or it has no place in the line any more.
        is_first: nobody here stands before it, so it is the one to find out whether holders live.
        position: from 1; 0 if it is not known.
        length: of the line.
        holders: who has the lock.
        error: why nothing is known, or None.
    """

    is_turn: bool = False
    is_first: bool = False
    position: int = 0
    length: int = 0
    holders: tuple[Holder, ...] = ()
    error: ServerError | None = None


class Place:
    """One waiter's place in a line, as long as it is attended."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self._news = asyncio.Event()
        self._standing = Standing()

    async def news(self) -> Standing:
        """The next standing that differs from the last one, or is that of the first one here."""
        await self._news.wait()
        self._news.clear()
        return self._standing

    def tell(self, standing: Standing) -> None:
        """Let the waiter know. A turn that it has not yet heard of is not taken back."""
        if self._standing.is_turn and self._news.is_set():
            return
        if standing != self._standing or standing.is_first:
            self._standing = standing
            self._news.set()


@dataclass(eq=False)
class _Line:
    """Those here who wait for the same lock."""

    name: str
    namespace: str
    places: dict[str, set[Place]] = field(default_factory=dict)
    unseen: dict[str, None] = field(default_factory=dict)
    poll_s: float = 60.0
    due_at: float = 0.0
    first: float = math.inf


class WaitingRoom:
    """Where all of an event loop wait who wait for locks of the same endpoint.

    It costs the server one script per lock, `poll` and 250 waiters, and one more for each wake-up;
    small lines that are due together share a round trip.

    Example:
        async with WaitingRoom.of(endpoint) as room:
            with room.place(name, owner) as place:
                while not (await place.news()).is_turn:
                    ...
    """

    _rooms: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Endpoint, WaitingRoom]]] = (
        WeakKeyDictionary()
    )

    @classmethod
    def of(cls, endpoint: Endpoint) -> WaitingRoom:
        """The room of the running loop. Enter it at once; it closes soon after the last guest."""
        rooms = cls._rooms.setdefault(asyncio.get_running_loop(), {})
        return rooms.get(endpoint) or rooms.setdefault(endpoint, cls(endpoint))

    def __init__(self, endpoint: Endpoint) -> None:
        self.channel = LockKeys.channel(uuid.uuid4().hex)
        self._endpoint = endpoint
        self._guests = 0
        self._was_used = False
        self._is_closing = False
        self._host: asyncio.Task[None] | None = None
        self._busy = asyncio.Lock()
        self._beside = asyncio.Semaphore(_CONNECTIONS)
        self._lines: dict[str, _Line] = {}
        self._agenda: list[tuple[float, int, _Line]] = []
        self._entries = 0
        self._called = asyncio.Event()
        self._staff: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        if self._host is None:
            self._client: ScriptClient = script_client(self._endpoint)
        self._guests += 1
        self._was_used = True
        if self._host is None:
            # Where tasks are eager, it looks for a guest at once.
            self._host = asyncio.create_task(self._keep_open())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._guests -= 1
        if self._is_closing and not self._guests:
            await self._close()

    async def _keep_open(self) -> None:
        """Close when nobody was here for a while, or the loop ends."""
        try:
            while self._guests or self._was_used:
                self._was_used = False
                await asyncio.sleep(_LINGER)
        finally:
            # Who comes from now on opens another room. When the loop ends, a guest may be a
            # generator, which ends after all tasks: the last one closes.
            del self._rooms[asyncio.get_running_loop()][self._endpoint]
            self._is_closing = True
            if not self._guests:
                await self._close()

    async def _close(self) -> None:
        for task in self._staff:
            await _end(task)
        with contextlib.suppress(RedisError):  # A server that is away need not be told.
            await self._client.aclose()

    async def run(self, call: Call[T]) -> T:
        """Run a call on the room's one connection for that; raises as `arun`."""
        return await self.use(lambda client: arun(client, call))

    async def use(self, action: Callable[[ScriptClient], Awaitable[T]]) -> T:
        """Do something with the room's connection while nobody else does."""
        async with self._busy:
            return await action(self._client)

    async def run_beside(self, call: Call[T]) -> T:
        """Run a call on another connection, one of a few: it waits for no one else's."""
        async with self._beside:
            return await arun(self._client, call)

    @contextlib.contextmanager
    def place(
        self, name: str, owner: str, *, poll: float = 10.0, namespace: str = DEFAULT_NAMESPACE
    ) -> Any:
        """Attend the place that an owner has in the line of a lock, within the block.

        Args:
            name: of the lock.
            owner: who stands in line since it asked for the lock with a `stay`.
            poll: seconds between two looks, spread by a fifth either way; the least one of a line
                is that of all in it.
            namespace: first part of the lock's keys.
        """
        if not self._staff:
            self._staff = [asyncio.create_task(self._attend()), asyncio.create_task(self._listen())]
        key = LockKeys(name, namespace).lock
        line = self._lines.setdefault(key, _Line(name, namespace))
        place = Place(owner)
        line.places.setdefault(owner, set()).add(place)
        if not line.unseen:
            self._look_again(line, at=asyncio.get_running_loop().time() + _ARRIVAL_PAUSE)
        line.unseen[owner] = None
        line.poll_s = min(line.poll_s, poll)
        try:
            yield place
        finally:
            line.places[owner].discard(place)
            if not line.places[owner]:
                del line.places[owner]
                line.unseen.pop(owner, None)
            if not line.places:
                self._lines.pop(key, None)

    def _look_at_all(self, line: _Line, at: float) -> None:
        line.due_at = at
        self._look_again(line, at)

    def _look_again(self, line: _Line, at: float) -> None:
        self._entries += 1
        heapq.heappush(self._agenda, (at, self._entries, line))
        self._called.set()

    async def _attend(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            while batch := self._next_batch(clock()):
                await self._look(batch)
            self._called.clear()
            pause = max(0.0, self._agenda[0][0] - clock()) if self._agenda else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._called.wait(), pause)

    def _next_batch(self, now: float) -> list[tuple[_Line, list[str]]]:
        """Whom to look after now, in one round trip."""
        batch: list[tuple[_Line, list[str]]] = []
        effort = 0
        while effort < _BATCH and self._agenda and self._agenda[0][0] <= now:
            _, _, line = heapq.heappop(self._agenda)
            if line.places and line.due_at <= now:
                line.unseen, line.first = dict.fromkeys(line.places), math.inf
                self._look_at_all(line, _beat_after(now, line.poll_s))
            if owners := list(islice(line.unseen, _BATCH - effort)):
                batch.append((line, owners))
                effort += len(owners) + _SCRIPT
                for owner in owners:
                    del line.unseen[owner]
            if line.unseen:
                self._look_again(line, at=0.0)
        return batch

    async def _look(self, batch: list[tuple[_Line, list[str]]]) -> None:
        calls = [
            attend(line.name, owners, channel=self.channel, namespace=line.namespace)
            for line, owners in batch
        ]
        attendances: list[Attendance | ServerError]
        try:
            attendances = await self.use(lambda client: arun_all(client, calls))
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits must be told
            told = error if isinstance(error, ServerError) else ServerError(str(error))
            attendances = [told] * len(batch)
        now = asyncio.get_running_loop().time()
        for (line, owners), attendance in zip(batch, attendances, strict=True):
            if isinstance(attendance, ServerError):
                for owner in owners:
                    _tell(line, owner, Standing(error=attendance))
                continue
            line.first = min([line.first, *filter(None, attendance.positions.values())])
            for owner in owners:
                _tell(line, owner, _standing_of(owner, attendance, line.first))
            if attendance.head in line.places:
                # Nobody calls when a lease runs out.
                ends = [h.expires_in for h in attendance.holders if h.expires_in > 0]
                soonest = now + min(ends, default=line.poll_s) + 0.01
                if soonest < line.due_at:
                    self._look_at_all(line, soonest)

    async def _listen(self) -> None:
        while True:
            try:
                # Its one channel ends with its connection: nothing is ever unsubscribed.
                async with (await self._listener()).pubsub() as wakes:
                    await wakes.subscribe(self.channel)
                    while True:
                        message = await wakes.get_message(timeout=_LISTENING_PAUSE)
                        if message is not None:
                            self._hear(message)
            except Exception:  # noqa: BLE001 - whatever it is
                # Looks go on meanwhile, and tell those who wait what is wrong.
                if isinstance(self._client, AsyncNodes):
                    self._client.forget()
                await asyncio.sleep(_RECONNECT_PAUSE)

    async def _listener(self) -> redis.asyncio.Redis:
        client = self._client
        return await client.listener(self.channel) if isinstance(client, AsyncNodes) else client

    def _hear(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            # What was said before this, or while the line was down, nobody here has heard.
            for line in self._lines.values():
                self._look_at_all(line, at=0.0)
        elif message["type"] == "message":
            key, _, owner = message["data"].decode().partition("\n")
            if called := self._lines.get(key):
                _tell(called, owner, Standing(is_turn=True, position=1))


def _beat_after(now: float, poll_s: float) -> float:
    """When to look again. At one of few moments, so that many lines are due together."""
    beat = poll_s / 100
    return math.ceil((now + poll_s * random.uniform(0.8, 1.2)) / beat) * beat


def _tell(line: _Line, owner: str, standing: Standing) -> None:
    for place in line.places.get(owner, ()):
        place.tell(standing)


def _standing_of(owner: str, attendance: Attendance, first: float) -> Standing:
    return Standing(
        is_turn=owner in attendance.turns or owner in attendance.strangers,
        is_first=attendance.positions[owner] == first,
        position=attendance.positions[owner],
        length=attendance.length,
        holders=attendance.holders,
    )


async def _end(task: asyncio.Task[None]) -> None:
    # Before Python 3.12 redis-py may swallow a cancellation that comes just when sending is done.
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.1)
