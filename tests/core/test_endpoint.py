"""An endpoint says where a server is, keeps its secret, and fails in time with the cause."""

from __future__ import annotations

import pickle
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.sentinel import Sentinel

from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.endpoint import Endpoint, Node, Tls, Topology, address_of
from nexus_redis_provider.core.errors import (
    AccessDeniedError,
    ConfigurationError,
    UnreachableError,
)
from nexus_redis_provider.core.locks.protocol import who_holds
from nexus_redis_provider.core.scripts import arun, run
from nexus_redis_provider.embedded import EmbeddedServer

PASSWORD = "p@ss:word/%"
ENCODED = "p%40ss%3Aword%2F%25"


def test_the_shortest_url() -> None:
    assert Endpoint.from_url("redis://") == Endpoint()
    assert Endpoint.from_url("redis://h") == Endpoint(nodes=(Node("h", 6379),))


def test_everything_in_a_url() -> None:
    endpoint = Endpoint.from_url(
        f"rediss://us%40er:{ENCODED}@[::1]:7000/3?connect_timeout=1.5&read_timeout=2&retries=0"
        "&max_connections=7&client_name=me&ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem"
        "&ssl_keyfile=/k.pem&ssl_cert_reqs=optional&ssl_check_hostname=false"
    )
    assert endpoint == Endpoint(
        nodes=(Node("::1", 7000),),
        db=3,
        username="us@er",
        password=Secret(SecretSource.LITERAL, PASSWORD),
        tls=Tls("/ca.pem", "/c.pem", "/k.pem", "optional", check_hostname=False),
        connect_timeout=1.5,
        read_timeout=2,
        retries=0,
        max_connections=7,
        client_name="me",
    )
    assert endpoint.password.reveal() == PASSWORD


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://h", "redis://"),
        ("", "redis://"),
        ("redis:h", "redis://"),
        ("redis://h:port", "bad host, port"),
        ("redis://h:70000", "bad host, port"),
        ("redis://h:0", "port is 1 to 65535, not 0"),
        ("redis://app:0/hunter2@h", "percent-encoded"),
        ("redis://h/x", "bad host, port or database"),
        ("redis://:hunter2/xyz@h:6379/0", "percent-encoded"),
        ("redis://app:1234/hunter2@h:6379/0", "percent-encoded"),
        ("redis://:hunter2[x@h/0", "percent-encoded"),
        ("redis://:hunter2\u2100@h/0", "percent-encoded"),
        ("redis://h?retries=many", "retries"),
        ("redis://h?retries=-1", "retries"),
        ("redis://h?read_timeout=0", "read_timeout"),
        ("redis://h?nonsense=1&more=2", "more, nonsense"),
        ("redis://h?ssl_ca_certs=/ca.pem", "ssl_ca_certs"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
        ("rediss://h?ssl_check_hostname=maybe", "ssl_check_hostname"),
        ("redis://:hunter2@h?password_env=X", "once"),
        ("redis://:hunter2@h?nonsense=1", "nonsense"),
        ("redis://:hunter2@h:bad", "bad host, port"),
        ("redis://:123#hunter2@h", "percent-encoded"),
        ("redis://:123?hunter2@h", "percent-encoded"),
        ("redis://h?nonsense=", "nonsense"),
        ("redis://a..b", "host is a name or an address alone"),
        ("redis://a b", "host is a name or an address alone"),
        ("redis://h?connect_timeout=inf", "connect_timeout must be positive, and at most 86,400"),
        ("redis://h?read_timeout=nan", "read_timeout"),
        ("redis://h?pool_timeout=nan", "pool_timeout"),
        ("redis://h?health_check_interval=1e10", "health_check_interval"),
        ("redis://h?client_name=a b", "client_name"),
        ("redis://h?sentinel_password_env=HOME", "sentinel_password is for Sentinels"),
        ("rediss://h?ssl_keyfile=/k.pem", "ssl_certfile"),
        (f"unix:///{'a' * 107}", "a Unix socket, which has at most 107 bytes"),
        (f"unix:///hunter2@/{'a' * 107}", "percent-encoded"),
        ("redis://h?retries=1&client_name=a&retries=1", "gives retries more than once"),
        ("redis://h?password_env=A&password_env=B", "gives password_env more than once"),
        ("redis://h/1?db=2", "names two databases"),
        ("redis://h?password=hunter2", "before the host, as :password@"),
        ("redis://h?ssl=true", "rediss://"),
        ("redis://h?topology=sentinel", r"redis\+sentinel://"),
        ("redis://h?socket_timeout=1", r"socket_timeout \(did you mean read_timeout\?\)"),
        ("redis://h?retrys=1", r"retrys \(did you mean retries\?\)"),
        ("redis://h?nonsense=1", r"nonsense \(known are client_name, .*, ssl_keyfile\)"),
        ("redis://h?retries=1.5", "must be a whole number"),
        ("redis://:hunter2%FF@h", "percent-encoding is not that of UTF-8"),
        ("redis://h&retries=1", "host is a name or an address alone"),
    ],
)
def test_a_bad_url_is_refused_without_telling_the_password(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        Endpoint.from_url(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (" REDIS://h:1/2\n", Endpoint(nodes=(Node("h", 1),), db=2)),
        ("Rediss://h", Endpoint(nodes=(Node("h"),), tls=Tls())),
        ("redis://h?db=2", Endpoint(nodes=(Node("h"),), db=2)),
        (f"redis://h?retries={10**30}", Endpoint(nodes=(Node("h"),), retries=10**30)),
        ("redis://h/2?db=2", Endpoint(nodes=(Node("h"),), db=2)),
        ("redis://[fe80::1%25lo]", Endpoint(nodes=(Node("fe80::1%lo"),))),
    ],
)
def test_what_is_said_in_another_way(url: str, expected: Endpoint) -> None:
    assert Endpoint.from_url(url) == expected


