"""URLs of Sentinel and Cluster deployments say the same everywhere, or what is wrong with them."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from nexus_redis_provider.core.addresses import nodes_of
from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.endpoint import Endpoint, Node, Tls, Topology
from nexus_redis_provider.core.errors import ConfigurationError

PASSWORD = "p@ss:word/%"
ENCODED = "p%40ss%3Aword%2F%25"


def test_everything_in_a_url_of_sentinels() -> None:
    endpoint = Endpoint.from_url(
        f"rediss+sentinel://us%40er:{ENCODED}@one:1,two,[::1]:3/4?master=state&retries=0"
        "&sentinel_username=watcher&sentinel_password_env=WATCH&ssl_ca_certs=/ca.pem"
    )
    assert endpoint == Endpoint(
        nodes=(Node("one", 1), Node("two", 26379), Node("::1", 3)),
        topology=Topology.SENTINEL,
        master="state",
        db=4,
        username="us@er",
        password=Secret(SecretSource.LITERAL, PASSWORD),
        sentinel_username="watcher",
        sentinel_password=Secret(SecretSource.ENV, "WATCH"),
        tls=Tls(ca_certs="/ca.pem"),
        retries=0,
    )
    assert not endpoint.is_cluster


def test_everything_in_a_url_of_a_cluster() -> None:
    endpoint = Endpoint.from_url("rediss+cluster://me@one:1,two?password_file=/p&max_connections=3")
    assert endpoint == Endpoint(
        nodes=(Node("one", 1), Node("two", 6379)),
        topology=Topology.CLUSTER,
        username="me",
        password=Secret(SecretSource.FILE, "/p"),
        tls=Tls(),
        max_connections=3,
    )
    assert endpoint.is_cluster


def test_no_host_is_this_machine() -> None:
    assert Endpoint.from_url("redis+cluster://").nodes == (Node(),)
    assert Endpoint.from_url("redis+sentinel://?master=m").nodes == (Node("localhost", 26379),)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sentinel://h?master=m", r"redis\+sentinel://"),
        ("redis-sentinel://h?master=m", r"redis\+sentinel://"),
        ("redis+nonsense://h", r"redis\+cluster://"),
        ("redis+cluster:h", "starts with"),
        ("redis://a,b", "exactly one node, not 2; for several"),
        ("redis+sentinel://h", r"add \?master=NAME"),
        ("redis+sentinel://h?master=", r"add \?master=NAME"),
        ("redis+sentinel://a:1,b:port?master=m", "bad host, port"),
        ("redis+sentinel://a,,b?master=m", "host"),
        ("redis+sentinel://a,?master=m", "host"),
        ("redis+sentinel://:1,b:2?master=m", "host"),
        ("redis+sentinel://a:1;b:2?master=m", "bad host, port"),
        ("redis+cluster://a:1,b:0", "port is 1 to 65535, not 0"),
        ("redis+cluster://a:1,b:70000", "bad host, port"),
        ("redis+cluster://a:1,[::1:2", "bad host, port"),
        ("redis+cluster://h/1", "only database 0, not 1"),
        ("redis+cluster://h/x", "bad host, port or database"),
        ("redis+cluster://h?master=m", "master='m' is for Sentinels"),
        ("redis://h?master=m", "master='m' is for Sentinels"),
        ("redis://h?sentinel_username=u", "sentinel_username='u' is for Sentinels"),
        ("redis+cluster://h?sentinel_password_env=P", "is for Sentinels"),
        ("redis+sentinel://h?master=m&sentinel_password=hunter2", "sentinel_password_env=NAME"),
        ("redis+sentinel://h?master=m&sentinel_password_env=A&sentinel_password_file=b", "once"),
        ("redis+sentinel://:hunter2@h?master=m&password_env=A", "once"),
        ("redis+sentinel://h?master=m&service=x", "service"),
        ("redis+sentinel://h?master=m&ssl_ca_certs=/ca.pem", "ssl_ca_certs"),
        ("redis+sentinel://h?master=m&retries=x", "has retries='x', which must be a whole number"),
        ("redis+sentinel://u:hunter2/x@a:1,b:2?master=m", "percent-encoded"),
        ("redis+cluster://u:hunter2@a:1,b:c", "percent-encoded"),
        ("redis+cluster://u:hunter2[@a:1,b:2", "percent-encoded"),
        ("rediss+cluster://u:hunter2@a?ssl_cert_reqs=maybe", "'maybe'"),
    ],
)
def test_a_bad_url_is_refused_without_telling_the_password(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        Endpoint.from_url(url)
    assert "hunter2" not in str(refused.value)


def test_an_endpoint_has_nodes() -> None:
    with pytest.raises(ConfigurationError, match="needs a node, such as localhost:6379"):
        Endpoint(nodes=(), topology=Topology.CLUSTER)


@pytest.mark.parametrize("text", ["", "a,", "a b", "a/1", "u@a", "a?x", "a:b", "a:0", "[::1", "a#"])
def test_a_list_of_hosts_is_one(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not host:port"):
        nodes_of(text, 7000)


def test_hosts_are_listed() -> None:
    assert nodes_of("a, b:1,[::2]:3", 7000) == (Node("a", 7000), Node("b", 1), Node("::2", 3))


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://me:hunter2@one,two?master=state",
        "redis+cluster://me:hunter2@one,two",
    ],
)
def test_a_password_is_not_shown_and_does_not_travel(url: str) -> None:
    endpoint = Endpoint.from_url(url)
    assert "hunter2" not in f"{endpoint!r} {endpoint}"
    if not endpoint.is_cluster:
        assert "hunter2" not in repr(endpoint.client())
    with pytest.raises(ConfigurationError, match="does not travel"):
        pickle.dumps(endpoint)
    assert {endpoint: 1}[Endpoint.from_url(url)] == 1


def test_the_sentinels_password_is_not_shown_and_does_not_travel() -> None:
    secret = Secret(SecretSource.LITERAL, "hunter2")
    endpoint = Endpoint(topology=Topology.SENTINEL, master="m", sentinel_password=secret)
    assert "hunter2" not in f"{endpoint!r} {endpoint} {endpoint.client()!r}"
    with pytest.raises(ConfigurationError, match="does not travel"):
        pickle.dumps(endpoint)


def test_a_reference_travels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("from file\n")
    url = f"redis+sentinel://me:{ENCODED}@one,[::1]:2/3?master=m&sentinel_password_file={file}"
    monkeypatch.setenv("NEXUS_REDIS_URL", url)
    endpoint = Endpoint.from_env()
    pickled = pickle.dumps(endpoint)
    assert PASSWORD.encode() not in pickled
    found = pickle.loads(pickled)
    assert found == endpoint
    assert found.password.reveal() == PASSWORD
    assert found.sentinel_password.reveal() == "from file"


def test_one_server_of_a_deployment() -> None:
    whole = Endpoint.from_url(
        "rediss+sentinel://me@one,two/3?master=m&password_env=P&sentinel_password_env=S&retries=7"
    )
    assert whole.at(Node("three", 1)) == Endpoint.from_url(
        "rediss://me@three:1/3?password_env=P&retries=7"
    )
