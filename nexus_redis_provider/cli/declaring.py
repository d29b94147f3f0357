"""How a command is declared: as data from which both command lines are made.

Airflow reads the declarations whenever it is called for anything, so they import next to nothing;
what a command does is loaded when it runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
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


class Subject(Enum):
    """What a command is given to work on."""

    CLIENT = auto()
    # Since it may be that none connects.
    ENDPOINT = auto()
    # A function that says the endpoint, since it may be that none is needed.
    ON_DEMAND = auto()


@dataclass(frozen=True, slots=True)
class Command:
    """One thing to do.

    Attributes:
        help: what it does; no square brackets, which Airflow's help takes for markup.
        run: `module:function` of what does it, `(client, args) -> Answer`.
        options: its own; those that say which server are added.
        subject: what `run` takes in place of a client.
    """

    name: str
    help: str
    run: str
    options: tuple[Option, ...]
    subject: Subject = Subject.CLIENT

    def load(self) -> Callable[..., Any]:
        """The function that does it."""
        module, _, function = self.run.partition(":")
        loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return loaded


@dataclass(frozen=True, slots=True)
class Group:
    """Commands on one kind of thing.

    Attributes:
        has_namespace: whether the things have a namespace, which can then be given.
        is_state: whether they are on the server for state; else on that for all else.
    """

    name: str
    help: str
    commands: tuple[Command, ...]
    has_namespace: bool = True
    is_state: bool = False

    @property
    def server_options(self) -> tuple[Option, ...]:
        """Those that say where the things are."""
        return (URL, NAMESPACE) if self.has_namespace else (URL,)


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
