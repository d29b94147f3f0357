"""Airflow connections become endpoints and clients, or errors that name what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.providers.redis.hooks.redis import RedisHook
from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.endpoint import Endpoint, Node, Tls, Topology
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.embedded import EmbeddedServer
from nexus_redis_provider.hooks.redis import NexusRedisHook, endpoint_of
from tests.guarded import in_role, own_server
from tests.kinds import single_server
from tests.topologies import ClusterDeployment, watched_by
from tests.urls import connection_uri

PASSWORD = "correct horse"


def connection(extra: dict[str, Any] | None = None, **fields: Any) -> Connection:
    defaults = {"conn_id": "c", "conn_type": "nexus_redis", "host": "h"}
    return Connection(**defaults | fields, extra=json.dumps(extra or {}))


def test_the_simplest_connection() -> None:
    assert endpoint_of(connection()) == Endpoint(nodes=(Node("h"),))


def test_every_field() -> None:
    endpoint = endpoint_of(
        connection(
            {
                "db": 3,
                "ssl": True,
                "ssl_cert_reqs": "optional",
                "ssl_check_hostname": False,
                "ssl_ca_certs": "/ca.pem",
                "ssl_certfile": "/c.pem",
                "ssl_keyfile": "/k.pem",
                "connect_timeout": 1,
                "read_timeout": "2.5",
                "retries": "0",
                "max_connections": 7,
                "client_name": "me",
            },
            port=7000,
            login="user",
            password=PASSWORD,
        )
    )
    assert endpoint.password is not None
    assert endpoint.password.reveal() == PASSWORD
    assert endpoint == Endpoint(
        nodes=(Node("h", 7000),),
        db=3,
        username="user",
        password=endpoint.password,
        tls=Tls("/ca.pem", "/c.pem", "/k.pem", "optional", check_hostname=False),
        connect_timeout=1,
        read_timeout=2.5,
        retries=0,
        max_connections=7,
        client_name="me",
    )


def test_sentinels() -> None:
    extra = {
        "topology": "sentinel",
        "nodes": "i, j:7",
        "master": "state",
        "sentinel_username": "watcher",
        "sentinel_password": PASSWORD,
        "db": 2,
        "ssl": True,
    }
    endpoint = endpoint_of(connection(extra, login="me"))
    assert endpoint == Endpoint(
        nodes=(Node("h", 26379), Node("i", 26379), Node("j", 7)),
        topology=Topology.SENTINEL,
        master="state",
        sentinel_username="watcher",
        sentinel_password=Secret(SecretSource.LITERAL, PASSWORD),
        db=2,
        username="me",
        tls=Tls(),
    )
    assert PASSWORD not in repr(endpoint)


def test_a_cluster_in_our_words_and_in_the_official_ones() -> None:
    ours = endpoint_of(connection({"topology": "cluster", "nodes": "i:1,h:2"}, port=2))
    official = connection({"cluster": True, "startup_nodes": "i:1"}, port=2, conn_type="redis")
    assert ours == endpoint_of(official)
    assert ours == Endpoint(nodes=(Node("h", 2), Node("i", 1)), topology=Topology.CLUSTER)


def test_what_a_form_leaves_empty_does_not_count() -> None:
    extra = {"db": None, "ssl": False, "ssl_ca_certs": "", "ssl_cert_reqs": "required"}
    official = extra | {"cluster": False, "startup_nodes": None, "ssl_check_hostname": False}
    plain = Endpoint(nodes=(Node("h"),))
    assert endpoint_of(connection(extra, password="", schema="", login="")) == plain
    assert endpoint_of(connection(official, conn_type="redis")) == plain


@pytest.mark.parametrize("conn_type", ["nexus_redis", "redis"])
def test_numbers_of_json_may_stand_for_true_and_false(conn_type: str) -> None:
    on, off = ({"ssl": n, "cluster": n, "ssl_check_hostname": n} for n in (1, 0))
    assert endpoint_of(connection(on, conn_type=conn_type)) == Endpoint(
        nodes=(Node("h"),), topology=Topology.CLUSTER, tls=Tls()
    )
    assert endpoint_of(connection(off, conn_type=conn_type)) == Endpoint(nodes=(Node("h"),))


@pytest.mark.parametrize("text", ["None", "none", "False"])
def test_a_password_that_looks_like_none(text: str) -> None:
    """It is what it is, as in a URL; but the official hook takes it for none."""
    sentinels = {"topology": "sentinel", "master": "m", "sentinel_password": text}
    ours = endpoint_of(connection(sentinels, password=text))
    assert ours.password == ours.sentinel_password == Secret(SecretSource.LITERAL, text)
    theirs = endpoint_of(connection(sentinels, password=text, conn_type="redis"))
    assert theirs.password is theirs.sentinel_password is None


@pytest.mark.parametrize("typed", ["::1", "[::1]", " ::1 ", "[::1] "])
def test_a_host_as_it_is_typed_or_pasted(typed: str) -> None:
    assert endpoint_of(connection(host=typed, port=7)).nodes == (Node("::1", 7),)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("nexus-redis://h:1/4", Endpoint(nodes=(Node("h", 1),), db=4)),
        ("redis://h/?db=4", Endpoint(nodes=(Node("h"),), db=4)),
        ("redis://h/4?db=4", Endpoint(nodes=(Node("h"),), db=4)),
        ("rediss://h", Endpoint(nodes=(Node("h"),), tls=Tls())),
        ("redis://h/?ssl=true", Endpoint(nodes=(Node("h"),), tls=Tls())),
        ("redis://h/?ssl=1", Endpoint(nodes=(Node("h"),), tls=Tls())),
    ],
)
def test_uris(uri: str, expected: Endpoint) -> None:
    assert endpoint_of(Connection(conn_id="c", uri=uri)) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conn_type": "http"}, "'c' has the type 'http', not 'nexus_redis'"),
        ({"conn_type": "redis+sentinel"}, "nexus-redis://, and says by topology=sentinel"),
        ({"host": None}, "'c' has no host"),
        ({"host": " "}, "'c' has no host"),
        ({"host": "a,b", "extra": {"cluster": True}}, "further hosts in their own places"),
        ({"extra": {"ssl_ca_certs": "/ca.pem"}}, "has ssl_ca_certs, but no TLS; say ssl=true"),
        ({"extra": {"ssl": False, "ssl_keyfile": "/k.pem"}}, "has ssl_keyfile, but no TLS"),
        ({"extra": {"nonsense": 1, "more": 2}}, "unknown option.*more, nonsense"),
        ({"extra": {"cluster": "perhaps"}}, "cluster='perhaps'"),
        ({"extra": {"startup_nodes": "a:1"}}, "startup_nodes='a:1', but one server"),
        ({"extra": {"nodes": "a:1"}}, "nodes='a:1', but one server"),
        ({"extra": {"topology": "ring"}}, "topology='ring', .* standalone, sentinel, cluster"),
        ({"extra": {"topology": "sentinel", "cluster": True}}, "topology='sentinel', and .*one"),
        ({"extra": {"topology": "sentinel"}}, "needs the name of the master"),
        ({"extra": {"master": "m"}}, "master='m' is for Sentinels"),
        ({"extra": {"topology": "cluster", "db": 1}}, "only database 0, not 1"),
        ({"extra": {"cluster": True, "nodes": "a:b"}}, "'c' has a bad extra nodes: 'a:b' in 'a:b'"),
        ({"extra": {"db": "x"}}, "'x'"),
        ({"extra": {"db": 1}, "schema": "2"}, "two databases"),
        ({"extra": {"retries": "many"}}, "retries='many'"),
        ({"extra": {"retries": -1}}, "retries"),
        ({"extra": {"read_timeout": 0}}, "read_timeout"),
        ({"extra": {"ssl": "maybe"}}, "ssl='maybe'"),
        ({"extra": {"ssl": 2}}, "ssl=2, which must be true or false"),
        ({"port": 0}, "port is 1 to 65535, not 0"),
        ({"extra": {"ssl": True, "ssl_cert_reqs": "require"}}, "ssl_cert_reqs"),
        ({"extra": {"ssl": True, "ssl_check_hostname": 7}}, "ssl_check_hostname=7"),
        ({"extra": {"retries": float("inf")}}, "retries=inf"),
        ({"extra": {"connect_timeout": True}}, "connect_timeout=True"),
        ({"extra": {"cluster": True, "nodes": f":{PASSWORD}@a:1"}}, "bad extra nodes"),
        ({"extra": {"nodes": f":{PASSWORD}@a:1"}}, "has nodes, but one server"),
        ({"host": f"redis://:{PASSWORD}@h"}, "host is a name or an address alone"),
        ({"extra": [1, 2]}, "not a JSON object"),
        ({"extra": "retries=1"}, "not a JSON object"),
    ],
)
def test_a_wrong_connection_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        endpoint_of(connection(**fields, password=PASSWORD))
    assert str(refused.value).startswith("Airflow connection 'c'")
    assert PASSWORD not in str(refused.value)


def test_extras_that_are_no_json_are_refused() -> None:
    for text in ("retries=1", "{'retries': 1}", "{"):
        with pytest.raises(ConfigurationError, match="'c' has extras that are not a JSON object"):
            endpoint_of(Connection(conn_id="c", conn_type="nexus_redis", host="h", extra=text))
    for text in ("", " { } ", "null", None):
        empty = Connection(conn_id="c", conn_type="nexus_redis", host="h", extra=text)
        assert endpoint_of(empty) == Endpoint(nodes=(Node("h"),))


def test_one_client_until_closed() -> None:
    with NexusRedisHook() as hook:
        assert isinstance(hook, RedisHook)
        client = hook.get_conn()
        assert client is hook.get_conn()
        assert client.ping()
    reopened = hook.get_conn()
    assert reopened is not client
    assert reopened.ping()
    hook.close()
    hook.close()


def test_official_connections_do() -> None:
    with NexusRedisHook("redis_default") as hook:
        assert hook.get_conn().ping()


async def test_async_clients_are_the_callers() -> None:
    hook = NexusRedisHook()
    async with await hook.get_async_conn() as first, await hook.get_async_conn() as second:
        assert first is not second
        assert await first.ping()
        assert await second.ping()
    assert await hook.get_endpoint() == hook.endpoint


async def test_an_absent_connection() -> None:
    with pytest.raises(AirflowNotFoundException, match="absent"):
        NexusRedisHook("absent").get_conn()
    with pytest.raises(AirflowNotFoundException, match="absent"):
        await NexusRedisHook("absent").get_async_conn()


@single_server
def test_connection_test_introduces_the_server(endpoint: Endpoint) -> None:
    good, message = NexusRedisHook().test_connection()
    assert good
    assert message.startswith(("Standalone: redis ", "Standalone: valkey "))
    user = in_role(endpoint, "airflow").username or "default"
    assert f"role master, 0 replica(s), user {user}, eviction policy noeviction" in message
    assert " ms" in message


@pytest.fixture(scope="module")
def guarded() -> Iterator[Node]:
    with EmbeddedServer("--requirepass", PASSWORD) as server:
        node = server.endpoint.nodes[0]
        with endpoint_of(
            connection(host=node.host, port=node.port, password=PASSWORD)
        ).client() as c:
            # Without CLIENT SETNAME no client with a name gets in.
            commands = ["+ping", "+client|setname"]
            c.acl_setuser("narrow", enabled=True, passwords=["+narrow-pw"], commands=commands)
        yield node


@pytest.mark.parametrize(
    ("uri", "good", "expected"),
    [
        ("nexus-redis://:correct%20horse@{node}", True, "user default"),
        ("nexus-redis://narrow:narrow-pw@{node}", True, "may not see INFO"),
        ("nexus-redis://:hunter2@{node}", False, "password: the password of the default user"),
        ("nexus-redis://{node}", False, "password: {node} wants a password"),
        ("nexus-redis://127.0.0.1:1", False, "port: nothing listens at 127.0.0.1:1"),
        ("nexus-redis://no.such.host.invalid", False, "host: the host's name in no.such.host"),
        ("nexus-redis://{node}/?typo=1", False, "unknown option(s): typo"),
    ],
)
def test_connection_test_tells_the_cause(
    uri: str, good: bool, expected: str, guarded: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_TRIED", uri.format(node=guarded))
    result, message = NexusRedisHook("tried").test_connection()
    assert result is good, message
    assert expected.format(node=guarded) in message
    assert "hunter2" not in message
    assert PASSWORD not in message


async def test_a_hook_of_sentinels(monkeypatch: pytest.MonkeyPatch) -> None:
    with own_server() as server:
        config = f"sentinel monitor state 127.0.0.1 {server.port} 1"
        with own_server("--sentinel", config=config) as sentinel:
            uri = connection_uri("nexus-redis", watched_by(sentinel, server))
            monkeypatch.setenv("AIRFLOW_CONN_WATCHED", uri)
            good, message = NexusRedisHook("watched").test_connection()
            assert good, message
            assert message.startswith("Primary of 'state', 1 of 1 Sentinels answer: ")
            assert f" at 127.0.0.1:{server.port} answers" in message
            async with await NexusRedisHook("watched").get_async_conn() as client:
                assert (await client.info("server"))["tcp_port"] == server.port
            monkeypatch.setenv("AIRFLOW_CONN_WATCHED", uri.replace("=state", "=other"))
            good, message = NexusRedisHook("watched").test_connection()
            assert not good
            assert message.startswith("Sentinel master name: no Sentinel of master 'other'")
            assert "they watch state" in message


async def test_a_hook_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    with ClusterDeployment(primaries=1) as deployment:
        node = deployment.endpoint.nodes[0]
        uri = connection_uri("nexus-redis", deployment.endpoint)
        monkeypatch.setenv("AIRFLOW_CONN_WHOLE", uri)
        good, message = NexusRedisHook("whole").test_connection()
        assert good, message
        assert message.startswith("Cluster of 1 primaries: ")
        assert f" at {node} answers" in message
        async with await NexusRedisHook("whole").get_async_conn() as client:
            assert await client.set("a", "b")
