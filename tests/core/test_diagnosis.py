"""What is wrong with a deployment is told by what to correct; what is right, by what it is."""

from __future__ import annotations

import shutil
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis

from nexus_redis_provider.core import diagnosis
from nexus_redis_provider.core.diagnosis import Diagnosis, diagnose
from nexus_redis_provider.core.endpoint import Endpoint, Node, Topology
from nexus_redis_provider.core.faults import Fault
from nexus_redis_provider.embedded import EmbeddedServer, free_port
from tests.certificates import certificate, server_options
from tests.guarded import own_server
from tests.kinds import plain, single_server
from tests.proxies import FaultyProxy, Way
from tests.servers import as_user
from tests.topologies import (
    MASTER,
    ClusterDeployment,
    SentinelDeployment,
    crash,
    kill,
    until,
    watched_by,
)

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


# What works.


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


# Names, ports, and who is there.


def test_an_unknown_host() -> None:
    diagnosis = found("redis://no.such.host.invalid")
    assert_fault(diagnosis, Fault.UNKNOWN_HOST, "no.such.host.invalid:6379")


def test_a_refused_port() -> None:
    assert_fault(found("redis://127.0.0.1:1"), Fault.REFUSED, "127.0.0.1:1", "refused")


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


@single_server
def test_a_mistake_of_ours_is_not_told_of_the_server(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(diagnosis.Identity, "of", mistaken)
    with pytest.raises(KeyError, match="ours"):
        diagnose(server.endpoint)


def test_a_server_that_does_not_speak_resp3() -> None:
    with answering(b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n") as address:
        assert_fault(found(f"redis://{address}"), Fault.NO_RESP3, address)


def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    assert_fault(found(f"unix://{tmp_path}/redis.sock"), Fault.NO_SOCKET, tmp_path)


# What servers answer.


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


@single_server
def test_one_connection_is_enough(server: EmbeddedServer) -> None:
    assert found(server.endpoint, max_connections=1).fault is None


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


# TLS.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The wheel's server has no TLS.
    if shutil.which("redis-server") is None:
        pytest.skip("TLS is not tested: there is no redis-server.")
    folder = tmp_path_factory.mktemp("certificates")
    certificate(folder / "ours")
    certificate(folder / "other")
    certificate(folder / "old", days=(-3, -2))
    certificate(folder / "elsewhere", "elsewhere.example", address="")
    return folder


@contextmanager
def over_tls(folder: Path, *, of_clients: str = "no") -> Iterator[tuple[EmbeddedServer, str]]:
    """A server whose port for TLS shows a certificate, and `host:port` of that."""
    port = str(free_port())
    options = server_options(folder, of_clients=of_clients)
    with EmbeddedServer("--tls-port", port, *options) as server:
        yield server, f"127.0.0.1:{port}"


def test_tls_where_there_is_none_and_none_where_there_is(folder: Path) -> None:
    with over_tls(folder / "ours") as (server, address):
        trusted = f"?ssl_ca_certs={folder}/ours/cert.pem"
        assert found(f"rediss://{address}{trusted}").fault is None
        assert_fault(found(f"redis://{address}"), Fault.TLS_WANTED, address)
        plain = f"rediss://127.0.0.1:{server.port}{trusted}"
        assert_fault(found(plain), Fault.TLS_UNWANTED, server.port)


@pytest.mark.parametrize(
    ("shown", "trusted", "fault"),
    [
        ("ours", "ssl_ca_certs={}/other/cert.pem", Fault.UNKNOWN_CA),
        ("ours", "", Fault.UNKNOWN_CA),
        ("old", "ssl_ca_certs={}/old/cert.pem", Fault.EXPIRED_CERTIFICATE),
        ("elsewhere", "ssl_ca_certs={}/elsewhere/cert.pem", Fault.WRONG_HOST_NAME),
        ("ours", "ssl_ca_certs={}/absent.pem", Fault.CERTIFICATE_FILES),
        ("ours", "ssl_ca_certs={}/ours/key.pem", Fault.CERTIFICATE_FILES),
        (
            "ours",
            "ssl_cert_reqs=none&ssl_certfile={0}/ours/cert.pem&ssl_keyfile={0}/other/key.pem",
            Fault.CERTIFICATE_FILES,
        ),
    ],
)
def test_certificates(shown: str, trusted: str, fault: Fault, folder: Path) -> None:
    with over_tls(folder / shown) as (_, address):
        diagnosis = found(f"rediss://{address}?{trusted.format(folder)}")
        assert_fault(diagnosis, fault, address)
        if fault is Fault.CERTIFICATE_FILES:
            assert f"{folder}/" in diagnosis.message
        if fault is Fault.WRONG_HOST_NAME:
            lax = f"rediss://{address}?{trusted.format(folder)}&ssl_check_hostname=false"
            assert found(lax).fault is None


def test_a_certificate_that_strict_verification_refuses(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lax = ssl.create_default_context

    def strict() -> ssl.SSLContext:
        """What Python makes from 3.13 on."""
        context = lax()
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    with over_tls(certificate(tmp_path / "plain", authority=folder / "ours")) as (_, address):
        diagnosis = found(f"rediss://{address}?ssl_ca_certs={folder}/ours/cert.pem")
        assert_fault(diagnosis, Fault.INCOMPLETE_CERTIFICATE, address)


def test_certificates_of_clients(folder: Path) -> None:
    with over_tls(folder / "ours", of_clients="yes") as (_, address):
        url = f"rediss://{address}?ssl_ca_certs={folder}/ours/cert.pem"

        def showing(name: str) -> str:
            return (
                f"{url}&ssl_certfile={folder}/{name}/cert.pem&ssl_keyfile={folder}/{name}/key.pem"
            )

        assert found(showing("ours")).fault is None
        assert_fault(found(url), Fault.CLIENT_CERTIFICATE_WANTED, address)
        assert_fault(found(showing("other")), Fault.CLIENT_CERTIFICATE_REFUSED, address)
        assert_fault(found(f"redis://{address}"), Fault.TLS_WANTED, address)


# Topologies.


@single_server
def test_one_kind_of_deployment_in_place_of_another(server: EmbeddedServer) -> None:
    itself = server.endpoint
    address = itself.nodes[0]
    assert_fault(found(itself, topology=Topology.CLUSTER), Fault.NO_CLUSTER, address)
    watched = {
        "master": "m",
        "sentinel_username": itself.username,
        "sentinel_password": itself.password,
    }
    assert_fault(found(itself, topology=Topology.SENTINEL, **watched), Fault.NO_SENTINEL, address)


def test_sentinels() -> None:
    with SentinelDeployment(replicas=1) as deployment:
        diagnosis = found(deployment.url)
        assert diagnosis.fault is None, diagnosis.message
        assert diagnosis.message.startswith(f"Primary of '{MASTER}', 3 of 3 Sentinels answer: ")
        assert diagnosis.report.address == f"127.0.0.1:{deployment.primary.port}"
        assert diagnosis.report.replicas == 1
        one = deployment.sentinels[0]
        assert_fault(found(one.url), Fault.A_SENTINEL, one.port)
        in_a_cluster = replace(one.endpoint, topology=Topology.CLUSTER)
        assert_fault(found(in_a_cluster), Fault.A_SENTINEL, one.port)
        assert_fault(
            found(deployment.endpoint, master="orders"),
            Fault.UNKNOWN_MASTER,
            "'orders'",
            f"they watch {MASTER}",
        )
        crash(one)
        (note,) = found(deployment.url).notes
        assert note.startswith(f"port: nothing listens at Sentinel 127.0.0.1:{one.port}")
        for sentinel in deployment.sentinels[1:]:
            crash(sentinel)
        assert_fault(found(deployment.url), Fault.REFUSED, f"Sentinel 127.0.0.1:{one.port}")


def test_a_primary_that_is_down() -> None:
    with own_server() as primary:
        lines = (
            f"sentinel monitor m 127.0.0.1 {primary.port} 1",
            "sentinel down-after-milliseconds m 200",
        )
        with own_server("--sentinel", config="\n".join(lines)) as sentinel:
            watched = watched_by(sentinel, primary, "m")
            assert found(watched).fault is None
            kill(primary)
            until(lambda: found(watched).fault is Fault.PRIMARY_DOWN, "a Sentinel that notices")
            assert_fault(found(watched), Fault.PRIMARY_DOWN, "'m'")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, Fault.PASSWORD_WANTED),
        ({"sentinel_username": "watcher"}, Fault.WRONG_USER_OR_PASSWORD),
    ],
)
def test_the_password_of_a_sentinel(
    options: dict[str, str], fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRONG", PASSWORD)
    password = "&sentinel_password_env=WRONG" if options else ""
    config = "requirepass right\nsentinel monitor m 127.0.0.1 1 1"
    with EmbeddedServer("--sentinel", config=config) as sentinel:
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}?master=m{password}"
        assert_fault(found(url, **options), fault, f"Sentinel 127.0.0.1:{sentinel.port}")


