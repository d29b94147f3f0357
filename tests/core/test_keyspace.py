"""All keys of a server, or of a Cluster: gone through, removed, weighed."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import (
    AccessDeniedError,
    ConfigurationError,
    RefusedError,
    UnreachableError,
)
from nexus_redis_provider.core.keyspace.patterns import beginning_with, literal
from nexus_redis_provider.core.keyspace.walks import Deletion, delete, scan
from nexus_redis_provider.core.keyspace.weights import big_keys, memory_of, weigh
from nexus_redis_provider.embedded import find_server
from tests.conftest import need_server
from tests.core.conftest import SERVERS
from tests.core.gold_datasets import user
from tests.guarded import own_server
from tests.topologies import ClusterDeployment, kill

MANY = 100_000


def write(client: Any, keys: list[bytes], value: bytes = b"x") -> None:
    # No MSET, whose keys must be in one slot.
    for start in range(0, len(keys), 10_000):
        pipe = client.pipeline(transaction=False)
        for key in keys[start : start + 10_000]:
            pipe.set(key, value)
        pipe.execute()


@pytest.fixture(scope="module", params=SERVERS)
def many(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """A server of its own with 100,000 keys: a tenth of them is of sessions."""
    binary: Any = need_server(SERVERS[request.param])
    with own_server(binary=binary) as server, server.endpoint.client() as client:
        names = (b"session" if number % 10 == 0 else b"row" for number in range(MANY))
        write(client, [b"%s:%d" % (name, number) for number, name in enumerate(names)])
        yield client


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterDeployment]:
    need_server(find_server)
    with ClusterDeployment() as cluster:
        yield cluster


@pytest.fixture
def spread(cluster: ClusterDeployment) -> Iterator[Any]:
    with cluster.endpoint.client() as client:
        yield client
        for server in cluster.servers:
            with server.endpoint.client() as node:
                node.flushall()


def test_a_large_keyspace(many: redis.Redis) -> None:
    found = Counter(scan(many, "session:*"))
    assert len(found) == MANY // 10
    assert found[b"session:99990"] == 1
    assert sum(1 for _ in scan(many)) == MANY
    # Counted first, and nothing has gone.
    assert delete(many, "session:*", dry_run=True) == Deletion(found=MANY // 10, deleted=0)
    assert many.dbsize() == MANY
    assert delete(many, "session:*") == Deletion(found=MANY // 10, deleted=MANY // 10)
    assert many.dbsize() == MANY - MANY // 10
    assert delete(many, "session:*") == Deletion(0, 0)


def test_nobody_is_held_up(many: redis.Redis) -> None:
    before = many.info("commandstats")
    delete(many, "absent:*")
    after = many.info("commandstats")
    assert after["cmdstat_scan"]["calls"] > before["cmdstat_scan"]["calls"] + MANY // 2000
    assert not {"cmdstat_keys", "cmdstat_del"} & set(after)


@pytest.mark.parametrize(
    "name",
    [
        b"a*",
        b"a?b",
        b"[a-c]",
        b"\\",
        b"\\*",
        b"a^b",
        b"\xff\x00\n",
        "ünï".encode(),
        b"a-b",
        b"{x}*",
    ],
)
def test_a_text_that_is_meant_as_it_stands(
    client: redis.Redis, namespace: str, name: bytes
) -> None:
    here = namespace.encode()
    others = [b"a", b"aXb", b"b", b"\\\\", b"aa", b"a*b", b"ab", b"{x}y"]
    for key in {name, name + b":1", *others}:
        client.set(here + key, 1, ex=60)
    assert set(scan(client, literal(here + name))) == {here + name}
    longer = {here + key for key in {name, name + b":1", *others} if key.startswith(name)}
    assert set(scan(client, beginning_with(here + name))) == longer
    assert delete(client, beginning_with(here + name)).deleted == len(longer)
    assert not client.exists(*longer)


def test_only_keys_of_a_type(client: redis.Redis, namespace: str) -> None:
    client.set(f"{namespace}:s", 1, ex=60)
    client.hset(f"{namespace}:h", "f", 1)
    assert list(scan(client, f"{namespace}:*", kind="hash")) == [f"{namespace}:h".encode()]
    assert delete(client, f"{namespace}:*", kind="hash") == Deletion(1, 1)
    assert client.exists(f"{namespace}:s")
    # SCAN looks at no letter's case.
    assert delete(client, f"{namespace}:*", kind="HASH") == Deletion(0, 0)
    # Newer servers refuse the types of modules that they do not have.
    with contextlib.suppress(RefusedError):
        assert list(scan(client, f"{namespace}:*", kind="ReJSON-RL")) == []


@pytest.mark.parametrize("call", [scan, delete])
def test_a_type_that_no_key_has(client: redis.Redis, call: Any) -> None:
    with pytest.raises(ConfigurationError, match="the type 'hsh'; the types are string, list"):
        list(call(client, "*", kind="hsh"))


@pytest.mark.parametrize("call", [scan, delete, weigh, big_keys])
def test_an_empty_pattern_is_refused(client: redis.Redis, call: Any) -> None:
    with pytest.raises(ConfigurationError, match="of every key it is"):
        list(call(client, ""))
    with pytest.raises(ConfigurationError, match="give the pattern"):
        beginning_with("")


def test_who_may_not_unlink(client: redis.Redis, endpoint: Endpoint, namespace: str) -> None:
    client.set(f"{namespace}:a", 1, ex=60)
    # The latter two only in a Cluster.
    rights = ("~*", "+scan", "+cluster|slots", "+command")
    with user(client, endpoint, "looks", *rights) as onlooking, onlooking.client() as onlooker:
        assert delete(onlooker, f"{namespace}:*", dry_run=True).found == 1
        with pytest.raises(AccessDeniedError, match="unlink"):
            delete(onlooker, f"{namespace}:*")
    assert client.exists(f"{namespace}:a")


def fill(client: Any, namespace: str) -> list[tuple[bytes, str, int]]:
    """Keys of every type from the largest on, with their lengths."""
    names = {
        name: f"{namespace}:{name}".encode()
        for name in ("string", "hash", "list", "set", "zset", "stream")
    }
    client.set(names["string"], b"x" * 300_000)
    client.hset(names["hash"], mapping={f"{number}": b"x" * 2000 for number in range(100)})
    client.rpush(names["list"], *(b"x" * 1000 for _ in range(120)))
    client.sadd(names["set"], *(b"%d" % number + b"x" * 600 for number in range(110)))
    client.zadd(names["zset"], {f"{number}" + "x" * 300: number for number in range(90)})
    client.xadd(names["stream"], {"f": b"x" * 3000})
    lengths = {"string": 300_000, "hash": 100, "list": 120, "set": 110, "zset": 90, "stream": 1}
    return [(names[kind], kind, length) for kind, length in lengths.items()]


def test_big_keys(client: redis.Redis, namespace: str) -> None:
    filled = fill(client, namespace)
    for key, _, _ in filled:
        client.expire(key, 60)
    found = big_keys(client, f"{namespace}:*", top=10, samples=0)
    assert [(one.key, one.type, one.length) for one in found] == filled
    assert [one.bytes for one in found] == [
        client.memory_usage(key, samples=0) for key, _, _ in filled
    ]
    assert big_keys(client, f"{namespace}:*", top=2, samples=0) == found[:2]
    weight = weigh(client, f"{namespace}:*", samples=0)
    assert (weight.keys, weight.largest) == (6, found[0].bytes)
    assert weight.bytes == sum(one.bytes for one in found)
    assert weight.mean == weight.bytes / 6
    given = [filled[0][0], f"{namespace}:absent".encode()]
    assert memory_of(client, given) == {given[0]: found[0].bytes}


@pytest.mark.parametrize("key", ["a:b", b"a:b"])
def test_one_key_is_not_a_list_of_its_letters(client: redis.Redis, key: str | bytes) -> None:
    with pytest.raises(ConfigurationError, match=f"not the one key {key!r}"):
        memory_of(client, key)


def test_big_keys_of_many(many: redis.Redis) -> None:
    # So far apart that the allocator gives no two of them the same size.
    lengths = [1000 * 2**number for number in range(10)]
    for number, length in enumerate(lengths):
        many.set(f"big:{number}", b"x" * length)
    found = big_keys(many, top=5)
    assert [one.key for one in found] == [b"big:%d" % number for number in range(9, 4, -1)]
    assert [one.length for one in found] == lengths[:4:-1]
    total = weigh(many)
    assert total.keys == many.dbsize()
    assert total.largest == found[0].bytes
    delete(many, "big:*")


@pytest.mark.parametrize("options", [{"top": 0}, {"samples": -1}])
def test_bad_numbers_are_refused(client: redis.Redis, namespace: str, options: Any) -> None:
    client.set(f"{namespace}:a", 1, ex=60)
    with pytest.raises(ConfigurationError, match="must be"):
        big_keys(client, f"{namespace}:*", **options)


def test_all_nodes_of_a_cluster(spread: Any, cluster: ClusterDeployment) -> None:
    keys = [b"key:%d" % number for number in range(MANY)]
    write(spread, keys)
    spread.set("other", 1)
    sizes = []
    for server in cluster.servers:
        with server.endpoint.client() as node:
            sizes.append(node.dbsize())
    assert min(sizes) > MANY // 4
    assert set(scan(spread, "key:*")) == set(keys)
    spread.set("key:big", b"x" * 100_000)
    assert [one.key for one in big_keys(spread, top=1)] == [b"key:big"]
    assert weigh(spread).keys == MANY + 2
    assert delete(spread, "key:*", dry_run=True) == Deletion(MANY + 1, 0)
    assert delete(spread, "key:*") == Deletion(MANY + 1, MANY + 1)
    assert list(scan(spread)) == [b"other"]


def test_a_slot_that_has_moved(spread: Any, cluster: ClusterDeployment) -> None:
    keys = [b"{moved}:%d" % number for number in range(50)]
    write(spread, keys)
    # The client does not know yet.
    cluster.move_slot("{moved}")
    assert delete(spread, "{moved}:*") == Deletion(50, 50)


def test_a_node_that_is_gone() -> None:
    need_server(find_server)
    with ClusterDeployment() as cluster, cluster.endpoint.client() as client:
        write(client, [b"key:%d" % number for number in range(300)])
        gone = cluster.server_of("key:1")
        kill(gone)
        with pytest.raises(UnreachableError, match=str(gone.port)):
            list(scan(client))
