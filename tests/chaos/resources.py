"""What the locks protect: a counter in a file that refuses tokens older than it has seen."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

# Divides a page, so that a record is never cut in two by a kill.
_RECORD = 256
_SUFFIX = ".resource"


@dataclass(frozen=True, slots=True)
class Access:
    """What the resource let happen, in the order in which it did.

    Attributes:
        wrote: whether it was a write; a read is fenced like one, since a write follows from it.
        value: of the counter from now on.
        base: the value that the writer had read.
    """

    token: int
    owner: str
    wrote: bool
    value: int
    base: int


class Resource:
    """A counter that its holders read, and write one larger: two at once would lose an update."""

    def __init__(self, directory: Path, name: str, *, tells_owners: bool = False) -> None:
        """Open it.

        Args:
            tells_owners: refuse also a token that was another owner's: two primaries that each
                believe to be the only one may give the same token, in the same microsecond.
        """
        self._tells_owners = tells_owners
        path = directory / f"{name}{_SUFFIX}"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)

    def close(self) -> None:
        os.close(self._file)

    def read(self, token: int, owner: str) -> int | None:
        """The counter, or None: a newer holder has been here."""
        with self._newest() as newest:
            if self._is_stale(token, owner, newest):
                return None
            self._append(Access(token, owner, wrote=False, value=newest.value, base=newest.value))
            return newest.value

    def write(self, token: int, owner: str, base: int) -> bool:
        """Make it one larger than was read. Returns whether it was let."""
        with self._newest() as newest:
            if self._is_stale(token, owner, newest):
                return False
            self._append(Access(token, owner, wrote=True, value=base + 1, base=base))
            return True

    def _is_stale(self, token: int, owner: str, newest: Access) -> bool:
        if self._tells_owners and token == newest.token:
            return owner != newest.owner
        return token < newest.token

    @contextmanager
    def _newest(self) -> Iterator[Access]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            end = os.fstat(self._file).st_size
            record = os.pread(self._file, _RECORD, end - _RECORD) if end else b""
            yield _access(record) if record else Access(0, "", wrote=True, value=0, base=0)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _append(self, access: Access) -> None:
        record = json.dumps(asdict(access)).encode()
        os.write(self._file, record.ljust(_RECORD - 1) + b"\n")


def read_resources(directory: Path) -> dict[str, list[Access]]:
    """By name, what every resource let happen."""
    return {
        path.name.removesuffix(_SUFFIX): [_access(line) for line in path.read_bytes().splitlines()]
        for path in sorted(directory.glob(f"*{_SUFFIX}"))
    }


def _access(record: bytes) -> Access:
    return Access(**json.loads(record))
