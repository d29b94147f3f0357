"""The profile `ha`: its roles are enough for a failover, which clients follow, encrypted."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import redis

from nexus_redis_provider.core.gold.tables import publish_table
from nexus_redis_provider.core.locks import Lock
from tests.deploy.deployments import HighAvailability
from tests.deploy.jobs import CHANGED, LAYOUTS, read_from_replicas, read_in_every_way
from tests.deploy.programs import DEPLOY
from tests.deploy.services import Service
from tests.deploy.test_users import granted
from tests.topologies import until

# When a script holds the primary up for longer than `busy-reply-threshold`.
SELDOM = {"script|kill"}


def role_of(server: Service) -> str | None:
    """`master`, or `slave` once it follows; None while it does not say."""
    try:
        with server.client() as client:
            told = client.info("replication")
    except redis.exceptions.ConnectionError:
        return None
    return told["role"] if told.get("master_link_status", "up") == "up" else None


def refusals(server: Service) -> list[object]:
    with server.client() as client:
        return client.acl_log()


def used(server: Service) -> set[str]:
    with server.client() as client:
        stats = client.info("commandstats")
    return {name.removeprefix("cmdstat_") for name, told in stats.items() if told["calls"]}


def test_a_primary_dies_and_comes_back_as_a_replica(ha: HighAvailability) -> None:
    for layout in LAYOUTS:
        publish_table(CHANGED, layout, key="id", layout=layout, endpoint=ha.endpoint("spark"))
    read_in_every_way(ha.endpoint("api"))
    for role in ("api", "airflow"):
        read_from_replicas(ha.endpoint(role))
    with Lock(ha.endpoint("airflow"), "a") as lock:
        first = lock.token
    old = ha.primary
    with old.client() as client:
        # Else what was acknowledged last may be lost, as the replicas were not waited for.
        assert client.execute_command("WAIT", 2, 10_000) == 2
    old.kill()
    until(lambda: ha.primary is not old, "a new primary", 30)
    read_in_every_way(ha.endpoint("api"))
    with Lock(ha.endpoint("airflow"), "a", wait=20) as lock:
        assert lock.token > first
    old.start()
    # Until it is told, it is a primary without replicas, and then a replica: neither takes writes.
    refused = (redis.ResponseError, redis.exceptions.ConnectionError)
    with old.client() as client, pytest.raises(refused):
        client.set("a", 1)
    until(lambda: role_of(old) == "slave", "a replica", 40)
    assert [role_of(server) for server in ha.servers].count("master") == 1
    # What Sentinels and replicas are refused, they fail to do in silence.
    for server in (*ha.servers, *ha.sentinels):
        assert refusals(server) == []
    between = granted("sentinel") | granted("replication")
    assert between - SELDOM - set().union(*map(used, ha.servers)) == set()

    # A restart forgets neither who is the primary, nor whom the others follow.
    primary = ha.primary
    for server in (primary, old):
        server.stop()
    old.start()
    assert role_of(old) != "master"
    primary.start()
    until(lambda: [role_of(s) for s in (old, primary)] == ["slave", "master"], "their roles", 30)
    # Where the primary was away for long enough, there may be a failover under way.
    until(lambda: ha.is_complete() and role_of(ha.primary) == "master", "a deployment that rests")
    sentinel = ha.sentinels[0]
    before = ha.state(sentinel)
    sentinel.stop()
    sentinel.start()
    kept = ("port", "config-epoch", "num-slaves", "num-other-sentinels")
    assert [ha.state(sentinel)[fact] for fact in kept] == [before[fact] for fact in kept]


def test_nothing_is_said_in_the_clear(ha: HighAvailability) -> None:
    for server in (*ha.servers, *ha.sentinels):
        with server.client() as client:
            assert client.execute_command("PING")
        with redis.Redis(port=server.port, retry=None) as plain:
            try:
                plain.ping()
            except redis.exceptions.ConnectionError:
                continue
        raise AssertionError(f"{server.parts} takes plain connections")


def test_a_primary_that_is_cut_off_takes_no_writes(ha: HighAvailability) -> None:
    with ha.primary.client() as client:
        assert client.config_get("min-replicas-to-write") == {"min-replicas-to-write": "1"}
        client.config_set("min-replicas-to-write", 3)
        try:
            with pytest.raises(redis.ResponseError, match="Not enough good replicas"):
                client.set("a", 1)
        finally:
            client.config_set("min-replicas-to-write", 1)


def test_a_sentinel_takes_a_new_password(secrets: Path, binaries: None, tmp_path: Path) -> None:
    own = Path(shutil.copytree(secrets, tmp_path / "secrets"))
    with Service(("state", "replicated"), own, tmp_path / "redis", tls="yes") as server:
        watching = Service(
            ("sentinel",), own, tmp_path / "sentinel", tls="yes", primary=server.address
        )
        with watching as sentinel:
            until(lambda: is_watched(server), "a Sentinel")
            with sentinel.client() as client:
                its_id = client.execute_command("SENTINEL", "MYID")
            for service in (sentinel, server):
                service.stop()
            (own / "sentinel").unlink()
            subprocess.run([DEPLOY / "secrets.sh", own], check=True, capture_output=True)
            for service in (server, sentinel):
                service.start()
            until(lambda: is_watched(server), "a Sentinel that is let in")
            with sentinel.client() as client:
                assert client.execute_command("SENTINEL", "MYID") == its_id


def is_watched(server: Service) -> bool:
    with server.client() as client:
        return "sentinel" in {one["user"] for one in client.client_list()}
