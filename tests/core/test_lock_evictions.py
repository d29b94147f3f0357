"""No lock is taken on a server that may evict it, unless that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from nexus_redis_provider.core.errors import AccessDeniedError, EvictionError
from nexus_redis_provider.core.locks.evictions import show_eviction
from nexus_redis_provider.core.locks.protocol import Claim
from nexus_redis_provider.core.scripts import script
from nexus_redis_provider.embedded import EmbeddedServer
from tests.core.lock_calls import holding
from tests.guarded import own_server
from tests.servers import as_user
from tests.topologies import ClusterDeployment

LIMIT = 100 << 20


@pytest.fixture
def own(binary: Path) -> Iterator[EmbeddedServer]:
    """A server that may evict keys which expire, of the same kind."""
    options = ("--maxmemory", str(LIMIT), "--maxmemory-policy", "volatile-ttl")
    with own_server(*options, binary=binary) as own:
        yield own


@pytest.fixture
def admin(own: EmbeddedServer) -> Iterator[redis.Redis]:
    with own.endpoint.client() as client:
        yield client


def questions(client: redis.Redis) -> int:
    """How often the server was asked, by whomever, since it started."""
    return int(client.info("commandstats").get("cmdstat_info", {"calls": 0})["calls"])


async def test_it_is_refused_with_reason_and_remedy(
    kind: str, own: EmbeddedServer, admin: redis.Redis
) -> None:
    for options in ({}, {"wait": 5}):
        with pytest.raises(EvictionError) as refused:
            async with holding(kind, own.endpoint, "a", **options):
                pass
    error = refused.value
    assert (error.name, error.maxmemory, error.policy) == ("a", LIMIT, "volatile-ttl")
    for part in (
        f"Lock 'a' was not taken: Redis at 127.0.0.1:{own.port}/0 may evict it",
        "maxmemory 104,857,600, maxmemory-policy volatile-ttl",
        "set maxmemory-policy noeviction",
        "allow_eviction=True",
    ):
        assert part in str(error)
    assert admin.keys() == [], "nothing of it was sent"


async def test_the_remedy_works_at_once(kind: str, own: EmbeddedServer, admin: redis.Redis) -> None:
    with pytest.raises(EvictionError):
        async with holding(kind, own.endpoint, "a"):
            pass
    admin.config_set("maxmemory-policy", "noeviction")
    async with holding(kind, own.endpoint, "a") as lock:
        assert lock.held


async def test_it_is_taken_all_the_same_where_that_is_asked_for(
    kind: str, own: EmbeddedServer, admin: redis.Redis
) -> None:
    before = questions(admin)
    async with holding(kind, own.endpoint, "a", allow_eviction=True) as lock:
        assert lock.held
    assert questions(admin) == before + 1, "that was us, just now"


async def test_without_a_limit_no_policy_matters(
    kind: str, own: EmbeddedServer, admin: redis.Redis
) -> None:
    admin.config_set("maxmemory", 0)
    async with holding(kind, own.endpoint, "a") as lock:
        assert lock.held


async def test_a_process_asks_once(kind: str, own: EmbeddedServer, admin: redis.Redis) -> None:
    admin.config_set("maxmemory-policy", "noeviction")
    before = questions(admin)
    for name in ("a", "b", "a"):
        async with holding(kind, own.endpoint, name):
            pass
    assert questions(admin) == before + 2, "one question was ours, just now"


async def test_who_may_not_ask_is_told_what_for(
    kind: str, own: EmbeddedServer, admin: redis.Redis
) -> None:
    admin.acl_setuser("blind", enabled=True, nopass=True, commands=["+@all", "-info"], keys=["*"])
    admin.acl_setuser("blind", enabled=True, nopass=True, channels=["*"])
    blind = as_user(own.endpoint, "blind", "any")
    with pytest.raises(AccessDeniedError, match="INFO, which says whether the server evicts keys"):
        async with holding(kind, blind, "a"):
            pass
    async with holding(kind, blind, "a", allow_eviction=True) as lock:
        assert lock.held


async def test_of_a_cluster_the_node_counts_that_has_the_lock(kind: str) -> None:
    with ClusterDeployment() as deployment:
        names = {deployment.server_of(f"nexus:lock:{{{n}}}"): str(n) for n in range(100)}
        bad, good, _ = deployment.servers
        with bad.endpoint.client() as client:
            client.config_set("maxmemory", LIMIT)
            client.config_set("maxmemory-policy", "allkeys-lru")
        async with holding(kind, deployment.endpoint, names[good]) as lock:
            assert lock.held
        with pytest.raises(EvictionError, match=f"Redis at 127.0.0.1:{bad.port} may evict it"):
            async with holding(kind, deployment.endpoint, names[bad]):
                pass


def test_a_server_that_tells_nothing_evicts_nothing(client: redis.Redis) -> None:
    # As some services do that speak Redis.
    mute = script("show_eviction").source.replace("'memory'", "'server'")
    reply = client.eval(mute, 1, "a")
    assert show_eviction(Claim("a", "o")).decode(reply) == (0, "noeviction")
