"""The core is tested on every server at hand: the one on PATH, and the wheel's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.gold import bucket_writers, pacing, writers
from nexus_redis_provider.core.gold.manifests import Layout, Mode
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.gold.specs import Spec
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.embedded import EmbeddedServer, find_server, find_wheel_server
from tests.conftest import need_server
from tests.core.backup_servers import AT_ONCE
from tests.core.gold_datasets import PERMANENT_ROWS, spec
from tests.core.lock_calls import Perform, performing
from tests.guarded import own_server
from tests.kinds import KIND
from tests.proxies import FaultyProxy
from tests.servers import Server, shared_server

# An assertion of theirs that fails shows what it compared, as one in a test does.
pytest.register_assert_rewrite("tests.core.diagnoses")

SERVERS = {"path": find_server, "wheel": find_wheel_server}


@pytest.fixture
def rows_may_stay(permanent: list[str]) -> None:
    """Of versions without a ttl: they live until the version is swept."""
    permanent.append(PERMANENT_ROWS)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that each attempt at a partition sends several, and there are some to be cut."""
    monkeypatch.setattr(writers, "_MAX_ROWS", 50)
    monkeypatch.setattr(bucket_writers, "_MAX_ROWS", 50)
    monkeypatch.setattr(pacing, "_FIRST_ROWS", 50)


@pytest.fixture
def keys(namespace: str) -> GoldKeys:
    """Of the dataset `sales`."""
    return GoldKeys("sales", namespace)


@pytest.fixture
def delta(namespace: str) -> Spec:
    return spec(namespace, layout=Layout.PACKED, mode=Mode.DELTA)


@pytest.fixture
def dataset(client: redis.Redis, namespace: str) -> GoldDataset:
    return GoldDataset(client, "sales", namespace=namespace)


@pytest.fixture(scope="session", params=SERVERS)
def binary(request: pytest.FixtureRequest) -> Path:
    """Of each server at hand, for tests that start one of their own."""
    binary = need_server(SERVERS[request.param])
    assert isinstance(binary, Path)
    return binary


@pytest.fixture(scope="session")
def server(binary: Path) -> Iterator[Server]:
    with shared_server(binary) as server:
        yield server


@pytest.fixture
def own(binary: Path) -> Iterator[EmbeddedServer]:
    """A server that a test may ruin, and back up in every way; a module may have another one."""
    with own_server("--appendonly", "yes", *AT_ONCE, binary=binary) as server:
        yield server


@pytest.fixture
def asked(own: EmbeddedServer) -> Iterator[redis.Redis]:
    """A client of the server of a test's own."""
    with own.endpoint.client() as client:
        yield client


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Of the backups of a test."""
    return tmp_path / "backups"


@pytest.fixture
def proxy(endpoint: Endpoint) -> Iterator[FaultyProxy]:
    if KIND in ("sentinel", "cluster"):
        pytest.skip("The proxy stands before one server.")
    with FaultyProxy(endpoint) as proxy:
        yield proxy


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def perform(kind: str, endpoint: Endpoint) -> AsyncIterator[Perform]:
    async with performing(kind, endpoint) as perform:
        yield perform
