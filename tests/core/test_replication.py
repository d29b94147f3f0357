"""Waiting for replicas that are stopped, come late, or take over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from nexus_redis_provider.core import replication
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    ReplicationLagError,
    ReplicationLostError,
    UnreachableError,
)
from nexus_redis_provider.core.replication import (
    Mark,
    aprogress,
    await_replicas,
    mark,
    progress,
)
from nexus_redis_provider.embedded import EmbeddedServer, find_server
from tests.conftest import WaitUntil, need_server
from tests.core.backup_servers import AT_ONCE, replica_of
from tests.guarded import own_server
from tests.topologies import ClusterDeployment, crash, kill, stopped

FAST = {"poll_interval": 0.02}


@pytest.fixture
def primary() -> Iterator[EmbeddedServer]:
    # Of one kind: a replica confirms once a second, so these tests are slow.
    need_server(find_server)
    with own_server(*AT_ONCE) as primary:
        yield primary


@pytest.fixture
def client(primary: EmbeddedServer) -> Iterator[redis.Redis]:
    with primary.endpoint.client() as client:
        yield client


@pytest.fixture
def replica(primary: EmbeddedServer, client: redis.Redis) -> Iterator[EmbeddedServer]:
    with replica_of(primary) as replica:
        await_replicas(client, timeout=20, **FAST)
        yield replica


def test_what_was_written_is_there(client: redis.Redis, replica: EmbeddedServer) -> None:
    for number in range(1000):
        client.set(f"{number}", "x" * 100)
    found = await_replicas(client, timeout=20, **FAST)
    assert (found.confirmed, found.lags) == (1, ())
    with replica.endpoint.client() as other:
        assert other.dbsize() == 1000


def test_a_replica_that_is_stopped(client: redis.Redis, replica: EmbeddedServer) -> None:
    with stopped(replica):
        client.set("a", "x" * 1000)
        with pytest.raises(
            ReplicationLagError,
            match=rf"0 of 1, 127\.0\.0\.1:{replica.port} \(online\) is 1,\d\d\d bytes behind",
        ) as raised:
            await_replicas(client, timeout=0.3, **FAST)
        assert raised.value.wanted == 1
        marks = mark(client)
        client.set("later", 1)
    found = await_replicas(client, timeout=20, **FAST)
    assert found.confirmed == 1
    assert progress(client, marks, 1).is_done


def test_only_what_was_written_before(client: redis.Redis, replica: EmbeddedServer) -> None:
    """A server that is always written to would never be done otherwise."""
    marks = mark(client)
    with stopped(replica):
        client.set("a", "x" * 1000)
        assert progress(client, marks, 1).is_done
        assert not progress(client, mark(client), 1).is_done


def test_more_than_there_are(client: redis.Redis, replica: EmbeddedServer) -> None:
    with pytest.raises(ReplicationLagError, match="1 of 2, and no other replica is connected"):
        await_replicas(client, 2, timeout=0.1, **FAST)


def test_a_replica_that_comes_later(primary: EmbeddedServer, client: redis.Redis) -> None:
    """The first one begins another history, and has all of what there was."""
    client.set("a", 1)
    marks = mark(client)
    assert marks[0].run_id is not None
    assert not progress(client, marks, 1).is_done
    with replica_of(primary):
        found = await_replicas(client, timeout=20, **FAST)
        assert found.confirmed == 1
        assert mark(client)[0].replid != marks[0].replid
        assert progress(client, marks, 1).is_done


def test_a_restart(primary: EmbeddedServer, client: redis.Redis) -> None:
    client.set("a", 1)
    marks = mark(client)
    primary.stop()
    primary.start()
    with pytest.raises(ReplicationLostError, match="Write it again"):
        progress(client, marks, 1)


def test_a_replica_that_takes_over(
    primary: EmbeddedServer, client: redis.Redis, replica: EmbeddedServer
) -> None:
    client.set("a", 1)
    await_replicas(client, timeout=20, **FAST)
    marks = mark(client)
    with replica.endpoint.client() as other, stopped(replica):
        # What it will not have.
        client.set("lost", "x" * 100)
        lost = mark(client)
        kill(primary)
    with other:
        other.replicaof("NO", "ONE")
        found = progress(other, marks, 1)
        assert (found.confirmed, found.is_done) == (0, False)
        with replica_of(replica):
            await_replicas(other, timeout=20, **FAST)
            assert progress(other, marks, 1).is_done
    assert lost[0].offset > marks[0].offset


def test_what_the_new_primary_has_not(
    primary: EmbeddedServer, client: redis.Redis, replica: EmbeddedServer
) -> None:
    (now,) = mark(client)
    ahead = Mark(address=now.address, replid=now.replid, offset=now.offset + 10_000)
    with pytest.raises(ReplicationLostError, match=f"offset {ahead.offset:,} is on no primary"):
        progress(client, [ahead], 1)
    with replica.endpoint.client() as other:
        other.replicaof("NO", "ONE")
        with pytest.raises(ReplicationLostError):
            progress(other, [ahead], 1)


def test_a_replica_is_not_to_be_asked(replica: EmbeddedServer, primary: EmbeddedServer) -> None:
    said = rf"is a replica of 127\.0\.0\.1:{primary.port}"
    with replica.endpoint.client() as other, pytest.raises(ConfigurationError, match=said):
        await_replicas(other)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"replicas": 0}, "replicas must be a whole number of at least 1, not 0"),
        ({"replicas": 1.5}, "replicas must be a whole number of at least 1, not 1.5"),
        ({"replicas": "1"}, "replicas must be a whole number"),
        ({"timeout": 0}, "timeout must be"),
        ({"poll_interval": -1}, "poll_interval must be"),
    ],
)
def test_numbers_that_make_no_sense(client: redis.Redis, options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        await_replicas(client, **options)


async def test_the_asyncio_twin(
    primary: EmbeddedServer, client: redis.Redis, replica: EmbeddedServer
) -> None:
    async with primary.endpoint.async_client() as other:
        with stopped(replica):
            client.set("a", "x" * 1000)
            marks = mark(client)
            assert await aprogress(other, marks, 1) == progress(client, marks, 1)
            assert not (await aprogress(other, marks, 1)).is_done
        await_replicas(client, timeout=20, **FAST)
        assert (await aprogress(other, marks, 1)).is_done


async def test_a_cluster(wait_until: WaitUntil) -> None:
    need_server(find_server)
    deployment = ClusterDeployment(with_replicas=True)
    with deployment as cluster, cluster.endpoint.client() as client:
        found = await_replicas(client, timeout=20, **FAST)
        assert found.confirmed == 1
        slow = cluster.servers[4]
        with stopped(slow):
            for number in range(100):
                client.set(f"key:{number}", "x" * 100)
            with pytest.raises(ReplicationLagError, match=rf"127\.0\.0\.1:{slow.port} \(online\)"):
                await_replicas(client, timeout=0.5, **FAST)
            marks = mark(client)
            assert len(marks) == 3
            wait_until(lambda: len(progress(client, marks, 1).lags) == 1)
            async with cluster.endpoint.async_client() as other:
                (lag,) = (await aprogress(other, marks, 1)).lags
            assert lag.startswith(f"127.0.0.1:{cluster.servers[1].port} has 0 of 1, ")
        wait_until(lambda: progress(client, marks, 1).is_done)


async def test_a_cluster_of_one_primary() -> None:
    need_server(find_server)
    with ClusterDeployment(primaries=1, with_replicas=True) as cluster:
        with cluster.endpoint.client() as client:
            await_replicas(client, timeout=20, **FAST)
            marks = mark(client)
        async with cluster.endpoint.async_client() as other:
            assert (await aprogress(other, marks, 1)).is_done


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_primary_that_is_away(
    primary: EmbeddedServer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    comes_back: bool,
) -> None:
    """It is waited for, and asked what it has when it is there."""

    def mark_before_it_dies(client: redis.Redis) -> Any:
        marks = mark(client)
        crash(primary)
        return marks

    def look(*arguments: Any) -> Any:
        try:
            return progress(*arguments)
        except UnreachableError:
            if comes_back:
                primary.start()
            raise

    monkeypatch.setattr(replication, "mark", mark_before_it_dies)
    monkeypatch.setattr(replication, "progress", look)
    with pytest.raises(ReplicationLostError if comes_back else UnreachableError):
        await_replicas(client, timeout=60 if comes_back else 0.1, **FAST)


def test_nobody_answers(primary: EmbeddedServer, client: redis.Redis) -> None:
    marks = mark(client)
    crash(primary)
    with pytest.raises(UnreachableError):
        progress(client, marks, 1)
