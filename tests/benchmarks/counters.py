"""What a server and processes have done between two looks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import psutil
import redis


@dataclass(frozen=True, slots=True)
class Look:
    """Counters at one moment; their difference is what happened in between.

    Attributes:
        at: monotonic seconds.
        commands: that the server ran, those within scripts included.
        requests: reads from sockets, which are round trips where nobody pipelines.
        server_cpu: seconds.
        client_cpu: seconds, of all the processes looked at.
    """

    at: float
    commands: int
    requests: int
    server_cpu: float
    client_cpu: float

    @classmethod
    def at_once(cls, client: redis.Redis, pids: Iterable[int] = ()) -> Self:
        stats, cpu = client.info("stats"), client.info("cpu")
        return cls(
            at=time.monotonic(),
            commands=stats["total_commands_processed"],
            requests=stats["total_reads_processed"],
            server_cpu=cpu["used_cpu_sys"] + cpu["used_cpu_user"],
            client_cpu=sum(map(_cpu, pids)),
        )

    def until(self, later: Look) -> Look:
        """The difference, without the two commands that a look itself costs."""
        return Look(
            at=later.at - self.at,
            commands=later.commands - self.commands - 2,
            requests=later.requests - self.requests - 2,
            server_cpu=later.server_cpu - self.server_cpu,
            client_cpu=later.client_cpu - self.client_cpu,
        )


def _cpu(pid: int) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = psutil.Process(pid).cpu_times()
        return times.user + times.system
    return 0.0
