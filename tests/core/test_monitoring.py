"""What servers say of themselves, typed: INFO, the slow log, and latencies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.errors import AccessDeniedError, ConfigurationError, UnreachableError
from nexus_redis_provider.core.monitoring.infos import Database, server_infos
from nexus_redis_provider.core.monitoring.latencies import RoundTrips, latency_events, ping
from nexus_redis_provider.core.monitoring.slow_logs import slow_log
from nexus_redis_provider.embedded import EmbeddedServer, find_server
from tests.conftest import WaitUntil, need_server
from tests.guarded import own_server
from tests.servers import as_user
from tests.topologies import ClusterDeployment, kill


@pytest.fixture(scope="module")
def own(binary: Path) -> Iterator[EmbeddedServer]:
    """A server whose settings a test may change."""
    options = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lfu", "--appendonly", "yes")
    with own_server(*options, binary=binary) as server:
        yield server


def now() -> datetime:
    return datetime.now(UTC)


def test_a_server(asked: redis.Redis, own: EmbeddedServer) -> None:
    for number in range(5):
        asked.set(f"key:{number}", "x" * 1000, ex=60 if number < 2 else None)
    with replace(own.endpoint, db=3).client() as other:
        other.set("a", 1)
    asked.get("key:0")
    asked.get("absent")
    (info,) = server_infos(asked)
    assert (info.address, info.mode) == (f"127.0.0.1:{own.port}/0", "standalone")
    assert (info.name, info.version.split(".")[0]) in (("redis", "7"), ("valkey", "9"))
    assert info.run_id == asked.info("server")["run_id"]
    assert dict(info.databases) == {0: Database(keys=5, expires=2), 3: Database(keys=1, expires=0)}
    assert info.memory.limit == 100 * 2**20
    assert info.memory.policy == "allkeys-lfu"
    assert 5000 < info.memory.used <= info.memory.peak
    assert info.memory.resident > 0
    assert (info.activity.hits, info.activity.misses) == (1, 1)
    assert info.activity.hit_ratio == 0.5
    assert info.activity.clients >= 1
    assert info.activity.max_clients > 0
    assert info.persistence.has_aof
    assert info.persistence.is_last_save_ok
    assert info.persistence.unsaved_changes >= 6
    assert now() - info.persistence.last_saved_at < timedelta(minutes=1)
    assert info.replication.is_primary
    assert info.replication.replicas == ()


def test_no_limit_and_no_reads(binary: Path) -> None:
    with own_server(binary=binary) as fresh, fresh.endpoint.client() as client:
        (info,) = server_infos(client)
    assert info.memory.limit is None
    assert info.activity.hit_ratio is None
    assert info.databases == {}


def test_a_replica_and_its_primary(own: EmbeddedServer, asked: Any, wait_until: WaitUntil) -> None:
    asked.config_set("repl-diskless-sync-delay", 0)
    follow = ("--replicaof", f"127.0.0.1 {own.port}")
    with own_server(*follow, binary=own._binary) as server, server.endpoint.client() as client:
        wait_until(lambda: server_infos(client)[0].replication.is_linked)
        asked.set("key", 1)
        wait_until(lambda: server_infos(asked)[0].replication.replicas[0].offset > 0)
        (info,) = server_infos(client)
        assert not info.replication.is_primary
        assert info.replication.primary == f"127.0.0.1:{own.port}"
        (above,) = server_infos(asked)
        (replica,) = above.replication.replicas
        assert replica.address == f"127.0.0.1:{server.port}"
        assert replica.is_online
        assert above.replication.replid == info.replication.replid
        asked.config_set("min-replicas-to-write", 0)
        wait_until(lambda: confirmed(asked) == 1)
    wait_until(lambda: server_infos(asked)[0].replication.replicas == ())


def confirmed(client: redis.Redis) -> int:
    replication = server_infos(client)[0].replication
    assert replication.confirmed(replication.offset + 10**9) == 0
    return replication.confirmed(replication.offset)


def test_the_slow_log(asked: redis.Redis) -> None:
    asked.config_set("slowlog-log-slower-than", 0)
    asked.execute_command("SLOWLOG", "RESET")
    asked.client_setname("tester")
    asked.set(b"odd \xff key", "a b")
    asked.get("key")
    asked.config_set("slowlog-log-slower-than", -1)
    got, did = slow_log(asked, 2)
    assert did.words == (b"SET", b"odd \xff key", b"a b")
    assert got.words == (b"GET", b"key")
    assert got.id == did.id + 1
    assert 0 <= did.duration < 1
    assert abs(now() - did.at) < timedelta(minutes=1)
    assert did.client_name == "tester"
    assert did.client.startswith("127.0.0.1:")
    assert len(slow_log(asked, 1)) == 1


def test_what_held_the_server_up(asked: redis.Redis) -> None:
    assert latency_events(asked) == []
    asked.config_set("latency-monitor-threshold", 1)
    # Five milliseconds and more of work.
    asked.eval("local t = {} for i = 1, 1000000 do t[i % 1000] = i end", 0)
    asked.config_set("latency-monitor-threshold", 0)
    event = next(event for event in latency_events(asked) if event.event == "command")
    assert event.longest >= 0.001
    assert max(spike.duration for spike in event.spikes) == event.longest
    assert abs(now() - event.spikes[-1].at) < timedelta(minutes=1)


def test_a_round_trip(asked: redis.Redis, own: EmbeddedServer) -> None:
    (found,) = ping(asked, 20)
    assert (found.server, found.count) == (f"127.0.0.1:{own.port}/0", 20)
    assert 0 < found.least <= found.median <= found.p90 <= found.p99 <= found.most


def test_percentiles() -> None:
    found = RoundTrips.of("a", [float(number) for number in range(100, 0, -1)])
    assert found == RoundTrips(server="a", count=100, least=1, median=50, p90=90, p99=99, most=100)
    assert RoundTrips.of("a", [2.0]).p99 == 2


@pytest.mark.parametrize("call", [ping, slow_log])
def test_a_bad_count_is_refused(asked: redis.Redis, call: Any) -> None:
    with pytest.raises(ConfigurationError, match="count must be at least 1, not 0"):
        call(asked, 0)


@pytest.mark.parametrize("call", [server_infos, slow_log, latency_events, ping])
def test_who_may_not_ask(asked: redis.Redis, own: EmbeddedServer, call: Any) -> None:
    asked.acl_setuser("nobody", enabled=True, nopass=True, commands=["+hello"])
    stranger = as_user(own.endpoint, "nobody", "x").client()
    with stranger, pytest.raises(AccessDeniedError, match=str(own.port)):
        call(stranger)


def test_all_primaries_of_a_cluster() -> None:
    need_server(find_server)
    with ClusterDeployment() as cluster, cluster.endpoint.client() as client:
        client.set("a", 1)
        infos = server_infos(client)
        addresses = {f"127.0.0.1:{server.port}" for server in cluster.servers}
        assert {info.address for info in infos} == addresses
        assert {info.mode for info in infos} == {"cluster"}
        assert sum(info.databases[0].keys for info in infos if info.databases) == 1
        assert {one.server for one in ping(client, 3)} == addresses
        for server in cluster.servers:
            with server.endpoint.client() as node:
                node.config_set("slowlog-log-slower-than", 0)
                node.ping()
        assert {one.server for one in slow_log(client)} == addresses
        kill(cluster.servers[1])
        with pytest.raises(UnreachableError, match=str(cluster.servers[1].port)):
            server_infos(client)
