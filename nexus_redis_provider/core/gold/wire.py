"""Arrow batches as Redis commands, and the replies to them.

A whole batch becomes one byte stream in a few vectorised steps: the data buffer of the joined
string array *is* the stream. Replies of known form are counted, not parsed; only what differs is
looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from redis import exceptions

from nexus_redis_provider.core.gold.expiries import Expiries

if TYPE_CHECKING:
    import redis

OK = b"+OK\r\n"
NULL = b"$-1\r\n"
QUEUED = b"+QUEUED\r\n"
_PIECE = 1 << 20
Replies = Sequence[tuple[int, bytes]]
"""Position and line of each reply that is not as it should be."""


def command(*arguments: bytes | str | int) -> bytes:
    """One command in RESP."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def set_commands(
    prefix: str,
    keys: pa.StringArray,
    values: pa.StringArray,
    options: Iterable[str] = (),
    expires: Expiries = None,
) -> memoryview:
    """`SET prefix+key value [options] [PXAT expires]` for every row, as one byte stream.

    Args:
        prefix: stands before every key.
        keys, values: string arrays of equal length, without nulls.
        options: further words of each command, such as `NX`.
        expires: when.
    """
    words = [*options]
    tail = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    head, expiring = (f"*{3 + len(words) + more}\r\n$3\r\nSET\r\n" for more in (0, 2))
    if expires is None:
        return joined(_rows(head, prefix, keys, values, tail))
    expiry = pc.binary_join_element_wise("$4\r\nPXAT\r\n", _number(expires), "")
    heads = expiring
    if isinstance(expires, pa.Array) and expires.null_count:
        heads = pc.if_else(expires.is_valid(), expiring, head)
        expiry = pc.fill_null(expiry, "")
    return joined(_rows(heads, prefix, keys, values, tail, expiry))


def multi_set_commands(
    verb: str, prefix: str, keys: pa.StringArray, values: pa.StringArray, rows: int
) -> memoryview:
    """`MSET` or `MSETNX` of so many rows at a time, the last of what is left, as one byte stream.

    A row costs the server a quarter less than by a `SET` of its own: 1.04 us instead of 1.36.

    Args:
        verb: which of the two.
        prefix: stands before every key.
        keys, values: string arrays of equal length, without nulls.
        rows: of a command.
    """
    heads = [""] * len(keys)
    for start in range(0, len(keys), rows):
        words = 1 + 2 * min(rows, len(keys) - start)
        heads[start] = f"*{words}\r\n${len(verb)}\r\n{verb}\r\n"
    return joined(_rows(pa.array(heads, pa.string()), prefix, keys, values))


def hash_commands(
    prefix: str,
    keys: pa.StringArray,
    values: pa.BinaryArray,
    fields: pa.Int32Array,
    *,
    expires: Expiries,
    anew: bool,
) -> memoryview:
    """`HSET prefix+key value` for every row, as one byte stream.

    Args:
        prefix: stands before every key.
        keys: strings without nulls.
        values: fields and values, as arguments of a command.
        fields: how many they are.
        expires: a `PEXPIREAT` follows each, if not None; where it is null, a `PERSIST`.
        anew: an `UNLINK` precedes each.
    """
    names = pc.cast(_names(prefix, keys), pa.binary())
    words = _decimal(pc.add(pc.multiply(fields, 2), 2))
    parts = [b"*2\r\n$6\r\nUNLINK\r\n", names] if anew else []
    parts += [b"*", words, b"\r\n$4\r\nHSET\r\n", names, values]
    if expires is not None:
        verb: object = b"*3\r\n$9\r\nPEXPIREAT\r\n"
        if isinstance(expires, pa.Array) and expires.null_count:
            # So that as many commands write each row.
            verb = pc.if_else(expires.is_valid(), verb, b"*2\r\n$7\r\nPERSIST\r\n")
        moment = pc.cast(_number(expires), pa.binary())
        parts += [verb, names, pc.fill_null(moment, b"")]
    return joined(pc.binary_join_element_wise(*parts, b""))


def bucket_commands(
    names: pa.StringArray, sizes: pa.Int64Array, rows: pa.BinaryArray, firsts: pa.Int64Array
) -> tuple[memoryview, list[memoryview], list[memoryview]]:
    """`HSET name key value ...` for every bucket, as one byte stream.

    Args:
        names: keys of the buckets.
        sizes: rows of each.
        rows: as `row_frames` makes them, those of a bucket one after the other.
        firsts: for each row the bucket that begins with it, or null.

    Returns:
        The stream, the part of it that each bucket takes, and that which its rows take.
    """
    heads = pc.binary_join_element_wise(
        "*",
        pc.cast(pc.add(pc.multiply(sizes, 2), 2), pa.string()),
        "\r\n$4\r\nHSET\r\n",
        _names("", names),
        "",
    )
    before = pc.fill_null(pc.cast(heads, pa.binary()).take(firsts), b"")
    frames = pc.binary_join_element_wise(before, rows, b"")
    _, offsets, data = frames.buffers()
    bounds, stream = memoryview(offsets).cast("i"), memoryview(data)
    begins = pc.indices_nonzero(pc.is_valid(firsts)).to_pylist()
    ends = [*(bounds[row] for row in begins), bounds[len(frames)]]
    commands = [stream[begin:end] for begin, end in pairwise(ends)]
    lengths = pc.binary_length(heads).to_pylist()
    rows = [taken[length:] for taken, length in zip(commands, lengths, strict=True)]
    return stream[: ends[-1]], commands, rows


