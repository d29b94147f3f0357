"""A snapshot that the server sends as it does to a new replica: no access to its disk is needed.

As `redis-cli --rdb`, but over the same connection as everything else, so TLS, users and Sentinels
are what they are elsewhere; and by PSYNC, which also says up to where in the history the data is.
The server sends it without a file of its own where `repl-diskless-sync` is on, as is the default.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import redis
from redis import exceptions

from nexus_redis_provider.core.durations import in_words
from nexus_redis_provider.core.endpoint import address_of, translated_errors
from nexus_redis_provider.core.errors import ConfigurationError, SaveFailedError, SaveTooLateError

# A replica that knows the end by a mark, and wants the snapshot alone. Sentinels look for replicas
# in INFO, and never forget one: at a port that there cannot be, they see none.
_INTRODUCTION = (
    ("REPLCONF", "capa", "eof"),
    ("REPLCONF", "rdb-only", "1"),
    ("REPLCONF", "listening-port", "65536"),
)
_MARK = 40
_CHUNK = 1 << 20
# The server shows a sign of life every second, and gives up by itself after `repl-timeout`.
_SILENCE_S = 90.0
_RESYNC = re.compile(rb"\+FULLRESYNC (\w+) (\d+)")
_SIZE = re.compile(rb"\$(\d+)")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the history of a server's data: `master_replid`, `master_repl_offset`."""

    replid: str
    offset: int


def receive_snapshot(
    client: redis.Redis, write: Callable[[bytes], Any], *, version: str, timeout: float
) -> Position:
    """Hand the server's data on, as an RDB file; returns up to where in its history that is.

    The server forks for it, as for BGSAVE, and before that may wait `repl-diskless-sync-delay`
    seconds, by default 5, for other replicas.

    Args:
        client: of one server.
        write: is given the file's bytes in pieces, and none where the server just shows that it
            lives; what it raises ends all.
        version: of the server; what no older one knows, such as fields of hashes that expire, is
            sent to a replica of this version alone.
        timeout: seconds that all of it may take, with the time before it begins.

    Raises:
        UnreachableError: no connection, or it was lost on the way.
        AccessDeniedError: the user lacks `psync` or `replconf`.
        ConfigurationError: it knows no such command, as managed servers do not.
        ServerError: it refuses, as a replica without its primary does.
        SaveFailedError: it broke off, or takes too long.

    Redis: REPLCONF, PSYNC. The server keeps a replication backlog for an hour after it.
    """
    with translated_errors(client), _unknown_commands(client):
        connection: Any = client.connection_pool.get_connection()
        try:
            for words in _INTRODUCTION:
                connection.send_command(*words)
                connection.read_response()
            connection.send_command("REPLCONF", "version", version)
            # Redis, and Valkey before 8, send everything to everybody, and do not know the word.
            with suppress(exceptions.ResponseError):
                connection.read_response()
            connection.send_command("PSYNC", "?", "-1", check_health=False)
            return _Stream(connection, address_of(client), write, timeout).read()
        finally:
            # It is a replica's now.
            connection.disconnect()
            client.connection_pool.release(connection)


class _Stream:
    """What comes over the connection of a replica."""

    def __init__(
        self, connection: Any, address: str, write: Callable[[bytes], Any], timeout: float
    ) -> None:
        self._socket = connection._sock  # noqa: SLF001 - past redis-py's parser: it is no reply
        self._deadline = time.monotonic() + timeout
        self._too_late = SaveTooLateError(address, f"it still sends it after {in_words(timeout)}")
        self._address = address
        self._write = write
        self._left = bytearray()

    def read(self) -> Position:
        resync = self._line()
        if (found := _RESYNC.fullmatch(resync)) is None:
            raise _refusal(resync)
        start = self._line()
        if size := _SIZE.fullmatch(start):
            self._pass_on(int(size[1]))
        elif start.startswith(b"$EOF:"):
            self._pass_on_until(start.removeprefix(b"$EOF:"))
        else:
            raise _refusal(start)
        return Position(found[1].decode(), int(found[2]))

    def _line(self) -> bytes:
        # Signs of life are empty lines.
        while True:
            line, found, rest = bytes(self._left).partition(b"\n")
            if not found:
                self._receive()
                continue
            self._left = bytearray(rest)
            if line := line.rstrip(b"\r"):
                return line
            self._write(b"")

    def _pass_on(self, size: int) -> None:
        left = size
        while left:
            if not self._left:
                self._receive()
            piece = bytes(self._left[:left])
            self._write(piece)
            del self._left[: len(piece)]
            left -= len(piece)

    def _pass_on_until(self, mark: bytes) -> None:
        # The mark is random, and the last that comes.
        while not self._left.endswith(mark):
            if (ready := len(self._left) - _MARK) > 0:
                self._write(bytes(self._left[:ready]))
                del self._left[:ready]
            self._receive()
        self._write(bytes(self._left[:-_MARK]))

    def _receive(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._too_late
        self._socket.settimeout(min(left, _SILENCE_S))
        with _lost_connections():
            try:
                data = self._socket.recv(_CHUNK)
            except TimeoutError:
                if left < _SILENCE_S:
                    raise self._too_late from None
                raise
        if not data:
            raise SaveFailedError(self._address, "it broke off while it sent its snapshot")
        self._left += data


@contextmanager
def _unknown_commands(client: redis.Redis) -> Iterator[None]:
    try:
        yield
    except exceptions.ResponseError as error:
        if not str(error).startswith("unknown command"):
            raise
        raise ConfigurationError(
            f"Redis at {address_of(client)} sends no snapshots ({error}). Copy the file that it "
            "saves, by its data directory; of a managed server, use the backups of its provider."
        ) from error


@contextmanager
def _lost_connections() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise exceptions.ConnectionError(f"lost while it sent its snapshot: {error}") from error


def _refusal(line: bytes) -> exceptions.ResponseError:
    # As redis-py reads it.
    text = line.decode(errors="replace").removeprefix("-").removeprefix("ERR ")
    if text.startswith("NOPERM"):
        return exceptions.NoPermissionError(text)
    return exceptions.ResponseError(text)
