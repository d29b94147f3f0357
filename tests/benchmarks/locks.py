"""`make bench-locks`: our locks beside those of other libraries, on one server, in turns.

ROUNDS (25), WAITERS (1000), QUEUERS (10000) and SECONDS (30) in the environment change the size. On
a noisy machine, read the figures as ratios within one run.
"""

from __future__ import annotations

import os

from nexus_redis_provider.embedded import EmbeddedServer
from tests.benchmarks import contended, uncontended, waiting
from tests.benchmarks.tables import conditions

ROUNDS = int(os.environ.get("ROUNDS", "25"))
WAITERS = int(os.environ.get("WAITERS", "1000"))


def main() -> None:
    with EmbeddedServer() as server:
        with server.endpoint.client() as client:
            print(conditions(client, "redis", "hiredis", "python-redis-lock", "pottery"))
        uncontended.measure(server, ROUNDS)
        contended.one_waiter(server, hand_offs=2 * ROUNDS)
        contended.many_waiters(server, max(1, WAITERS // 10), seconds=6)
        contended.many_waiters(server, WAITERS, seconds=6)
    waiting.measure()


if __name__ == "__main__":
    main()