def expiry_commands(names: pa.StringArray, expires: int | pa.Int64Array) -> memoryview:
    """`PEXPIREAT name expires` for every key, as one byte stream."""
    return joined(
        pc.binary_join_element_wise(
            "*3\r\n$9\r\nPEXPIREAT\r\n", _names("", names), _number(expires), ""
        )
    )


def row_frames(keys: pa.BinaryArray, values: pa.BinaryArray) -> pa.BinaryArray:
    """Keys and values as two arguments of a command each."""
    return pc.binary_join_element_wise(
        sized(keys), keys, b"\r\n", sized(values), values, b"\r\n", b""
    )


def sized(data: pa.BinaryArray) -> pa.BinaryArray:
    """What stands before each argument in RESP, null where it is."""
    return pc.binary_join_element_wise(b"$", _decimal(pc.binary_length(data)), b"\r\n", b"")


def _decimal(numbers: pa.Array) -> pa.BinaryArray:
    return pc.cast(pc.cast(numbers, pa.string()), pa.binary())


def _number(numbers: int | pa.Int64Array) -> str | pa.StringArray:
    """A number as an argument of a command, or each of them."""
    if isinstance(numbers, int):
        return f"${len(str(numbers))}\r\n{numbers}\r\n"
    texts = pc.cast(numbers, pa.string())
    lengths = pc.cast(pc.binary_length(texts), pa.string())
    return pc.binary_join_element_wise("$", lengths, "\r\n", texts, "\r\n", "")


def _names(prefix: str, keys: pa.StringArray) -> pa.StringArray:
    """`prefix+key` as an argument of a command each."""
    return pc.binary_join_element_wise(*_name(prefix, keys), "\r\n", "")


def _rows(
    head: str | pa.StringArray,
    prefix: str,
    keys: pa.StringArray,
    values: pa.StringArray,
    *tail: str | pa.StringArray,
) -> pa.StringArray:
    """`prefix+key` and value as two arguments each, with what stands before and after."""
    return pc.binary_join_element_wise(
        head,
        *_name(prefix, keys),
        "\r\n$",
        pc.cast(pc.binary_length(values), pa.string()),
        "\r\n",
        values,
        "\r\n",
        *tail,
        "",
    )


def _name(prefix: str, keys: pa.StringArray) -> tuple[object, ...]:
    """The parts of an argument `prefix+key`, but for its end."""
    lengths = pc.add(pc.binary_length(keys), len(prefix.encode()))
    return "$", pc.cast(lengths, pa.string()), f"\r\n{prefix}", keys


def key_commands(verb: str, prefix: str, keys: pa.StringArray, per_command: int) -> bytes:
    """`verb prefix+key ...` of so many keys at a time, the last of what is left."""
    frames = _names(prefix, keys)
    parts: list[bytes | memoryview] = []
    for start in range(0, len(keys), per_command):
        end = min(start + per_command, len(keys))
        head = f"*{1 + end - start}\r\n${len(verb)}\r\n{verb}\r\n".encode()
        parts += [head, _stream(frames, start, end)]
    return b"".join(parts)


def joined(frames: pa.BinaryArray) -> memoryview:
    """The memory of all elements of a fresh binary array, which lie end to end."""
    return _stream(frames, 0, len(frames))


def _stream(frames: pa.StringArray, start: int, end: int) -> memoryview:
    """The memory of some elements of a fresh string array, which lie end to end."""
    _, offsets, data = frames.buffers()
    bounds = memoryview(offsets).cast("i")
    return memoryview(data)[bounds[start] : bounds[end]] if data else memoryview(b"")


def slices(stream: memoryview) -> list[memoryview]:
    """The stream in pieces of 1 MB, for each of which the connection's timeout counts anew."""
    return [stream[start : start + _PIECE] for start in range(0, len(stream), _PIECE)]


class ReplyStream:
    """The replies on a RESP2 connection, read in bulk from its socket.

    What it raises when the line breaks, or no reply comes in time, are redis-py's errors.
    """

    def __init__(self, connection: redis.Connection) -> None:
        """Read from a connected connection that has no unread replies."""
        self._connection: Any = connection
        self._buffer = bytearray()

    def line(self) -> bytes:
        """The next line, without its end."""
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._receive()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def bulk(self) -> bytes | None:
        """The next reply, a bulk string or null."""
        header = self.line()
        return None if header == NULL[:-2] else self.line()

    def differing(self, due: bytes) -> Replies:
        """Read as many one-line replies as `due` has; those that differ."""
        count = due.count(b"\r\n")
        # Lines that differ may be shorter: then there are as many before there are as many bytes.
        while len(self._buffer) < len(due) and self._buffer.count(b"\r\n") < count:
            self._receive()
        if self._buffer[: len(due)] == due:
            del self._buffer[: len(due)]
            return []
        lines = [(self.line(), usual) for usual in due.split(b"\r\n")[:-1]]
        return [(at, line) for at, (line, usual) in enumerate(lines) if line != usual]

    def _receive(self) -> None:
        # redis-py has no public way to read raw replies. Once disconnected, there is no socket.
        socket = self._connection._sock  # noqa: SLF001
        try:
            chunk = socket and socket.recv(1 << 16)
        except TimeoutError as error:
            raise exceptions.TimeoutError("no reply in time") from error
        except OSError as error:
            raise exceptions.ConnectionError(str(error)) from error
        if not chunk:
            raise exceptions.ConnectionError("the server closed the connection")
        self._buffer += chunk
