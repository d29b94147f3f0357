"""Which commands there are, as data from which both command lines are made.

Airflow reads this whenever it is called for anything, so it imports next to nothing; what a command
does is loaded when it runs. A further group is one more entry of `GROUPS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE


@dataclass(frozen=True, slots=True)
class Option:
    """An argument of a command.

    Attributes:
        flags: its names; one without dashes is given by its place.
        settings: as `ArgumentParser.add_argument` takes them; the help as that of a command.
    """

    flags: tuple[str, ...]
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Command:
    """One thing to do.

    Attributes:
        help: what it does; no square brackets, which Airflow's help takes for markup.
        run: `module:function` of what does it, `(client, args) -> Answer`.
        options: its own; those that say which server are added.
    """

    name: str
    help: str
    run: str
    options: tuple[Option, ...]

    def load(self) -> Callable[..., Any]:
        """The function that does it."""
        module, _, function = self.run.partition(":")
        loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return loaded


@dataclass(frozen=True, slots=True)
class Group:
    """Commands on one kind of thing."""

    name: str
    help: str
    commands: tuple[Command, ...]


def option(*flags: str, **settings: Any) -> Option:
    """An option, written as for `add_argument`."""
    return Option(flags, settings)


JSON = option(
    "--json", action="store_true", help="print one JSON document: times as ISO 8601, durations in s"
)
URL = option(
    "--url",
    metavar="URL",
    help="such as redis://user@host:6379/0?password_env=NAME, or rediss:// for TLS; "
    "others on this machine can see a password that stands in it",
)
NAMESPACE = option(
    "--namespace",
    metavar="NAME",
    default=DEFAULT_NAMESPACE,
    help=f"first part of the keys (default: {DEFAULT_NAMESPACE})",
)

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

GROUPS = (LOCKS, GOLD)