@pytest.mark.parametrize("protocol", [2, 3])
def test_what_it_is_a_sentinel_tells_users_who_see_little(protocol: int, binary: Path) -> None:
    config = "user quiet on nopass +ping"
    with EmbeddedServer("--sentinel", config=config, binary=binary) as server:
        url = f"redis://quiet:any@127.0.0.1:{server.port}?protocol={protocol}"
        assert_fault(found(url), Fault.A_SENTINEL, server.port)


def test_a_cluster() -> None:
    with ClusterDeployment() as deployment:
        diagnosis = found(deployment.url)
        assert diagnosis.fault is None, diagnosis.message
        assert diagnosis.message.startswith("Cluster of 3 primaries: ")
        first, *_, last = deployment.servers
        assert_fault(found(first.url), Fault.A_CLUSTER, first.port)
        with first.endpoint.client() as client:
            client.acl_setuser("quiet", enabled=True, nopass=True, commands=["+ping"])
        quiet = as_user(first.endpoint, "quiet", "any")
        assert_fault(found(quiet), Fault.A_CLUSTER, first.port)
        with last.endpoint.client() as client:
            client.config_set("maxmemory", "50mb")
            client.config_set("maxmemory-policy", "allkeys-lru")
        (note,) = found(deployment.url).notes
        assert note.startswith(f"127.0.0.1:{last.port}: It may evict keys beyond 52,428,800 bytes")
        with last.endpoint.client() as client:
            client.config_set("maxmemory", 0)
        nodes = (Node(port=1), last.endpoint.nodes[0])
        (note,) = found(deployment.endpoint, nodes=nodes).notes
        assert note.startswith("port: nothing listens at localhost:1")
        with last.endpoint.client() as client:
            client.cluster("DELSLOTS", 16383)
        assert_fault(
            found(deployment.endpoint, nodes=nodes), Fault.CLUSTER_DOWN, "16383 slots served"
        )