@pytest.mark.parametrize(
    "host",
    [
        *("redis://:hunter2@h", "h:6379", "me@h", "h/0", "a b", ".", "a,b", "h&retries=1"),
        "fe80::1%lo me",
    ],
)
def test_what_is_more_than_a_host_is_refused_unseen(host: str) -> None:
    with pytest.raises(ConfigurationError, match="name or an address alone") as refused:
        Node(host)
    assert "hunter2" not in str(refused.value)


def test_an_address_of_ipv6_is_told_from_its_port() -> None:
    endpoint = Endpoint.from_url("redis://[::1]:1")
    assert str(endpoint) == address_of(endpoint.client()) == "[::1]:1/0"


@pytest.mark.parametrize(
    ("foreign", "address"),
    [
        (redis.Redis.from_url("redis://localhost"), "localhost:6379/0"),
        (redis.Redis.from_url("redis://"), "localhost:6379/0"),
        (redis.Redis.from_url("unix:///run/redis.sock?db=2"), "/run/redis.sock/2"),
        (redis.asyncio.Redis(host="::1", port="7000"), "[::1]:7000/0"),
        (Sentinel([("localhost", 1)]).master_for("state"), "state/0"),
    ],
)
def test_any_client_of_redis_py_has_an_address(foreign: Any, address: str) -> None:
    """Else an error of its server would be hidden by another one."""
    assert address_of(foreign) == address


def test_a_standalone_endpoint_has_one_node() -> None:
    with pytest.raises(ConfigurationError, match="exactly one node, not 2"):
        Endpoint(nodes=(Node(), Node()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retries", "1"),
        ("retries", 1.5),
        ("db", True),
        ("max_connections", "5"),
        ("connect_timeout", "3"),
        ("read_timeout", None),
        ("pool_timeout", "0"),
        ("topology", "ring"),
    ],
)
def test_what_is_no_such_value_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} must be .*, not {value!r}"):
        Endpoint(**{name: value})


def test_a_port_is_a_number() -> None:
    with pytest.raises(ConfigurationError, match="1 to 65535, not '6379'"):
        Node("h", "6379")


def test_a_topology_by_its_name() -> None:
    assert Endpoint(topology="cluster").is_cluster
    assert Endpoint(topology="sentinel", master="m") == Endpoint(
        topology=Topology.SENTINEL, master="m"
    )


def test_a_password_is_not_shown_and_does_not_travel() -> None:
    endpoint = Endpoint.from_url("redis://:hunter2@h")
    assert "hunter2" not in f"{endpoint!r} {endpoint} {endpoint.client()!r}"
    with pytest.raises(ConfigurationError, match="does not travel") as refused:
        pickle.dumps(endpoint)
    assert "hunter2" not in str(refused.value)


def test_a_reference_travels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NEXUS_REDIS_URL", f"redis://me:{ENCODED}@h/2")
    monkeypatch.setenv("SECRET", "from env")
    file = tmp_path / "secret"
    file.write_text("from file\n")
    for endpoint, password in (
        (Endpoint.from_env(), PASSWORD),
        (Endpoint.from_url("redis://h?password_env=SECRET"), "from env"),
        (Endpoint.from_url(f"redis://h?password_file={file}"), "from file"),
    ):
        pickled = pickle.dumps(endpoint)
        assert password.encode() not in pickled
        assert pickle.loads(pickled) == endpoint
        assert pickle.loads(pickled).password.reveal() == password


