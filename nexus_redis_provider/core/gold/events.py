"""What becomes of a dataset, in order: an event for every publish and every rollback.

The scripts that move readers write them, in the same step, to a stream that keeps the newest
thousand or so. A `Follower` hears all of them, also those that came while it was away: the server
keeps, by the follower's name, up to which event it has been heard.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self, TypeVar

from redis.exceptions import RedisError

from nexus_redis_provider.core.endpoint import Endpoint, translated_errors
from nexus_redis_provider.core.errors import ServerError
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE, GoldKeys

T = TypeVar("T")

log = logging.getLogger(__name__)

# How long the server may keep a question, and how many events it answers with.
_BLOCK_S = 10.0
_COUNT = 100
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_BEGINNING = "0-0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A publish or a rollback.

    Attributes:
        id: its place in the stream; server clock.
        dataset: its name.
        kind: `publish` or `rollback`.
        version: that readers see since; of an upsert, the one that brought its rows.
        published_ms: when that version was published; server clock, milliseconds since 1970.
        rows: of that version.
        fence: fencing token of the publisher, or None.
    """

    id: str
    dataset: str
    kind: str
    version: str
    published_ms: int
    rows: int
    fence: int | None

    @classmethod
    def of_entry(cls, dataset: str, place: bytes, fields: Mapping[bytes, bytes]) -> Self:
        """The event of an entry of the stream."""
        text = {name.decode(): value.decode() for name, value in fields.items()}
        return cls(
            id=place.decode(),
            dataset=dataset,
            kind=text["kind"],
            version=text["version"],
            published_ms=int(text["published_ms"]),
            rows=int(text["rows"]),
            fence=int(text["fence"]) if text["fence"] else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Its facts, of JSON types alone."""
        return asdict(self)


class Follower:
    """Hears every event of a dataset, at least once each, in their order.

    The first time, those that come from then on. While the server is away it waits, and goes on
    where it was; so it does after a server lost what it knew. What it may miss is what a thousand
    later events have pushed out of the stream before it looked.

    Example:
        async with Follower(endpoint, "sales", "mailer") as follower:
            async for event in follower.events():
                ...
                await follower.heard(event.id)

    Redis: `GoldKeys.events` and, by name, `GoldKeys.watchers`.
    Cost: one blocking XREAD at a time on a connection of its own; one HSET for what was heard.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        dataset: str,
        name: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
    ) -> None:
        """Describe who follows what; it connects on first use.

        Args:
            endpoint: of the server.
            dataset: its name.
            name: under which the server keeps how far this one is. Who shares a name shares that.
            namespace: first part of the keys.
        """
        self._keys = GoldKeys(dataset, namespace)
        self._name = name
        # The server answers late on purpose.
        patient = replace(endpoint, read_timeout=endpoint.read_timeout + _BLOCK_S)
        self._client = patient.async_client_for(self._keys.events, protocol=2)
        self._at: str | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; what was not said to be heard comes again next time."""
        try:
            await self._client.aclose()
        except RedisError as error:  # A server that is away need not be told.
            log.debug("Closing: %s", error)

    async def events(self) -> AsyncIterator[Event]:
        """Every event from where this one is, for ever."""
        pause = _FIRST_PAUSE_S
        while True:
            try:
                found = await _cancellable(self._next())
                pause = _FIRST_PAUSE_S
            except ServerError as error:
                log.warning("Events of Gold dataset %r: %s", self._keys.dataset, error)
                found = []
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            for event in found:
                yield event
                self._at = event.id

    async def heard(self, event_id: str) -> None:
        """Remember that all events up to this one were dealt with.

        Raises:
            UnreachableError, AccessDeniedError: they come again next time.
        """
        with translated_errors(self._client):
            await self._client.hset(self._keys.watchers, self._name, event_id)

    async def _next(self) -> list[Event]:
        with translated_errors(self._client):
            if self._at is None:
                self._at = await self._last_heard()
            found: Any = await self._client.xread(
                {self._keys.events: self._at}, count=_COUNT, block=round(_BLOCK_S * 1000)
            )
        entries = found[0][1] if found else []
        return [Event.of_entry(self._keys.dataset, place, fields) for place, fields in entries]

    async def _last_heard(self) -> str:
        """Where this one was; the first time, the end, which the server then keeps."""
        known: Any = await self._client.hget(self._keys.watchers, self._name)
        if known is not None:
            return str(known.decode())
        newest: Any = await self._client.xrevrange(self._keys.events, count=1)
        end: str = newest[0][0].decode() if newest else _BEGINNING
        await self._client.hsetnx(self._keys.watchers, self._name, end)
        return end


async def _cancellable(reading: Coroutine[Any, Any, T]) -> T:
    """What it returns. Who is cancelled meanwhile does not wait for the server."""
    task = asyncio.create_task(reading)
    try:
        await asyncio.wait([task])
    finally:
        # Before Python 3.12 redis-py may swallow a cancellation that comes just when sending is
        # done, and would go on to wait for the answer.
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.05)
        if not task.cancelled():
            task.exception()  # Else asyncio says that nobody has looked at it.
    return task.result()
