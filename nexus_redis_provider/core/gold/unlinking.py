"""Removal of many keys, wherever in a Cluster they are."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import redis

from nexus_redis_provider.core.endpoint import address_of, translated_errors
from nexus_redis_provider.core.errors import RefusedError
from nexus_redis_provider.core.gold.node_streams import NodeStreams
from nexus_redis_provider.core.gold.row_commands import Commands
from nexus_redis_provider.core.gold.streams import Writes
from nexus_redis_provider.core.gold.wire import key_commands
from nexus_redis_provider.core.slots import slots_of

_AT_ONCE = 10_000


def unlink_everywhere(client: redis.Redis, prefix: str, keys: pa.StringArray) -> None:
    """Remove all `prefix+key` that are there, their memory freed in the background.

    Raises:
        UnreachableError, RefusedError: some are left.
    """
    with translated_errors(client), NodeStreams(client, "") as streams:
        for start in range(0, len(keys), _AT_ONCE):
            replies = streams.exchange(_unlinks(prefix, keys.slice(start, _AT_ONCE))).values()
            if errors := [reply for reply in replies if reply.startswith(b"-")]:
                raise RefusedError(address_of(client), errors[0][1:].decode())


def _unlinks(prefix: str, keys: pa.StringArray) -> Writes:
    def commands(places: Sequence[int] | None) -> Commands:
        chosen = keys if places is None else keys.take(pa.array(places, pa.int32()))
        stream = memoryview(key_commands("UNLINK", prefix, chosen, 1))
        # One that is not there replies 0.
        return Commands(stream, 1, len(chosen), b":1\r\n" * len(chosen))

    names = [name.encode() for name in keys.to_pylist()]
    return Writes(len(keys), commands, lambda: slots_of(prefix, names))
