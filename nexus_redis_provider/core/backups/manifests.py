"""What a backup says of itself: `manifest.json` beside its files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from nexus_redis_provider.core.backups.shares import SlotRange
from nexus_redis_provider.core.errors import ConfigurationError, CorruptBackupError
from nexus_redis_provider.core.monitoring.infos import Database

MANIFEST = "manifest.json"
_FORMAT = 1
# The settings of a server that say what its files are called.
NAMING = ("dbfilename", "appenddirname", "appendfilename", "cluster-config-file")


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
    files are missing, or have other names than it looks for.

    Attributes:
        assumed: those of `NAMING` that nobody told, and that have the usual values here.

    Raises:
        ConfigurationError: a name is a path, or none.
    """

    dbfilename: str = "dump.rdb"
    appendonly: bool = False
    appenddirname: str = "appendonlydir"
    appendfilename: str = "appendonly.aof"
    clusterconfigfile: str = "nodes.conf"
    assumed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # As the server itself; and nobody shall have us write elsewhere.
        for setting in NAMING:
            name = self.of(setting)
            if name in ("", ".", "..") or "/" in name:
                raise ConfigurationError(
                    f"{setting} must be the name of a file, without a path, not {name!r}."
                )

    def of(self, setting: str) -> str:
        """What one of `NAMING` is."""
        name: str = getattr(self, _field(setting))
        return name

    @property
    def log(self) -> Path:
        """The manifest of its append-only files, within its data directory."""
        return Path(self.appenddirname, f"{self.appendfilename}.manifest")

    def told(self, known: Mapping[str, str]) -> Self:
        """With those of `NAMING` that somebody knows."""
        assumed = tuple(setting for setting in self.assumed if setting not in known)
        values: dict[str, Any] = {_field(setting): name for setting, name in known.items()}
        return replace(self, assumed=assumed, **values)

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> Self:
        """As a manifest has them; an older one does not say whether the usual ones were told."""
        usual = asdict(cls())
        # One that is empty tells nothing.
        names = usual | {field: told for field, told in facts.items() if told != ""}
        # It may have stood elsewhere.
        names["clusterconfigfile"] = Path(names["clusterconfigfile"]).name
        if "assumed" not in facts:
            fields = {setting: _field(setting) for setting in NAMING}
            names["assumed"] = [one for one, name in fields.items() if names[name] == usual[name]]
        return cls(**names | {"assumed": tuple(names["assumed"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is in a backup.

    Attributes:
        name: of its folder; of a part, those of both.
        kind: what it is.
        created_at: when it was begun; client clock.
        took: seconds from then to its end.
        server, version, address, run_id: whose data it is; a whole Cluster has no run_id.
        replid, offset: up to where in the history of its data; None where that is not known.
        databases: keys by number of the database, counted just before.
        is_still: whether the count was the same just after, so that it is that of the backup.
        keys, expires: in the file, as was counted in it; None where no tool has read it.
        names: of the server's files.
        files: of the backup; a whole Cluster has none of its own.
        slots: that the server served, as a node of a Cluster.
        parts: of a whole Cluster, a backup of each primary, in a folder within its own.
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
    slots: tuple[SlotRange, ...] = ()
    parts: tuple[Manifest, ...] = ()

    @classmethod
    def of_cluster(cls, name: str, address: str, took: float, parts: Sequence[Self]) -> Self:
        """That of a whole Cluster, from those of its primaries."""
        counts = [(part.keys, part.expires) for part in parts]
        return replace(
            parts[0],
            name=name,
            created_at=min(part.created_at for part in parts),
            took=took,
            address=address,
            run_id="",
            replid=None,
            offset=None,
            databases=added(part.databases for part in parts),
            is_still=all(part.is_still for part in parts),
            keys=_sum(keys for keys, _ in counts),
            expires=_sum(expires for _, expires in counts),
            files=(),
            slots=(),
            parts=tuple(parts),
        )

    @property
    def by_server(self) -> tuple[Manifest, ...]:
        """Of each server that it is of: its parts, or itself."""
        return self.parts or (self,)

    @property
    def counted(self) -> Mapping[int, Database] | None:
        """Keys that must come back of each database; None where others wrote meanwhile."""
        return self.databases if self.is_still else None

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.size for one in self.by_server for file in one.files)

    def to_dict(self) -> dict[str, Any]:
        """Its facts, of JSON types alone."""
        facts = asdict(self) | {"created_at": self.created_at.isoformat(), "bytes": self.bytes}
        facts |= {"files": [asdict(file) for file in self.files]}
        return {"format": _FORMAT, **facts, "parts": [part.to_dict() for part in self.parts]}

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
            return cls._from_dict(name, json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptBackupError(name, f"its manifest cannot be read: {error}") from error

    @classmethod
    def _from_dict(cls, name: str, facts: dict[str, Any]) -> Self:
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
                "names": Names.from_dict(facts["names"]),
                "files": tuple(BackupFile(**file) for file in facts["files"]),
                "slots": tuple((int(first), int(last)) for first, last in facts.get("slots", ())),
                "parts": tuple(
                    cls._from_dict(part_name(name, number), part)
                    for number, part in enumerate(facts.get("parts", ()), 1)
                ),
            }
        )


def part_name(whole: str, number: int) -> str:
    """Of the part of a backup that one node of a Cluster has, from 1."""
    return f"{whole}/node-{number}"


def _field(setting: str) -> str:
    return setting.replace("-", "")


def added(counts: Iterable[Mapping[int, Database]]) -> dict[int, Database]:
    """The databases of several servers together, by number."""
    keys, expires = Counter[int](), Counter[int]()
    for databases in counts:
        for number, one in databases.items():
            keys[number] += one.keys
            expires[number] += one.expires
    return {number: Database(keys=keys[number], expires=expires[number]) for number in sorted(keys)}


def _sum(counts: Iterable[int | None]) -> int | None:
    known = list(counts)
    return None if None in known else sum(filter(None, known))
