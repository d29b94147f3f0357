"""A network between a client and a server that fails on demand.

Replies are lost, connections cut, or nothing passes for a while.
"""

from __future__ import annotations

import enum
import random
import socket
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

import pytest

from nexus_redis_provider.core.endpoint import Endpoint, Node

_CHUNK = 1 << 13
# Of what a client says first: enough to tell who it is.
_INTRODUCTION = 1 << 12


class Way(enum.Enum):
    """In which direction bytes go."""

    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


@dataclass(frozen=True, slots=True)
class Cut:
    """A connection breaks when so many bytes have passed on it one way, and more are to come."""

    way: Way
    after: int


class FaultyProxy:
    """Passes everything on, but for the faults that are asked for; used as a context manager.

    Attributes:
        endpoint: the server's, by way of the proxy.
        connections: how many were made.
        cuts: connections that were cut.
        lost: replies that were swallowed.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._upstream = (endpoint.nodes[0].host, endpoint.nodes[0].port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.endpoint = replace(endpoint, nodes=(Node("127.0.0.1", port),))
        self._due: deque[Cut] = deque()
        self._longest = dict.fromkeys(Way, 1)
        self._loses_reply = False
        self._lock = threading.Lock()
        self._silent_to: bytes | None = None
        self._passes = threading.Event()
        self._passes.set()
        self.connections = 0
        self.cuts = 0
        self.lost: list[bytes] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # Who waits in `accept` wakes up.
        self._listener.close()
        self.heal()

    def lose_reply(self) -> None:
        """Swallow the reply to the next script, and close its connection."""
        self._needs_sight()
        self._loses_reply = True

    def cut_after(self, count: int, way: Way = Way.TO_SERVER) -> None:
        """Cut the first connection on which so many bytes have passed since it was made."""
        self._due.append(Cut(way, count))

    def cut_at_random(self, chance: random.Random, times: int) -> None:
        """Cut so many connections, one after the other, each anywhere.

        That is at a byte that the longest connection so far has had, and rather at an early one,
        since most are shorter.
        """
        for _ in range(times):
            way = chance.choice(list(Way))
            self.cut_after(chance.randint(1, chance.randint(1, self._longest[way])), way)

    def silence(self, to: bytes = b"") -> None:
        """Let nothing pass, either way, until it heals; connections seem to live on.

        Args:
            to: on those connections alone on which a client has said this.
        """
        if to:
            self._needs_sight()
        self._silent_to = to
        self._passes.clear()

    def heal(self) -> None:
        """Let pass again, also what was held up; late, as a network does."""
        self._silent_to = None
        self._passes.set()

    def wait_to_pass(self, introduction: bytes) -> None:
        """Return when what comes on a connection that began with this may pass."""
        while (silent_to := self._silent_to) is not None and silent_to in introduction:
            self._passes.wait()

    def _needs_sight(self) -> None:
        if self.endpoint.tls:
            pytest.skip("Nobody in between sees what is said on a TLS connection.")

    def _accept(self) -> None:
        while True:
            try:
                downstream, _ = self._listener.accept()
            except OSError:
                return
            try:
                upstream = socket.create_connection(self._upstream)
            except OSError:
                downstream.close()  # The server is down, and may come back.
                continue
            self.connections += 1
            _Link(self, downstream, upstream)

    def allowed(self, way: Way, passed: int, size: int) -> int:
        """How many of `size` bytes may pass after those that have passed; fewer is a cut."""
        with self._lock:
            if self._due and self._due[0].way is way and passed + size > self._due[0].after:
                self.cuts += 1
                return max(0, self._due.popleft().after - passed)
            self._longest[way] = max(self._longest[way], passed + size)
            return size

    def takes_reply_to(self, request: bytes) -> bool:
        """Whether the reply to this is to be swallowed."""
        with self._lock:
            takes = self._loses_reply and b"EVALSHA" in request
            self._loses_reply = self._loses_reply and not takes
            return takes


class _Link:
    """A connection through the proxy."""

    def __init__(
        self, proxy: FaultyProxy, downstream: socket.socket, upstream: socket.socket
    ) -> None:
        self._proxy = proxy
        self._drops_reply = False
        self._introduction = b""
        for way, source, target in (
            (Way.TO_SERVER, downstream, upstream),
            (Way.TO_CLIENT, upstream, downstream),
        ):
            threading.Thread(target=self._pump, args=(way, source, target), daemon=True).start()

    def _pump(self, way: Way, source: socket.socket, target: socket.socket) -> None:
        with source, target:
            with suppress(OSError):
                self._pass_on(way, source, target)
            # Who reads from either of them in the other direction wakes up.
            for end in (source, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, way: Way, source: socket.socket, target: socket.socket) -> None:
        passed = 0
        while data := source.recv(_CHUNK):
            if way is Way.TO_CLIENT and self._drops_reply:
                self._proxy.lost.append(data)
                return
            # Before it is passed on, since the reply may come at once.
            if way is Way.TO_SERVER and self._proxy.takes_reply_to(data):
                self._drops_reply = True
            if way is Way.TO_SERVER and len(self._introduction) < _INTRODUCTION:
                self._introduction += data
            self._proxy.wait_to_pass(self._introduction)
            allowed = self._proxy.allowed(way, passed, len(data))
            target.sendall(data[:allowed])
            if allowed < len(data):
                return
            passed += allowed
