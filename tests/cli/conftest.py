"""The command line, called in this process on the test's own namespace."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import redis

from nexus_redis_provider.cli.main import main
from nexus_redis_provider.core.locks.protocol import Claim, acquire
from nexus_redis_provider.core.locks.states import Acquisition
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.embedded import EmbeddedServer

RUN = {"dag_id": "sales", "run_id": "manual__1", "url": "http://localhost:8080/dags/sales"}
# What a key, a glob, a table or a terminal could take for something else.
ODD_NAMES = [
    "with spaces  two",
    "a{b}c",
    "ünïcødé 日本",
    "[red]x[/] [link=http://x]y[/link] :smile:",
    "100% \\ * ? [a-z]",
    "line\nbreak\ttab",
    "\x1b[31mred\u202e",
]


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert not self.err
        return json.loads(self.out)


Call = Callable[..., Ran]


@pytest.fixture
def call(server: EmbeddedServer, namespace: str, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*words: str) -> Ran:
        code = main(["--url", server.url, "--namespace", namespace, *words])
        return Ran(code, *capsys.readouterr())

    return call


Take = Callable[..., Acquisition]


@pytest.fixture
def take(client: redis.Redis, namespace: str) -> Take:
    """Takes a lock, or stands in line for it."""

    def take(name: str, owner: str = "me", *, lease: float = 60, **claim: Any) -> Acquisition:
        wanted = Claim(name, owner, namespace=namespace, **claim)
        return run(client, acquire(wanted, lease, stay=60))

    return take
