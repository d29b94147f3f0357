"""A server is told by what it is; what it answers instead, by what to correct."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from nexus_redis_provider.core import diagnosis
from nexus_redis_provider.core.diagnosis import diagnose
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.faults import Fault
from nexus_redis_provider.embedded import EmbeddedServer
from tests.core.diagnoses import PASSWORD, assert_fault, found, listener
from tests.guarded import own_server
from tests.kinds import plain, single_server
from tests.servers import as_user
from tests.topologies import until


@single_server
def test_a_server_introduces_itself(server: EmbeddedServer, client: redis.Redis) -> None:
    diagnosis = found(server.url)
    user = server.endpoint.username or "default"
    assert diagnosis.fault is None
    assert diagnosis.notes == ()
    report = diagnosis.report
    info = client.info()
    assert report.server == info.get("server_name", "redis")
    assert report.version == info[f"{report.server}_version"]
    assert (report.role, report.user, report.policy) == ("master", user, "noeviction")
    assert (report.mode, report.maxmemory, report.replicas) == ("standalone", 0, 0)
    assert 0 < report.latency < 1
    assert diagnosis.message.startswith(f"Standalone: {report.server} {report.version} at 127.")
    for part in (" ms; role master", f"0 replica(s), user {user}, eviction policy noeviction"):
        assert part in diagnosis.message


def test_what_it_may_not_be_used_for_is_noted(binary: Path) -> None:
    evict = ("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru")
    with own_server(*evict, binary=binary) as primary:
        follow = ("--replicaof", f"127.0.0.1 {primary.port}")
        with own_server(*follow, binary=binary) as replica:
            with primary.endpoint.client() as client:
                until(lambda: client.info("replication")["connected_slaves"], "a replica")
            (note,) = found(primary.url).notes
            assert note.startswith("It may evict keys beyond 52,428,800 bytes")
            assert found(primary.url).report.replicas == 1
            assert found(replica.url).report.role == "slave"
            assert found(replica.url).notes == ("It is a replica: it takes no writes.",)


@single_server
def test_who_may_see_little_is_told_little(server: EmbeddedServer, client: redis.Redis) -> None:
    commands = ["+ping"]
    client.acl_setuser("narrow", enabled=True, passwords=[f"+{PASSWORD}"], commands=commands)
    try:
        diagnosis = found(as_user(server.endpoint, "narrow", PASSWORD))
    finally:
        client.acl_deluser("narrow")
    assert diagnosis.fault is None
    assert "to user unknown, who may not see INFO" in diagnosis.message
    assert diagnosis.report.version is None


@single_server
def test_one_connection_is_enough(server: EmbeddedServer) -> None:
    assert found(server.endpoint, max_connections=1).fault is None


@single_server
def test_a_mistake_of_ours_is_not_told_of_the_server(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(diagnosis.Identity, "of", mistaken)
    with pytest.raises(KeyError, match="ours"):
        diagnose(server.endpoint)


# What it answers instead.


def test_protected_mode() -> None:
    # Only other machines meet it.
    with listener(b"-DENIED Redis is running in protected mode because ...\r\n") as address:
        assert_fault(found(f"redis://{address}"), Fault.PROTECTED_MODE, address)


def test_loading(binary: Path) -> None:
    with own_server(binary=binary) as own:
        with own.endpoint.client() as client:
            client.mset({f"key {n}": "x" * 100 for n in range(4000)})
            client.save()
        own.stop()
        # It sees to its clients between two keys, at times.
        slow = ("--key-load-delay", "250", "--loading-process-events-interval-bytes", "1024")
        own._arguments = (*own._arguments, *slow)
        starting = threading.Thread(target=own.start)
        starting.start()
        until(lambda: found(own.url).fault is Fault.LOADING, "a server that loads")
        starting.join()
        assert found(own.url).fault is None


def test_a_replica_without_its_primary(binary: Path) -> None:
    with own_server(binary=binary) as replica:
        with replica.endpoint.client() as client:
            client.config_set("replica-serve-stale-data", "no")
            client.replicaof("127.0.0.1", "1")
        assert_fault(found(replica.url), Fault.PRIMARY_AWAY, replica.port)


def test_too_many_clients(binary: Path) -> None:
    with own_server("--maxclients", "2", binary=binary) as own, ExitStack() as lines:
        for _ in range(2):
            line = socket.create_connection(("127.0.0.1", own.port))
            lines.callback(line.close)
        # Over TLS it hangs up before the handshake, with no word of why.
        fault = Fault.HANGS_UP if own.endpoint.tls else Fault.TOO_MANY_CLIENTS
        assert_fault(found(own.url), fault, own.port)


@single_server
def test_a_database_that_is_not_there(server: EmbeddedServer) -> None:
    for database in (99, 2**40):
        diagnosis = found(server.endpoint, db=database)
        assert_fault(diagnosis, Fault.DATABASE, "out of range")


@pytest.fixture(scope="module")
def guarded(binary: Path) -> Iterator[str]:
    """`host:port` of a server with a password."""
    with EmbeddedServer("--requirepass", "right", binary=binary) as guarded:
        with Endpoint.from_url(f"redis://:right@127.0.0.1:{guarded.port}").client() as admin:
            admin.acl_setuser("mute", enabled=True, nopass=True, commands=["+get"])
        yield f"127.0.0.1:{guarded.port}"


@pytest.mark.parametrize(
    ("user", "fault"),
    [
        ("", Fault.PASSWORD_WANTED),
        (f":{PASSWORD}@", Fault.WRONG_PASSWORD),
        (f"nobody:{PASSWORD}@", Fault.WRONG_USER_OR_PASSWORD),
        (f"mute:{PASSWORD}@", Fault.FORBIDDEN),
    ],
)
def test_passwords_and_permissions(user: str, fault: Fault, guarded: str) -> None:
    assert_fault(found(f"redis://{user}{guarded}"), fault, guarded)


@plain
def test_a_password_where_there_is_none(server: EmbeddedServer) -> None:
    address = f":{PASSWORD}@127.0.0.1:{server.port}"
    # RESP3's HELLO takes any password then.
    assert_fault(found(f"redis://{address}?protocol=2"), Fault.PASSWORD_UNWANTED, server.port)


def test_every_fault_is_told_whole() -> None:
    for fault in Fault:
        told = fault.told("here", "as it is.")
        assert (
            told == f"{fault.field}: {fault.what.format(where='here')} (as it is). {fault.advice}"
        )
        assert "here" in told
