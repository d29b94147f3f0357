"""What a backup says of itself: `manifest.json` beside its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from nexus_redis_provider.core.errors import CorruptBackupError
from nexus_redis_provider.core.monitoring.infos import Database

MANIFEST = "manifest.json"
_FORMAT = 1


class Kind(StrEnum):
    """What is backed up: a snapshot, or the append-only files that a server replays."""

    RDB = "rdb"
    AOF = "aof"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupFile:
    """A file of a backup.

    Attributes:
        path: within the backup's folder.
        size: bytes.
        sha256: of its content, in hex.
    """

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        # Whoever changed a manifest must not have us write elsewhere.
        if not self.path or self.path.startswith("/") or ".." in self.path.split("/"):
            raise ValueError(f"{self.path!r} is no path within a backup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What the server calls its files, and whether it reads the append-only ones when it starts.

    A server that has `appendonly yes` ignores an RDB file: it starts empty where its append-only
    files are missing.
    """

    dbfilename: str = "dump.rdb"
    appendonly: bool = False
    appenddirname: str = "appendonlydir"
    appendfilename: str = "appendonly.aof"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is in a backup.

    Attributes:
        name: of its folder.
        kind: what it is.
        created_at: when it was begun; client clock.
        took: seconds from then to its end.
        server, version, address, run_id: whose data it is.
        replid, offset: up to where in the history of its data; None where that is not known.
        databases: keys by number of the database, counted just before.
        is_still: whether the count was the same just after, so that it is that of the backup.
        keys, expires: in the file, as was counted in it; None where no tool has read it.
        names: of the server's files.
        files: of the backup.
    """

    name: str
    kind: Kind
    created_at: datetime
    took: float
    server: str
    version: str
    address: str
    run_id: str
    replid: str | None
    offset: int | None
    databases: Mapping[int, Database]
    is_still: bool
    keys: int | None
    expires: int | None
    names: Names
    files: tuple[BackupFile, ...]

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files)

    def to_dict(self) -> dict[str, Any]:
        """Its facts, of JSON types alone."""
        facts = asdict(self) | {"created_at": self.created_at.isoformat(), "bytes": self.bytes}
        return {"format": _FORMAT, **facts, "files": [asdict(file) for file in self.files]}

    def to_json(self) -> str:
        """As it stands in the file."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, name: str, text: str) -> Self:
        """The manifest that a file holds.

        Raises:
            CorruptBackupError: it is none, or one of a later version of this package.
        """
        try:
            facts = json.loads(text)
            if (found := facts.pop("format")) != _FORMAT:
                raise CorruptBackupError(
                    name, f"its manifest has format {found!r}, and {_FORMAT} is known here"
                )
            facts.pop("bytes")
            return cls(
                **facts
                | {
                    "name": name,
                    "kind": Kind(facts["kind"]),
                    "created_at": datetime.fromisoformat(facts["created_at"]).astimezone(UTC),
                    "databases": {
                        int(number): Database(**one) for number, one in facts["databases"].items()
                    },
                    "names": Names(**facts["names"]),
                    "files": tuple(BackupFile(**file) for file in facts["files"]),
                }
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptBackupError(name, f"its manifest cannot be read: {error}") from error