def test_a_reference_to_nothing_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NEXUS_REDIS_URL", raising=False)
    with pytest.raises(ConfigurationError, match="set NEXUS_REDIS_URL"):
        Endpoint.from_env()
    with pytest.raises(ConfigurationError, match="NOT_SET"):
        Endpoint.from_url("redis://h?password_env=NOT_SET").client()
    with pytest.raises(ConfigurationError, match="absent"):
        Endpoint.from_url(f"redis://h?password_file={tmp_path}/absent").client()


@pytest.mark.parametrize(
    "written", [b"from file\r\nmore", b"\xef\xbb\xbffrom file\n", b"from file"]
)
def test_a_password_is_the_first_line_of_its_file(written: bytes, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(written)
    assert Secret(SecretSource.FILE, str(file)).reveal() == "from file"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (b"", "empty"),
        (b"\nhunter2", "empty first line"),
        (b"h\xfcnter2", "not UTF-8"),
        ("hunter2".encode("utf-16"), "not UTF-8"),
    ],
)
def test_what_is_no_password_is_refused(written: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(written)
    with pytest.raises(ConfigurationError, match=message) as refused:
        Secret(SecretSource.FILE, str(file)).reveal()
    assert str(file) in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_an_empty_variable_has_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else who forgot to fill it would be the default user, or be told that none was given."""
    monkeypatch.setenv("SECRET", "")
    with pytest.raises(ConfigurationError, match="variable SECRET, which has none"):
        Endpoint.from_url("redis://h?password_env=SECRET").client()
    monkeypatch.setenv("URL", "redis://:hunter2@h")
    endpoint = Endpoint.from_env("URL")
    monkeypatch.setenv("URL", "redis://h")
    with pytest.raises(ConfigurationError, match="variable URL, which has none"):
        endpoint.client()


def test_a_password_that_is_no_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2\udcff")
    with pytest.raises(ConfigurationError, match="SECRET is not UTF-8") as refused:
        Secret(SecretSource.ENV, "SECRET").reveal()
    assert "hunter2" not in str(refused.value)


@pytest.fixture(scope="module")
def guarded() -> Iterator[EmbeddedServer]:
    with EmbeddedServer("--requirepass", PASSWORD) as server:
        yield server


async def test_a_wrong_password_is_denied(guarded: EmbeddedServer) -> None:
    node = guarded.endpoint.nodes[0]
    for user in ("", ":hunter2", "nobody:hunter2"):
        endpoint = Endpoint.from_url(f"redis://{user}@{node}")
        for attempt in (run, arun):
            client = endpoint.client() if attempt is run else endpoint.async_client()
            call = who_holds("a")
            with pytest.raises(AccessDeniedError, match="password") as denied:
                run(client, call) if attempt is run else await arun(client, call)
            assert str(node) in str(denied.value)
            assert "hunter2" not in str(denied.value)
            client.close() if attempt is run else await client.aclose()
    with Endpoint.from_url(f"redis://:{ENCODED}@{node}").client() as client:
        assert run(client, who_holds("a")) is None


def test_a_forbidden_command_is_denied(guarded: EmbeddedServer) -> None:
    node = guarded.endpoint.nodes[0]
    with Endpoint.from_url(f"redis://:{ENCODED}@{node}").client() as admin:
        admin.acl_setuser("reader", enabled=True, passwords=["+r"], commands=["+get"], keys=["*"])
    with (
        Endpoint.from_url(f"redis://reader:r@{node}").client() as client,
        pytest.raises(AccessDeniedError, match="permission"),
    ):
        run(client, who_holds("a"))


async def test_a_refused_port_is_named_at_once() -> None:
    endpoint = Endpoint.from_url("redis://127.0.0.1:1")
    began_at = time.monotonic()
    with endpoint.client() as client, pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1/0"):
        run(client, who_holds("a"))
    async with endpoint.async_client() as client:
        with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1/0"):
            await arun(client, who_holds("a"))
    assert time.monotonic() - began_at < 5


def test_what_is_not_redis_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = Endpoint.from_url(f"redis://127.0.0.1:{server.getsockname()[1]}?retries=0")

        def answer() -> None:
            line, _ = server.accept()
            with line:
                line.recv(4096)
                line.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with endpoint.client() as client, pytest.raises(UnreachableError, match="HTTP or another"):
            run(client, who_holds("a"))
        thread.join()


def test_a_silent_server_costs_no_more_than_its_timeouts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = replace(
            Endpoint(nodes=(Node("127.0.0.1", silent.getsockname()[1]),)),
            read_timeout=0.2,
            retries=1,
        )
        began_at = time.monotonic()
        with endpoint.client() as client, pytest.raises(UnreachableError, match=r"[Tt]imeout"):
            run(client, who_holds("a"))
        assert 0.4 <= time.monotonic() - began_at < 3
