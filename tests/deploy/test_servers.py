"""A server of each role boots from the files of deploy/ and keeps, or drops, what it is to."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import redis

from nexus_redis_provider.core.errors import EvictionError, StaleFenceError
from nexus_redis_provider.core.gold.tables import publish_table
from nexus_redis_provider.core.locks import Lock
from tests.deploy.jobs import CHANGED
from tests.deploy.programs import DEPLOY
from tests.deploy.services import Service

STATE = {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "everysec"}
CACHE = {"maxmemory-policy": "allkeys-lfu", "appendonly": "no", "save": ""}
OF_BOTH = {
    "maxmemory": str(512 * 2**20),
    "protected-mode": "yes",
    "lazyfree-lazy-user-del": "yes",
    "latency-monitor-threshold": "100",
}


@pytest.mark.parametrize(("role", "settings"), [("state", STATE), ("cache", CACHE)])
def test_a_role_is_configured(
    role: str, settings: dict[str, str], secrets: Path, binaries: None, tmp_path: Path
) -> None:
    with Service((role,), secrets, tmp_path / "data") as service, service.client() as client:
        wanted = settings | OF_BOTH
        assert client.config_get(*wanted) == wanted


def test_a_cache_takes_no_locks(secrets: Path, binaries: None, tmp_path: Path) -> None:
    with (
        Service(("cache",), secrets, tmp_path / "data") as service,
        pytest.raises(EvictionError, match="allkeys-lfu"),
    ):
        Lock(service.endpoint("airflow"), "a").__enter__()


def test_a_cache_has_datasets_whose_lock_is_elsewhere(
    single: Service, secrets: Path, binaries: None, tmp_path: Path
) -> None:
    with (
        Service(("cache",), secrets, tmp_path / "data", tls="yes") as cache,
        Lock(single.endpoint("airflow"), "a") as lock,
    ):
        endpoint = cache.endpoint("spark")
        publish_table(CHANGED, "sales", key="id", endpoint=endpoint, fence=lock.token)
        with pytest.raises(StaleFenceError):
            publish_table(CHANGED, "sales", key="id", endpoint=endpoint, fence=lock.token - 1)


def test_state_outlives_a_restart(secrets: Path, binaries: None, tmp_path: Path) -> None:
    with Service(("state",), secrets, tmp_path / "data") as service:
        with service.client() as client:
            client.set("a", 1)
            # Scripts are in the log as transactions, too.
            client.pipeline(transaction=True).set("b", 2).incr("b").execute()
        with Lock(service.endpoint("airflow"), "c") as lock:
            service.stop()
            service.start()
            lock.ensure_held()
        with service.client() as client:
            assert client.mget("a", "b") == ["1", "3"]


def test_another_password_counts_from_the_next_start(
    secrets: Path, binaries: None, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(secrets, tmp_path / "secrets"))
    old = (own / "spark").read_text("utf-8").strip()
    with Service(("state",), own, tmp_path / "data") as service:
        (own / "spark").unlink()
        subprocess.run([DEPLOY / "secrets.sh", own], check=True, capture_output=True)
        with service.client("spark") as client, pytest.raises(redis.AuthenticationError):
            client.ping()
        service.stop()
        service.start()
        for user in ("spark", "admin"):
            with service.client(user) as client:
                assert client.ping()
        with (
            redis.Redis(port=service.port, retry=None, username="spark", password=old) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()


def test_what_a_server_writes_is_for_its_user_alone(single: Service) -> None:
    for name in ("redis.conf", "users.acl"):
        assert (single.data / name).stat().st_mode & 0o077 == 0
    # The passwords of users are hashes there; only that of replicas is not.
    for user in ("admin", "airflow", "spark", "api", "exporter"):
        password = (single.secrets / user).read_text("utf-8").strip()
        assert password not in (single.data / "users.acl").read_text("utf-8")
        assert password not in (single.data / "redis.conf").read_text("utf-8")


def test_it_is_unhealthy_while_it_does_not_answer(
    secrets: Path, binaries: None, tmp_path: Path
) -> None:
    with Service(("state",), secrets, tmp_path / "data") as service:
        assert service.is_healthy()
        service.stop()
        assert not service.is_healthy()
