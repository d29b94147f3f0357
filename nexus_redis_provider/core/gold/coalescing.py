"""Calls of an event loop that come at about the same time, answered by one request.

A thousand callers that want a row each would need a thousand connections. Here, who comes within a
tick of the loop goes together; and who comes while as many requests as may be are under way goes
with all others that wait, with the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from nexus_redis_provider.core.errors import GoldError, ServerError

K = TypeVar("K")
T = TypeVar("T")
_Asked = list[tuple[K, asyncio.Future[T]]]
_MOST = 1000
"""Keys of a request: a longer one makes other clients wait."""
_AT_ONCE = 4


class Coalescer(Generic[K, T]):
    """Asks for many keys at once, for callers that want one each."""

    def __init__(self, ask: Callable[[Sequence[K]], Awaitable[Sequence[T]]]) -> None:
        """Ask by a function from keys to what is found for each, in their order.

        Its errors are those of all who asked, where they are of the server or of the dataset. Any
        other may be of one key, and whoever asked for others does not hear of it.
        """
        self._ask = ask
        self._begin(None)

    def _begin(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop
        self._waiting: _Asked[K, T] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def get(self, key: K) -> T:
        """What is found for a key, by a request that is sent after this call.

        Cost: at most two round trips, four requests being under way at once.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # Whatever was under way ended with the loop before.
            self._begin(loop)
        answer = loop.create_future()
        self._waiting.append((key, answer))
        if len(self._waiting) == 1:
            loop.call_soon(self._send)
        found: T = await answer
        return found

    def _send(self) -> None:
        while self._waiting and len(self._under_way) < _AT_ONCE:
            some, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            asked = [one for one in some if not one[1].done()]
            if asked:
                task = asyncio.ensure_future(self._answer(asked))
                self._under_way.add(task)
                task.add_done_callback(self._sent)
                _end_when_all_have_left(task, asked)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._send()

    async def _answer(self, asked: _Asked[K, T]) -> None:
        try:
            found = await self._ask([key for key, _ in asked])
        except (ServerError, GoldError) as error:
            _fail(asked, error)
        except asyncio.CancelledError:
            for _, answer in asked:
                answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - theirs who asked
            if len(asked) == 1:
                _fail(asked, error)
            else:
                half = len(asked) // 2
                await self._answer(asked[:half])
                await self._answer(asked[half:])
        else:
            for (_, answer), one in zip(asked, found, strict=True):
                if not answer.done():
                    answer.set_result(one)


def _fail(asked: _Asked[K, T], error: Exception) -> None:
    for _, answer in asked:
        if not answer.done():
            answer.set_exception(error)


def _end_when_all_have_left(task: asyncio.Task[None], asked: _Asked[K, T]) -> None:
    """Cancel a request when each of those who asked was cancelled."""
    left = 0

    def leave(answer: asyncio.Future[T]) -> None:
        nonlocal left
        left += answer.cancelled()
        if left == len(asked):
            task.cancel()

    for _, answer in asked:
        answer.add_done_callback(leave)
