"""Backups of a whole Cluster: all nodes at once, and back into new nodes with the same slots."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.backups import creating
from nexus_redis_provider.core.backups.creating import Plan, create_backup
from nexus_redis_provider.core.backups.digests import digests
from nexus_redis_provider.core.backups.folders import Backup, find_backup, verify
from nexus_redis_provider.core.backups.manifests import MANIFEST, Kind
from nexus_redis_provider.core.backups.rehearsing import Comparison, rehearse
from nexus_redis_provider.core.backups.restoring import restore
from nexus_redis_provider.core.backups.shares import shares_of
from nexus_redis_provider.core.clusters import Primary, primaries_of
from nexus_redis_provider.core.endpoint import Endpoint, Topology
from nexus_redis_provider.core.errors import (
    BackupError,
    ConfigurationError,
    CorruptBackupError,
    RehearsalError,
    SaveFailedError,
)
from nexus_redis_provider.core.keyspace.walks import scan
from nexus_redis_provider.core.monitoring.infos import Database
from nexus_redis_provider.embedded import EmbeddedServer, free_port
from tests.conftest import need_server
from tests.core.backup_servers import AT_ONCE, HOUR_MS, started
from tests.core.conftest import SERVERS
from tests.guarded import own_server
from tests.servers import as_user
from tests.topologies import DOWN_AFTER_MS, ClusterDeployment, until

KEYS = 303


@pytest.fixture(scope="module")
def filled(deployment: ClusterDeployment) -> ClusterDeployment:
    fill(deployment.endpoint)
    return deployment


@pytest.fixture
def client(filled: ClusterDeployment) -> Iterator[redis.Redis]:
    with filled.endpoint.client() as client:
        yield client


def fill(cluster: Endpoint) -> None:
    soon = int(time.time() * 1000) + HOUR_MS
    with cluster.client() as client:
        for number in range(KEYS - 3):
            client.set(b"key:\xff%d" % number, b"\x00\xff" * number, pxat=soon + number)
        client.rpush("list", *range(500))
        client.hset("hash", mapping={f"f{number}": "x" * number for number in range(300)})
        client.xadd("stream", {"f": "v"}, id="5-1")


def contents(cluster: Endpoint) -> dict[bytes, Any]:
    """What every key holds."""
    found = {}
    with cluster.client(protocol=3) as client:
        for primary in primaries_of(client):
            keys = sorted(scan(primary.client))
            found |= dict(zip(keys, digests(primary.client, keys), strict=True))
    return found


@pytest.mark.parametrize(("kind", "appendonly"), [("path", True), ("wheel", False)])
def test_a_cluster_that_is_gone_comes_back(
    root: Path, tmp_path: Path, kind: str, appendonly: bool
) -> None:
    """As docs/backup.md describes it."""
    binary: Any = need_server(SERVERS[kind])
    log = ("--appendonly", "yes" if appendonly else "no")
    with ClusterDeployment(binary=binary, server_options=log) as old:
        fill(old.endpoint)
        # So that the slots of two nodes are in more than one piece.
        old.move_slot("list")
        before = contents(old.endpoint)
        with old.endpoint.client() as client:
            backup = create_backup(client, root, Plan(server_binary=binary))
    assert len(before) == KEYS
    with ExitStack() as stack:
        nodes = dict[EmbeddedServer, int]()
        for one in backup.by_server:
            data = tmp_path / one.folder.name
            done = restore(one, data, server_binary=binary)
            assert (done.keys, done.appendonly) == (one.manifest.keys, appendonly)
            node, bus = stack.enter_context(started_node(data, *log, binary=binary))
            nodes[node] = bus
        first, *others = nodes
        for other in others:
            meet(first, other, nodes[other])
        until(lambda: all(map(is_ready, nodes)), "a Cluster that is ready")
        endpoint = replace(first.endpoint, topology=Topology.CLUSTER)
        assert contents(endpoint) == before
        with endpoint.client() as client:
            client.set("new", "x")
        # Nodes that start again know each other, and still have all.
        first.stop()
        first.start()
        until(lambda: all(map(is_ready, nodes)), "a Cluster that is ready again")
        assert before.items() <= contents(endpoint).items()
        empty = tmp_path / "replica"
        replica, bus = stack.enter_context(started_node(empty, *log, binary=binary))
        meet(first, replica, bus)
        with first.endpoint.client() as primary, replica.endpoint.client() as client:
            until(lambda: is_ready(replica), "a replica that knows the others")
            client.cluster("REPLICATE", primary.cluster("MYID").decode())
            until(lambda: client.dbsize() == primary.dbsize() > 0, "a replica that follows")


@contextmanager
def started_node(data: Path, *options: str, binary: Path) -> Iterator[tuple[EmbeddedServer, int]]:
    """A node of a Cluster with its data in this directory, and the port of its bus."""
    data.mkdir(exist_ok=True)
    bus = free_port()
    node = ("--cluster-enabled", "yes", "--cluster-port", str(bus))
    fast = ("--cluster-node-timeout", str(DOWN_AFTER_MS), *AT_ONCE)
    with started(data, *node, *fast, *options, binary=binary) as server:
        yield server, bus


def meet(one: EmbeddedServer, other: EmbeddedServer, bus: int) -> None:
    with one.endpoint.client() as client:
        client.cluster("MEET", "127.0.0.1", other.port, bus)


def is_ready(server: EmbeddedServer) -> bool:
    with server.endpoint.client() as client:
        return bool(client.cluster("INFO")["cluster_state"] == "ok")


def test_what_it_says_of_itself(filled: ClusterDeployment, client: Any, root: Path) -> None:
    backup = create_backup(client, root)
    manifest = backup.manifest
    assert manifest == Backup.open(root / manifest.name).manifest
    assert manifest.kind is Kind.RDB
    assert manifest.address == f"Cluster {','.join(map(str, filled.endpoint.nodes))}"
    assert (manifest.keys, manifest.expires, manifest.is_still) == (KEYS, KEYS - 3, True)
    assert manifest.databases == {0: Database(keys=KEYS, expires=KEYS - 3)}
    assert (manifest.offset, manifest.files) == (None, ())
    names = [f"{manifest.name}/node-{number}" for number in (1, 2, 3)]
    assert [part.name for part in manifest.parts] == names
    assert manifest.bytes == sum(part.bytes for part in manifest.parts)
    served = {}
    for server in filled.servers:
        with server.endpoint.client() as node:
            served[f"127.0.0.1:{server.port}"] = node.dbsize()
    assert {part.address: part.keys for part in manifest.parts} == served
    assert min(slots for part in manifest.parts for slots in part.slots)[0] == 0
    on_disk = {str(one.relative_to(backup.folder)) for one in backup.folder.rglob("*.*")}
    assert on_disk == {MANIFEST, *(f"node-{number}/dump.rdb" for number in (1, 2, 3))}
    assert {one.stat().st_mode & 0o777 for one in backup.folder.glob("node-*")} == {0o700}


def test_it_is_verified_and_rehearsed(filled: ClusterDeployment, client: Any, root: Path) -> None:
    backup = create_backup(client, root)
    counts = verify(backup)
    assert counts is not None
    assert counts.keys == KEYS
    compare = Comparison(source=filled.endpoint)
    done = rehearse(backup, compare=compare)
    assert (done.keys, done.compared, done.different) == (KEYS, KEYS, 0)
    # Or one part of it.
    part = find_backup(root, f"{backup.manifest.name}/node-2")
    done = rehearse(part, compare=compare)
    assert 0 < done.keys == done.compared < KEYS
    client.set("new", "x")
    try:
        with pytest.raises(RehearsalError, match=rf"1 of {KEYS + 1} keys that were sampled"):
            rehearse(backup, compare=compare)
    finally:
        client.delete("new")


def test_it_is_compared_where_slots_are_by_now(
    filled: ClusterDeployment, client: Any, root: Path
) -> None:
    """Not where they were when it was made, nor with what has come from other nodes since."""
    backup = create_backup(client, root)
    for key in ("list", "stream"):
        filled.move_slot(key)
    compare = Comparison(source=filled.endpoint)
    done = rehearse(backup, compare=compare)
    assert (done.keys, done.compared, done.different) == (KEYS, KEYS, 0)
    for part in backup.by_server:
        done = rehearse(part, compare=compare)
        assert (done.keys, done.compared) == (part.manifest.keys, part.manifest.keys)
    with filled.moving("list"):
        assert rehearse(backup, compare=compare).different == 0
    client.delete("list")
    try:
        with pytest.raises(RehearsalError, match=rf"1 of {KEYS} keys that were sampled"):
            rehearse(backup, compare=compare)
    finally:
        client.rpush("list", *range(500))


def test_digests_of_keys_that_move(filled: ClusterDeployment) -> None:
    """What is asked for again comes in another form."""
    names = [b"list", b"hash", b"stream", b"set", b"zset"]
    with filled.endpoint.client(protocol=3) as client:
        client.sadd("set", *range(100))
        client.zadd("zset", {"a": 1.5, "b": float("inf")})
        before = digests(client, names)
        for name in names:
            with filled.moving(name.decode()):
                assert digests(client, names) == before
            assert digests(client, names) == before
        client.delete("set")
        client.delete("zset")
    assert None not in before


def test_the_rights_that_a_comparison_needs(
    filled: ClusterDeployment, client: Any, root: Path
) -> None:
    """As docs/backup.md has them."""
    backup = create_backup(client, root)
    rights = ["-@all", "+@read", "+info", "+asking", "+cluster|slots", "+command", "~*"]
    for server in filled.servers:
        with server.endpoint.client() as node:
            node.execute_command("ACL", "SETUSER", "reader", "on", "nopass", *rights)
    compare = Comparison(source=as_user(filled.endpoint, "reader", "x"))
    with filled.moving("list"):
        assert rehearse(backup, compare=compare).compared == KEYS


def test_only_like_is_compared_with_like(
    filled: ClusterDeployment, client: Any, root: Path
) -> None:
    whole = create_backup(client, root)
    server = filled.servers[0]
    with server.endpoint.client() as node:
        single = create_backup(node, root)
    for backup, source in ((whole, server.endpoint), (single, filled.endpoint)):
        with pytest.raises(ConfigurationError, match="cannot be compared with"):
            rehearse(backup, compare=Comparison(source=source))
    # The node of a part may be named itself.
    part = next(
        one for one in whole.by_server if one.manifest.address == str(server.endpoint.nodes[0])
    )
    assert rehearse(part, compare=Comparison(source=server.endpoint)).different == 0


def meanwhile(monkeypatch: pytest.MonkeyPatch, action: Any) -> None:
    """Do something once, when one of the snapshots is there."""
    real, done = creating._Maker.of_all, list[bool]()

    def of_all(*args: Any) -> Any:
        parts = real(*args)
        done or action()
        done.append(True)
        return parts

    monkeypatch.setattr(creating._Maker, "of_all", of_all)


@pytest.mark.parametrize("times", [1, 2])
def test_a_slot_that_moves_meanwhile(
    filled: ClusterDeployment, client: Any, root: Path, monkeypatch: Any, times: int
) -> None:
    """Also where it moves away and back again."""
    owners = [filled.server_of("list")]

    def move() -> None:
        owners.append(filled.move_slot("list"))
        if times == 2:
            with filled.moving("list", to=owners[0], keys=100):
                pass

    meanwhile(monkeypatch, move)
    ports = "|".join(str(server.port) for server in filled.servers)
    with pytest.raises(BackupError, match=rf"Slots moved.*127\.0\.0\.1:({ports}) had \d.*epoch"):
        create_backup(client, root)
    assert list(root.iterdir()) == []
    # The next one is of the nodes that have them now.
    assert create_backup(client, root).manifest.keys == KEYS


def test_a_slot_that_is_on_its_way(filled: ClusterDeployment, client: Any, root: Path) -> None:
    with filled.moving("list"), pytest.raises(BackupError, match=r"are on their way .*: \d+\."):
        create_backup(client, root)
    assert not root.exists()


def test_a_slot_that_no_node_has(root: Path) -> None:
    with ClusterDeployment(server_options=("--cluster-require-full-coverage", "no")) as cluster:
        with cluster.servers[0].endpoint.client() as node:
            node.cluster("DELSLOTSRANGE", 5, 7)
        with (
            cluster.endpoint.client() as client,
            pytest.raises(BackupError, match="no node has slots 5-7"),
        ):
            create_backup(client, root)
    assert not root.exists()


def test_a_node_that_has_no_slot_any_more(client: Any) -> None:
    """As one that gave its last slot away after the client had asked who has some."""
    # Its bus would else be 10,000 above its own port, where it may be in use, or too high.
    bus = str(free_port())
    with (
        own_server("--cluster-enabled", "yes", "--cluster-port", bus) as empty,
        empty.endpoint.client() as its,
        pytest.raises(BackupError, match="localhost:1 has just lost its last slots"),
    ):
        shares_of([*primaries_of(client), Primary("localhost:1", its, 0.0)])


def test_one_node_fails_and_the_others_stop(
    client: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers, went_on = count(), list[bool]()

    def receive(_: Any, write: Any, **__: Any) -> Any:
        if next(numbers) == 1:
            raise SaveFailedError("somewhere", "it broke off")
        # As of a server that has much to send.
        for _ in range(6000):
            write(b"x")
            time.sleep(0.01)
        went_on.append(True)

    monkeypatch.setattr(creating, "receive_snapshot", receive)
    with pytest.raises(SaveFailedError, match="it broke off"):
        create_backup(client, root)
    assert not went_on
    assert list(root.iterdir()) == []


def test_one_node_fails_before_the_others_have_begun(
    filled: ClusterDeployment, client: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers wait for further replicas, and nobody waits for that."""
    numbers, real = count(), creating.receive_snapshot

    def receive(*args: Any, **options: Any) -> Any:
        if next(numbers) == 1:
            raise SaveFailedError("somewhere", "it broke off")
        return real(*args, **options)

    monkeypatch.setattr(creating, "receive_snapshot", receive)
    nodes = [primary.client for primary in primaries_of(client)]
    forks = [node.info("stats")["total_forks"] for node in nodes]
    for node in nodes:
        node.config_set("repl-diskless-sync-delay", 60)
    try:
        with pytest.raises(SaveFailedError, match="it broke off"):
            create_backup(client, root)
    finally:
        for node in nodes:
            node.config_set("repl-diskless-sync-delay", 0)
    assert [node.info("stats")["total_forks"] for node in nodes] == forks
    assert list(root.iterdir()) == []


