"""Backups by an operator: made, rehearsed, and the old ones removed last."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nexus_redis_provider.core.backups.folders import Backup, verify
from nexus_redis_provider.core.backups.manifests import MANIFEST
from nexus_redis_provider.core.errors import ConfigurationError, RehearsalError, UnreachableError
from nexus_redis_provider.embedded import EmbeddedServer
from nexus_redis_provider.operators.backup import RedisBackupOperator
from tests.core.backup_servers import AT_ONCE, fill
from tests.guarded import own_server
from tests.topologies import ClusterDeployment
from tests.urls import connection_uri


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedServer]:
    with own_server("--appendonly", "yes", *AT_ONCE) as own:
        fill(own)
        monkeypatch.setenv("AIRFLOW_CONN_OWN", connection_uri("nexus-redis", own.endpoint))
        yield own


@pytest.fixture
def backup(own: EmbeddedServer, tmp_path: Path) -> Any:
    def backup(**options: Any) -> dict[str, Any]:
        defaults = {"folder": str(tmp_path / "backups"), "redis_conn_id": "own"}
        return RedisBackupOperator(task_id="backup", **defaults | options).execute({})

    return backup


def names(tmp_path: Path) -> list[str]:
    return sorted(one.name for one in (tmp_path / "backups").iterdir())


def test_a_backup(backup: Any, tmp_path: Path) -> None:
    facts = backup(rehearse=True, compare=True)
    found = Backup.open(Path(facts["path"]))
    verify(found)
    assert facts == {
        "name": found.manifest.name,
        "path": str(tmp_path / "backups" / found.manifest.name),
        "kind": "rdb",
        "created_at": found.manifest.created_at.isoformat(),
        "bytes": found.manifest.bytes,
        "keys": 207,
        "offset": found.manifest.offset,
        "removed": [],
    }


def test_a_log(own: EmbeddedServer, backup: Any) -> None:
    facts = backup(kind="aof", data_dir=str(own.directory), rehearse=True)
    assert (facts["kind"], facts["keys"], facts["offset"]) == ("aof", None, None)


def test_a_cluster(deployment: ClusterDeployment, backup: Any, monkeypatch: Any) -> None:
    uri = connection_uri("nexus-redis", deployment.endpoint)
    monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", uri)
    with deployment.endpoint.client() as client:
        client.mset_nonatomic({f"{number}": "x" for number in range(100)})
    facts = backup(redis_conn_id="cluster", rehearse=True, compare=True, keep=1)
    assert (facts["kind"], facts["keys"], facts["offset"]) == ("rdb", 100, None)
    assert len(Backup.open(Path(facts["path"])).by_server) == 3


def test_old_ones_go_last(backup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = backup()["name"], backup()["name"]
    facts = backup(keep=2)
    assert facts["removed"] == [first]
    assert names(tmp_path) == [second, facts["name"]]

    def fail(*_: Any, **__: Any) -> None:
        raise RehearsalError("b", "nothing came back")

    monkeypatch.setattr("nexus_redis_provider.operators.backup.rehearse", fail)
    with pytest.raises(RehearsalError):
        backup(keep=1, rehearse=True)
    assert len(names(tmp_path)) == 3


def test_the_one_just_made_stays(backup: Any, tmp_path: Path) -> None:
    """Where the clock of the host that made another one is ahead."""
    ahead = backup()
    path = Path(ahead["path"], MANIFEST)
    facts = json.loads(path.read_text()) | {"created_at": "2999-01-01T00:00:00+00:00"}
    path.write_text(json.dumps(facts))
    made = backup(keep=1)
    assert made["removed"] == []
    assert names(tmp_path) == sorted([ahead["name"], made["name"]])


def test_a_source_that_has_gone_on(own: EmbeddedServer, backup: Any, monkeypatch: Any) -> None:
    from nexus_redis_provider.operators import backup as module

    real = module.create_backup

    def create(*args: Any) -> Backup:
        made = real(*args)
        with own.endpoint.client() as client:
            client.set("small", "other")
        return made

    monkeypatch.setattr(module, "create_backup", create)
    with pytest.raises(RehearsalError, match="1 of 207 keys"):
        backup(rehearse=True, compare=True)
    backup(rehearse=True, compare=True, tolerance=0.5)


def test_no_server(backup: Any, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError):
        backup(redis_conn_id="nowhere")
    assert not (tmp_path / "backups").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"compare": True}, "give rehearse=True"),
        ({"keep": 0}, "keep must be a whole number of at least 1, not 0"),
        ({"keep": True}, "keep must be a whole number of at least 1, not True"),
        ({"keep": 1.5}, "keep must be a whole number of at least 1, not 1.5"),
        ({"keep": "7"}, "keep must be a whole number of at least 1, not '7'"),
        ({"keep_for": -1}, "keep_for must be a positive number"),
        ({"timeout": 0}, "timeout must be a positive number"),
        ({"sample": 0}, "sample must be a whole number of at least 1, not 0"),
        ({"sample": "5"}, "sample must be a whole number of at least 1, not '5'"),
        ({"tolerance": 2}, "tolerance must be a number from 0 to 1, not 2"),
        ({"tolerance": "0.1"}, "tolerance must be a number from 0 to 1, not '0.1'"),
        ({"tolerance": float("nan")}, "tolerance must be a number from 0 to 1, not nan"),
    ],
)
def test_an_operator_that_is_not_built(options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        RedisBackupOperator(task_id="backup", folder="/backups", **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"folder": ""}, "must have a name, not ''"),
        ({"folder": None}, "must have a name, not None"),
        ({"kind": "x"}, "kind must be one of rdb, aof, not 'x'"),
        ({"kind": "aof"}, "say where that is"),
        (
            {"rehearse": True, "scratch": "/nowhere"},
            "scratch must be a folder that is there, not '/nowhere'",
        ),
        ({"rehearse": True, "modules": "/no.so"}, "modules must be a list of files, not '/no.so'"),
        ({"rehearse": True, "modules": ["/no.so"]}, "There is no module /no.so"),
    ],
)
def test_templates_that_make_no_sense(
    backup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, said: str
) -> None:
    """Are known when they are filled in, and no backup is made with them."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=said):
        backup(**options)
    assert list(tmp_path.iterdir()) == []
