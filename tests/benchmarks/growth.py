"""How a publish grows: its speed, the driver's memory, and that of each Python worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from nexus_redis_provider.embedded import EmbeddedServer
from nexus_redis_provider.spark import publish
from tests.benchmarks.frames import KEY, frame, session
from tests.benchmarks.tables import heading, table

_SIZES = (0.1, 1, 10)


class _Peaks:
    """The most memory that a process of each kind has had, MB."""

    def __init__(self) -> None:
        self.worker = self.driver = 0.0

    def look(self, server_pid: int) -> None:
        me = psutil.Process()
        for process in me.children(recursive=True):
            try:
                name, size = process.name(), process.memory_info().rss / 1e6
            except psutil.NoSuchProcess:
                continue
            if name.startswith("python") and process.pid != server_pid:
                self.worker = max(self.worker, size)
        self.driver = max(self.driver, me.memory_info().rss / 1e6)


@contextmanager
def _watched(peaks: _Peaks, server_pid: int) -> Iterator[None]:
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            peaks.look(server_pid)

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield
    done.set()
    watcher.join()


def measure(rows: int) -> None:
    """A tenth of the rows, all of them, and ten times as many."""
    lines = []
    for layout in ("json", "packed"):
        with EmbeddedServer() as server, server.endpoint.client() as client:
            spark = session()
            publish(frame(spark, 10_000), "bench", key=KEY, endpoint=server.endpoint, layout=layout)
            pid = client.info("server")["process_id"]
            for size in _SIZES:
                client.flushall()
                peaks, count = _Peaks(), int(rows * size)
                df = frame(spark, count)
                with _watched(peaks, pid):
                    began = time.perf_counter()
                    publish(
                        df,
                        "bench",
                        key=KEY,
                        endpoint=server.endpoint,
                        layout=layout,
                        expected_rows=count,
                    )
                    took = time.perf_counter() - began
                lines.append(
                    [
                        f"{layout}, {count:,} rows",
                        f"{count / took:,.0f}",
                        f"{peaks.driver:.0f}",
                        f"{peaks.worker:.0f}",
                    ]
                )
            spark.stop()
    heading("Growth")
    print("Memory of the driver's Python, and of the largest Python worker.\n")
    table(" | rows/s | driver, MB | worker, MB", lines)