def test_there_is_no_one_data_directory(client: Any, root: Path, tmp_path: Path) -> None:
    for kind in Kind:
        with pytest.raises(ConfigurationError, match="each has a data directory of its own"):
            create_backup(client, root, Plan(kind=kind, data_dir=tmp_path))
    assert not root.exists()


def test_its_parts_are_restored_one_by_one(client: Any, root: Path, tmp_path: Path) -> None:
    backup = create_backup(client, root)
    name, data = backup.manifest.name, tmp_path / "data"
    with pytest.raises(ConfigurationError, match=f"{name}/node-1, {name}/node-2, {name}/node-3"):
        restore(backup, data)
    assert not data.exists()
    with pytest.raises(BackupError, match=f"no backup {name}/node-4; there is {name}/node-1, "):
        find_backup(root, f"{name}/node-4")
    for wrong in (f"{name}/../x", f"../{name}", f"{name}/node-1/x"):
        with pytest.raises((ConfigurationError, BackupError)):
            find_backup(root, wrong)
    data.mkdir()
    (data / "nodes.conf").write_text("of before")
    part = find_backup(root, f"{name}/node-1")
    with pytest.raises(ConfigurationError, match=r"not empty: nodes\.conf"):
        restore(part, data)
    done = restore(part, data, replace=True)
    assert done.set_aside is not None
    assert (done.set_aside / "nodes.conf").read_text() == "of before"
    assert "myself,master" in (data / "nodes.conf").read_text()


def test_a_manifest_without_all_slots(client: Any, root: Path) -> None:
    backup = create_backup(client, root)
    file = backup.folder / MANIFEST
    facts = json.loads(file.read_text())
    # Slots that moved in other tests are ranges of their own.
    *others, (first, last) = sorted(
        facts["parts"][1]["slots"], key=lambda found: found[1] - found[0]
    )
    facts["parts"][1]["slots"] = [[first, last - 1], *others]
    file.write_text(json.dumps(facts))
    with pytest.raises(CorruptBackupError, match=f"no node has slots {last}"):
        verify(Backup.open(backup.folder))
    facts["parts"][1]["slots"] = [[first, last], [first, first], *others]
    file.write_text(json.dumps(facts))
    with pytest.raises(CorruptBackupError, match=f"more than one node has slots {first}"):
        rehearse(Backup.open(backup.folder))


def test_a_part_that_is_damaged(client: Any, root: Path) -> None:
    backup = create_backup(client, root)
    file = backup.folder / "node-3" / "dump.rdb"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CorruptBackupError, match=rf"{backup.manifest.name}/node-3.*dump\.rdb has"):
        verify(backup)
