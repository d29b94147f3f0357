"""What every test may ask for: a real server, a namespace of its own, waiting for a condition."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from fnmatch import fnmatchcase

import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.gold.manifests import Layout
from nexus_redis_provider.embedded import find_server
from tests.kinds import KIND, with_hashes
from tests.servers import Server, counting, shared_server
from tests.topologies import ClusterDeployment

# Over TLS, Python warns of what nobody left open.
CLOSING = (
    # Python 3.11 forgets a socket whose peer hangs up just before the handshake.
    "ignore:unclosed <ssl.SSLSocket:ResourceWarning",
    # A line closes in steps, and the event loop of a test may end before the last one.
    "ignore:unclosed transport:ResourceWarning",
    "ignore:unclosed <socket.socket:ResourceWarning",
)

WaitUntil = Callable[..., None]
Eventually = Callable[..., Awaitable[None]]
CountClients = Callable[[], int]

# Bookkeeping of Gold datasets; their rows live as long as the publisher says.
PERMANENT = ("*:gold:{*",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        found = item.callspec.params if hasattr(item, "callspec") else {}
        if Layout.HASH in (found.get("layout"), getattr(found.get("shape"), "layout", None)):
            item.add_marker(with_hashes)


def pytest_configure(config: pytest.Config) -> None:
    if KIND == "tls":
        for line in CLOSING:
            config.addinivalue_line("filterwarnings", line)


def need_server(find: Callable[[], object]) -> object:
    """What `find` finds; else a skip, or a failure where CI promises a server."""
    try:
        return find()
    except ConfigurationError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    need_server(find_server)
    with shared_server() as server:
        yield server


@pytest.fixture(scope="module")
def deployment(request: pytest.FixtureRequest) -> Iterator[ClusterDeployment]:
    """A Cluster of three primaries; with a replica of each, where a module says WITH_REPLICAS."""
    need_server(find_server)
    with_replicas = getattr(request.module, "WITH_REPLICAS", False)
    with ClusterDeployment(with_replicas=with_replicas) as deployment:
        yield deployment


@pytest.fixture
def endpoint(server: Server) -> Endpoint:
    return server.endpoint


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[redis.Redis]:
    with endpoint.client() as client:
        yield client


@pytest.fixture
def count_clients(server: Server, client: redis.Redis) -> Iterator[CountClients]:
    """Tells how many clients the server has beside the test's own, or all of a deployment."""
    with counting(server, client) as count:
        yield count


@pytest.fixture
def permanent() -> list[str]:
    """Patterns of keys that may stay for ever; a test adds its own."""
    return list(PERMANENT)


def new_namespace() -> str:
    """A first part of keys that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def namespace(client: redis.Redis, permanent: list[str]) -> Iterator[str]:
    """A new one; afterwards each key under it must expire."""
    name = new_namespace()
    yield name
    keys = list(client.scan_iter(f"{name}*", count=1000))
    asked = client.pipeline(transaction=False)
    for key in keys:
        asked.ttl(key)
    immortal = (key.decode() for key, ttl in zip(keys, asked.execute(), strict=True) if ttl == -1)
    leaked = [key for key in immortal if not any(fnmatchcase(key, p) for p in permanent)]
    if keys:
        client.unlink(*keys)
    assert not leaked, f"these keys never expire: {leaked}"


@pytest.fixture
def wait_until() -> WaitUntil:
    """Returns when the predicate is true, fails when it is not in time."""

    def wait(predicate: Callable[[], object], timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while not predicate():
            assert time.monotonic() < deadline, f"not within {timeout} s"
            time.sleep(0.01)

    return wait


@pytest.fixture
def eventually() -> Eventually:
    """The asyncio twin of `wait_until`."""

    async def wait(predicate: Callable[[], object], timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while not predicate():
            assert time.monotonic() < deadline, f"not within {timeout} s"
            await asyncio.sleep(0.01)

    return wait