def test_a_cluster_whose_nodes_tell_addresses_of_their_own_network() -> None:
    with ClusterDeployment(primaries=1) as deployment:
        with deployment.servers[0].endpoint.client() as client:
            client.config_set("cluster-announce-ip", "127.0.0.2")
        port = deployment.servers[0].port
        told = f"127.0.0.2:{port}, as the Cluster tells (cluster-announce-ip)"
        assert_fault(found(deployment.url), Fault.REFUSED, told)


def test_a_replica_leads_to_the_primaries_of_its_cluster() -> None:
    with ClusterDeployment(primaries=1, with_replicas=True) as deployment:
        replica = deployment.servers[1]
        diagnosis = found(deployment.endpoint, nodes=replica.endpoint.nodes)
        assert (diagnosis.fault, diagnosis.report.role) == (None, "slave")
        assert diagnosis.notes == ()


def test_sentinels_that_tell_an_address_of_their_own_network() -> None:
    config = "sentinel monitor m 127.0.0.2 1 1\nsentinel down-after-milliseconds m 600000"
    with EmbeddedServer("--sentinel", config=config) as sentinel:
        diagnosis = found(f"redis+sentinel://127.0.0.1:{sentinel.port}?master=m")
        told = "127.0.0.2:1, as the Sentinels tell (replica-announce-ip)"
        assert_fault(diagnosis, Fault.REFUSED, told)


def test_every_fault_is_told_whole() -> None:
    for fault in Fault:
        told = fault.told("here", "as it is.")
        assert (
            told == f"{fault.field}: {fault.what.format(where='here')} (as it is). {fault.advice}"
        )
        assert "here" in told
