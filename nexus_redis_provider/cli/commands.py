"""Which commands there are, for both command lines. A further group is one more of `GROUPS`."""

from __future__ import annotations

from nexus_redis_provider.cli.backup_commands import BACKUP
from nexus_redis_provider.cli.declaring import JSON, Command, Group, option
from nexus_redis_provider.cli.server_commands import KEYS, PING, SERVER

_LOCKS = "nexus_redis_provider.cli.locks"
_NAME = option("name", metavar="NAME", help="of the lock, as `list` shows it")

LOCKS = Group(
    "locks",
    "who holds which lock, who waits, and how to end it by force",
    (
        Command(
            "list",
            "list the locks that are held or waited for",
            f"{_LOCKS}:list_locks",
            (
                option("--match", metavar="GLOB", help="only names like this, such as 'dag:*'"),
                option("--all", action="store_true", help="also locks that are free"),
                JSON,
            ),
        ),
        Command(
            "show",
            "show a lock's holders, its line, and what was done to it by force",
            f"{_LOCKS}:show_lock",
            (_NAME, JSON),
        ),
        Command(
            "release",
            "take a lock from its holders by force",
            f"{_LOCKS}:release_lock",
            (
                _NAME,
                option(
                    "--force",
                    action="store_true",
                    help="required: a holder that still works is not stopped by it",
                ),
                option("--why", metavar="TEXT", help="required: the reason, for the audit"),
                option("--owner", metavar="OWNER", help="only this holder (default: all)"),
                option("--by", metavar="WHO", help="who does it (default: user@host)"),
                JSON,
            ),
        ),
    ),
    is_state=True,
)

_GOLD = "nexus_redis_provider.cli.gold"
_DATASET = option("dataset", metavar="DATASET", help="as `list` shows it")

GOLD = Group(
    "gold",
    "which Gold datasets there are, what they hold, and how to go back to an earlier version",
    (
        Command(
            "list",
            "list the datasets with the version that readers see",
            f"{_GOLD}:list_datasets",
            (JSON,),
        ),
        Command(
            "show",
            "show what readers see, which versions are kept, and what is being written",
            f"{_GOLD}:show_dataset",
            (_DATASET, JSON),
        ),
        Command(
            "watch",
            "show how far publishes are that are under way, until the last one is over",
            "nexus_redis_provider.cli.gold_watching:watch_datasets",
            (
                option(
                    "dataset", metavar="DATASET", nargs="?", help="only this one (default: all)"
                ),
                option("--once", action="store_true", help="look once, do not wait for the end"),
                option(
                    "--json",
                    action="store_true",
                    help="print a line of JSON for each look: times as ISO 8601, durations in s",
                ),
            ),
        ),
        Command(
            "rollback",
            "move readers to an earlier version, all at once",
            f"{_GOLD}:rollback_dataset",
            (
                _DATASET,
                option(
                    "--to",
                    metavar="VERSION",
                    help="a kept one, as `show` lists it (default: the one before)",
                ),
                JSON,
            ),
        ),
        Command(
            "sweep",
            "remove versions that nobody reads, as each publish does",
            f"{_GOLD}:sweep_datasets",
            (
                option(
                    "dataset", metavar="DATASET", nargs="?", help="only this one (default: all)"
                ),
                JSON,
            ),
        ),
        Command(
            "get",
            "print one row of what readers see",
            f"{_GOLD}:get_row",
            (
                _DATASET,
                option(
                    "key",
                    metavar="KEY",
                    nargs="+",
                    help="values of the key columns, in their order; dates as 2026-11-23",
                ),
                JSON,
            ),
        ),
        Command(
            "verify",
            "read every row that readers see, and compare with what was published",
            f"{_GOLD}:verify_dataset",
            (_DATASET, JSON),
        ),
    ),
)

TAGS = Group(
    "tags",
    "what cached entries depend on",
    (
        Command(
            "invalidate",
            "make all cached entries stale that carry one of the tags; they expire by themselves",
            "nexus_redis_provider.cli.tags:invalidate_tags",
            (
                option("tags", metavar="TAG", nargs="+", help="as who cached the entries named it"),
                JSON,
            ),
        ),
    ),
)

GROUPS = (LOCKS, GOLD, KEYS, TAGS, SERVER, BACKUP)
# That are of no group.
COMMANDS = (PING,)
