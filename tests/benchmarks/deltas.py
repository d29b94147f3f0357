"""What a delta sends, and what it costs the server, beside a whole new version."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import redis

from nexus_redis_provider.embedded import EmbeddedServer
from nexus_redis_provider.spark import publish
from tests.benchmarks.frames import KEY, frame, session
from tests.benchmarks.tables import heading, table

_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class _Cost:
    seconds: float
    cpu: float
    received: float


def _publish(client: redis.Redis, rows: int, changed: int, mode: str) -> _Cost:
    before = client.info()
    began = time.perf_counter()
    spark = session()
    publish(
        frame(spark, rows, changed=changed),
        "bench",
        key=KEY,
        endpoint=_url(client),
        layout="packed",
        mode=mode,
    )
    seconds, after = time.perf_counter() - began, client.info()

    def spent(*names: str) -> float:
        return sum(after[name] - before[name] for name in names)

    cpu = spent("used_cpu_user", "used_cpu_sys")
    return _Cost(seconds, cpu, spent("total_net_input_bytes"))


def _url(client: redis.Redis) -> str:
    where = client.connection_pool.connection_kwargs
    return f"redis://{where['host']}:{where['port']}"


def measure(rows: int) -> None:
    """Versions of which one row in a hundred differs from the one before."""
    costs: dict[str, list[_Cost]] = {"snapshot": [], "delta": []}
    with EmbeddedServer() as server, server.endpoint.client() as client:
        for mode, found in costs.items():
            client.flushall()
            _publish(client, rows, 0, mode)
            found += [_publish(client, rows, number, mode) for number in range(1, _ROUNDS + 1)]
    session().stop()
    heading(f"A new version of {rows:,} packed rows, 1 % of them changed")
    print(f"Medians of {_ROUNDS}, the version before included that is removed.\n")
    medians = {
        mode: [
            statistics.median(getattr(cost, field) for cost in found)
            for field in ("received", "cpu", "seconds")
        ]
        for mode, found in costs.items()
    }
    whole = medians["snapshot"]
    table(
        " | MB sent | to a snapshot | CPU of Redis, s | to a snapshot | s",
        [
            [
                f"mode={mode!r}",
                *(f"{received / 1e6:.1f}", f"{received / whole[0]:.3f}"),
                *(f"{cpu:.3f}", f"{cpu / whole[1]:.3f}", f"{seconds:.2f}"),
            ]
            for mode, (received, cpu, seconds) in medians.items()
        ],
    )
