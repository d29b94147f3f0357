"""What the tests of diagnoses have in common: how to ask for one, and what is asked of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from nexus_redis_provider.core.diagnosis import Diagnosis, diagnose
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.faults import Fault

PASSWORD = "hunter2"


def found(where: Endpoint | str, **options: Any) -> Diagnosis:
    """The diagnosis, which never tells a password."""
    quick = {"connect_timeout": 1.0, "read_timeout": 1.0} | options
    diagnosis = diagnose(replace(Endpoint.of(where), **quick))
    assert PASSWORD not in repr(diagnosis)
    return diagnosis


def assert_fault(diagnosis: Diagnosis, fault: Fault, *parts: object) -> None:
    assert diagnosis.fault is fault, diagnosis.message
    assert diagnosis.message.startswith(f"{fault.field}: ")
    assert diagnosis.message.endswith(fault.advice)
    assert diagnosis.report is None
    for part in parts:
        assert str(part) in diagnosis.message


@contextmanager
def listener(reply: bytes | None, *, hangs_up: bool = False) -> Iterator[str]:
    """`host:port` of something that answers whatever it is asked so, or (None) never."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as lines:

        def serve() -> None:
            while True:
                try:
                    line, _ = server.accept()
                    lines.callback(line.close)
                    if reply:
                        line.recv(4096)
                        line.sendall(reply)
                    if hangs_up:
                        line.close()
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
