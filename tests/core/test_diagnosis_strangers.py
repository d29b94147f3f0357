"""Where nobody answers, or somebody who is no Redis server, that is told from what is heard."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from nexus_redis_provider.core.faults import Fault
from nexus_redis_provider.embedded import EmbeddedServer
from tests.core.diagnoses import assert_fault, found, listener
from tests.proxies import FaultyProxy, Way


def test_an_unknown_host() -> None:
    diagnosis = found("redis://no.such.host.invalid")
    assert_fault(diagnosis, Fault.UNKNOWN_HOST, "no.such.host.invalid:6379")


def test_a_refused_port() -> None:
    assert_fault(found("redis://127.0.0.1:1"), Fault.REFUSED, "127.0.0.1:1", "refused")


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_server_that_says_nothing(scheme: str) -> None:
    with listener(None) as address:
        diagnosis = found(f"{scheme}://{address}", read_timeout=0.2, connect_timeout=0.2)
    assert_fault(diagnosis, Fault.SILENT, address)


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_server_whose_answer_never_ends(protocol: int) -> None:
    class Babbling(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                # In the end it hangs up, which is another fault; nobody waits for that.
                for _ in range(1000):
                    self.request.sendall(b"+")
                    time.sleep(0.02)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Babbling) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        options = {"read_timeout": 1, "connect_timeout": 0.5, "protocol": protocol}
        diagnosis = found(f"redis://{address}", **options)
        server.shutdown()
    assert_fault(diagnosis, Fault.SILENT, address, "no whole answer in 3.5 s")


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_server_that_hangs_up(scheme: str) -> None:
    with listener(None, hangs_up=True) as address:
        assert_fault(found(f"{scheme}://{address}"), Fault.HANGS_UP, address)


def test_what_is_between_us_and_the_server_hangs_up(binary: Path) -> None:
    with EmbeddedServer(binary=binary) as own, FaultyProxy(own.endpoint) as proxy:
        proxy.cut_after(10, Way.TO_CLIENT)
        diagnosis = found(proxy.endpoint, read_timeout=0.2)
    assert_fault(diagnosis, Fault.HANGS_UP, proxy.endpoint.nodes[0])


def test_a_host_that_takes_no_more_connections() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as lines:
        address = full.getsockname()
        for _ in range(4):
            line = lines.enter_context(closing(socket.socket()))
            line.setblocking(False)
            line.connect_ex(address)
        diagnosis = found(f"redis://127.0.0.1:{address[1]}", connect_timeout=0.2)
    assert_fault(diagnosis, Fault.NO_WAY, address[1])


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_an_http_server(scheme: str) -> None:
    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        diagnosis = found(f"{scheme}://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()
    assert_fault(diagnosis, Fault.NOT_REDIS, server.server_port)


@contextmanager
def answering(reply: bytes) -> Iterator[str]:
    """`host:port` of something that answers every command so."""

    class Same(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                while commands := self.request.recv(4096).count(b"*"):
                    self.request.sendall(reply * commands)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Same) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    "url", ["redis://{}", "redis+sentinel://{}?master=m", "redis+cluster://{}"]
)
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("reply", [b"+OK\r\n", b"$-1\r\n", b"*-5\r\n"])
def test_what_speaks_like_redis_and_is_none(reply: bytes, protocol: int, url: str) -> None:
    with answering(reply) as address:
        diagnosis = found(url.format(address), protocol=protocol)
    assert_fault(diagnosis, Fault.NOT_REDIS, address)
    assert "object" not in diagnosis.message


def test_a_server_that_does_not_speak_resp3() -> None:
    with answering(b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n") as address:
        assert_fault(found(f"redis://{address}"), Fault.NO_RESP3, address)


def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    assert_fault(found(f"unix://{tmp_path}/redis.sock"), Fault.NO_SOCKET, tmp_path)
