"""Servers of deploy/, started by the very script that docker-compose.yml starts them by."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import redis

from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.endpoint import Endpoint, Node, Tls
from nexus_redis_provider.embedded import free_port
from tests.deploy.programs import DEPLOY
from tests.topologies import until

START = DEPLOY / "redis/start.sh"


@dataclass
class Service:
    """One of them, on this machine.

    Args:
        parts: what `start.sh` is called with.
        secrets: the folder that `secrets.sh` has filled.
        data: a folder of its own.
        tls: the variable TLS.
        primary: the variable PRIMARY; by default the server itself.
    """

    parts: tuple[str, ...]
    secrets: Path
    data: Path
    tls: str = ""
    primary: str = ""
    port: int = field(default_factory=free_port)

    def __enter__(self) -> Self:
        self.data.mkdir(exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """Of the service's scripts."""
        return os.environ | {
            "SECRETS": str(self.secrets),
            "DATA": str(self.data),
            "PORT": str(self.port),
            # The second is one that no certificate has.
            "BIND": "127.0.0.1 -127.0.0.2 -::1",
            "NAME": "localhost",
            "PRIMARY": self.primary or self.address,
            "TLS": self.tls,
        }

    @property
    def address(self) -> str:
        """As PRIMARY names it."""
        return f"localhost {self.port}"

    def start(self) -> None:
        """Start, or start again; returns when it answers."""
        log = self.data / "log"
        with log.open("wb") as output:
            command = [START, *self.parts]
            self._process = subprocess.Popen(
                command, env=self.environment, stdout=output, stderr=output
            )

        def answers() -> bool:
            assert self._process.poll() is None, log.read_text(errors="replace")[-2000:]
            return self.is_healthy()

        try:
            until(answers, f"{self.parts} that answers")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it; harmless when it has ended."""
        self._process.terminate()
        # A primary waits up to ten seconds for replicas that have not got all yet.
        self._process.wait(60)

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        self._process.wait(10)

    def is_healthy(self) -> bool:
        """Whether the health check of its container succeeds."""
        check = subprocess.run(
            [DEPLOY / "redis/healthy.sh"], env=self.environment, capture_output=True, check=False
        )
        return check.returncode == 0

    def endpoint(self, user: str) -> Endpoint:
        """As a user of a role reaches it."""
        tls = Tls(
            ca_certs=str(self.secrets / "ca.crt"),
            certfile=str(self.secrets / "client.crt") if self.tls == "mutual" else None,
            keyfile=str(self.secrets / "client.key") if self.tls == "mutual" else None,
        )
        return Endpoint(
            nodes=(Node("localhost", self.port),),
            username=user,
            password=Secret(SecretSource.FILE, str(self.secrets / user)),
            tls=tls if self.tls else None,
        )

    def client(self, user: str = "admin") -> redis.Redis:
        """Text, and no further tries."""
        return replace(self.endpoint(user), retries=0).client(decode_responses=True)
