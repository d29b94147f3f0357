"""A network that fails on demand: it loses replies, cuts connections anywhere, and stands still."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from nexus_redis_provider.core.endpoint import Node

_CHUNK = 65536
# Who is to be cut and says nothing for so long is cut in silence.
_SILENCE_S = 0.05


class _Link:
    """A connection through the proxy."""

    def __init__(self, writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self._writers = writers
        self.flows = asyncio.Event()
        self.flows.set()
        self.drops_reply = False
        self.cut: Callable[[bytes], bytes] | None = None
        self.is_open = True

    def close(self) -> None:
        self.is_open = False
        for writer in self._writers:
            writer.close()

    def abort(self) -> None:
        """Close at once, whatever was not sent yet."""
        self.flows.set()
        for writer in self._writers:
            writer.transport.abort()


class ChaosProxy:
    """Passes everything on, but for the faults. What did happen is told to `on_fault`."""

    def __init__(
        self, upstream: Node, chance: random.Random, on_fault: Callable[[str], None]
    ) -> None:
        self._upstream = upstream
        self._random = chance
        self._on_fault = on_fault
        self.has_upstream = True
        self._links: list[_Link] = []
        self._replies_to_drop = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> Node:
        """Listen; returns where."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return Node("127.0.0.1", self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """End, when nobody connects any more."""
        # Who connected last is served some turns of the loop later, and must be: asyncio leaves a
        # connection open that it has accepted and not begun to serve when its server is closed.
        for _ in range(10):
            await asyncio.sleep(0)
        self._server.close()
        while self._tasks:
            for link in self._links:
                link.abort()
            await asyncio.wait(self._tasks, timeout=0.1)
        # A transport says goodbye in the loop's next turn.
        await asyncio.sleep(0)

    def drop_reply(self) -> None:
        """Swallow the reply to the next script, and close the connection."""
        self._replies_to_drop += 1

    def cut(self) -> None:
        """Close a connection within what is sent on it next."""
        if not (open_links := [link for link in self._links if link.is_open and not link.cut]):
            return
        link = self._random.choice(open_links)

        def cut_short(data: bytes) -> bytes:
            self._cut_now(link)
            return data[: self._random.randrange(len(data))]

        link.cut = cut_short
        asyncio.get_running_loop().call_later(_SILENCE_S, self._cut_if_silent, link)

    def stall(self, seconds: float) -> None:
        """Let a connection stand still; what was sent meanwhile arrives late, wanted or not."""
        if links := [link for link in self._links if link.is_open and link.flows.is_set()]:
            link = self._random.choice(links)
            link.flows.clear()
            asyncio.get_running_loop().call_later(seconds, link.flows.set)
            self._on_fault("stalled connection")

    def stop_faults(self) -> None:
        self._replies_to_drop = 0
        for link in self._links:
            link.drops_reply, link.cut = False, None
            link.flows.set()

    def _cut_if_silent(self, link: _Link) -> None:
        if link.cut and link.is_open:
            self._cut_now(link)
            link.close()

    def _cut_now(self, link: _Link) -> None:
        link.cut = None
        self._on_fault("cut connection")

    async def _serve(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if not self.has_upstream:
            to_client.close()
            return
        try:
            from_server, to_server = await asyncio.open_connection(
                self._upstream.host, self._upstream.port
            )
        except OSError:
            to_client.close()
            return
        link = _Link((to_client, to_server))
        self._links.append(link)
        pumps = {
            asyncio.create_task(self._pump(link, from_client, to_server, self._request)),
            asyncio.create_task(self._pump(link, from_server, to_client, self._reply)),
        }
        # A client that hung up has its last words passed on all the same.
        await asyncio.wait(pumps)
        self._links.remove(link)
        link.close()

    async def _pump(
        self,
        link: _Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        passed: Callable[[_Link, bytes], bytes | None],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await link.flows.wait()
                kept = passed(link, data)
                if kept is None:
                    break
                was_cut = len(kept) < len(data)
                writer.write(kept)
                await writer.drain()
                if was_cut:
                    break
        writer.close()
        if link.is_open and passed == self._reply:
            link.close()

    def _request(self, link: _Link, data: bytes) -> bytes | None:
        if link.cut:
            return link.cut(data)
        if self._replies_to_drop and b"EVALSHA" in data:
            self._replies_to_drop -= 1
            link.drops_reply = True
        return data

    def _reply(self, link: _Link, data: bytes) -> bytes | None:
        if link.drops_reply:
            self._on_fault("lost reply")
            return None
        return link.cut(data) if link.cut else data
