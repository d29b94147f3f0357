"""Backups of servers with more databases than a server has that nobody told otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from nexus_redis_provider.core.backups.creating import Plan, create_backup
from nexus_redis_provider.core.backups.folders import Backup
from nexus_redis_provider.core.backups.manifests import Kind
from nexus_redis_provider.core.backups.rehearsing import Comparison, rehearse
from nexus_redis_provider.core.backups.restoring import restore
from nexus_redis_provider.core.errors import RehearsalError
from nexus_redis_provider.core.monitoring.infos import Database
from nexus_redis_provider.embedded import EmbeddedServer
from tests.core.backup_servers import AT_ONCE, started
from tests.guarded import own_server

MANY = ("--databases", "64", "--appendonly", "yes")
HELD = {0: {b"a"}, 40: {b"a", b"b"}}


@pytest.fixture
def own(binary: Path) -> Iterator[EmbeddedServer]:
    with own_server(*MANY, *AT_ONCE, binary=binary) as server:
        for number, keys in HELD.items():
            with replace(server.endpoint, db=number).client() as client:
                client.mset(dict.fromkeys(keys, number))
        yield server


@pytest.fixture(params=Kind)
def backup(own: EmbeddedServer, asked: redis.Redis, root: Path, request) -> Backup:
    plan = Plan(kind=request.param, data_dir=own.directory, server_binary=own._binary)
    return create_backup(asked, root, plan)


@pytest.mark.parametrize("is_still", [True, False])
def test_all_come_back(own: EmbeddedServer, backup: Backup, is_still: bool) -> None:
    busy = Backup(backup.folder, replace(backup.manifest, is_still=is_still))
    done = rehearse(busy, compare=Comparison(source=own.endpoint), server_binary=own._binary)
    assert dict(done.databases) == {
        number: Database(keys=len(keys), expires=0) for number, keys in HELD.items()
    }
    assert (done.compared, done.different) == (3, 0)


@pytest.mark.parametrize("word", ["yes", "no"])
def test_all_are_restored(own: EmbeddedServer, backup: Backup, tmp_path: Path, word: str) -> None:
    data = tmp_path / "data"
    done = restore(backup, data, appendonly=word == "yes", server_binary=own._binary)
    assert done.keys == 3
    with started(data, *MANY, "--appendonly", word, binary=own._binary) as server:
        for number, keys in HELD.items():
            with replace(server.endpoint, db=number).client() as client:
                assert set(client.keys()) == keys


def test_keys_that_come_back_elsewhere(own: EmbeddedServer, backup: Backup, tmp_path: Path) -> None:
    """As many as there were, but not where they were."""
    one, two = (Database(keys=count, expires=0) for count in (1, 2))
    other = Backup(backup.folder, replace(backup.manifest, databases={0: two, 40: one}))
    data = tmp_path / "data"
    with pytest.raises(RehearsalError, match=r"database 0 has 1 keys, .* and had 2 and 0"):
        restore(other, data, server_binary=own._binary)
    assert list(data.iterdir()) == []
    # What was counted while others wrote says nothing.
    busy = Backup(backup.folder, replace(other.manifest, is_still=False))
    assert restore(busy, data, server_binary=own._binary).keys == 3
