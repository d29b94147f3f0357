"""Secrets as an installation has them, and servers started as docker-compose.yml starts them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import CLOSING
from tests.deploy.deployments import Cluster, HighAvailability
from tests.deploy.programs import DEPLOY, need
from tests.deploy.services import Service


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for line in CLOSING:
                item.add_marker(pytest.mark.filterwarnings(line))


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `deploy/secrets.sh` has filled."""
    need("openssl")
    folder = tmp_path_factory.mktemp("secrets")
    subprocess.run([DEPLOY / "secrets.sh", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def binaries() -> None:
    """What `start.sh` and `healthy.sh` call."""
    need("redis-server")
    need("redis-cli")


@pytest.fixture(scope="module")
def single(
    secrets: Path, binaries: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The service `redis`."""
    with Service(("state",), secrets, tmp_path_factory.mktemp("redis") / "data") as service:
        yield service


@pytest.fixture(scope="module")
def ha(
    secrets: Path, binaries: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HighAvailability]:
    """The profile `ha`."""
    with HighAvailability(secrets, tmp_path_factory.mktemp("ha")) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def cluster(
    secrets: Path, binaries: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """The profile `cluster`."""
    with Cluster(secrets, tmp_path_factory.mktemp("cluster")) as deployment:
        yield deployment
