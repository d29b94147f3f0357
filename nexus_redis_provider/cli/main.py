"""The command line of its own: `nexus-redis`, for a shell without Airflow."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from nexus_redis_provider import __version__
from nexus_redis_provider.cli.commands import COMMANDS, GROUPS
from nexus_redis_provider.cli.declaring import NAMESPACE, URL, Command, Option
from nexus_redis_provider.cli.running import perform
from nexus_redis_provider.core.endpoint import URL_VARIABLE, Endpoint

_PROGRAM = "nexus-redis"
_ABOUT = "Look at, and set right, what Nexus Redis keeps on a server."
_EPILOG = (
    f"Without --url, the server is that of {URL_VARIABLE}. Exit codes: 0 done, 1 failed, "
    "2 wrong use or configuration, 3 server unreachable, 4 access denied."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after the program's name; by default those it was called with.

    Raises:
        SystemExit: from argparse, after `--help` or with 2 for options it does not know.
    """
    args = _parser().parse_args(argv)
    return perform(args.command, args, lambda: Endpoint.of(args.url))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        _PROGRAM, description=_ABOUT, epilog=_EPILOG, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"{_PROGRAM} {__version__}")
    for server in (URL, NAMESPACE):
        _add(parser, server)
    words = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        _add_command(words, command, (URL,))
    for group in GROUPS:
        about = words.add_parser(group.name, help=group.help, description=group.help)
        within = about.add_subparsers(metavar="COMMAND", required=True)
        for command in group.commands:
            _add_command(within, command, group.server_options)
    return parser


def _add_command(words: Any, command: Command, server_options: tuple[Option, ...]) -> None:
    leaf = words.add_parser(
        command.name,
        help=command.help,
        description=command.help,
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    for option in command.options:
        _add(leaf, option)
    # Those before the command hold where they are not given here.
    for server in server_options:
        _add(leaf, server, default=argparse.SUPPRESS)
    leaf.set_defaults(command=command)


def _add(parser: argparse.ArgumentParser, option: Option, **settings: object) -> None:
    parser.add_argument(*option.flags, **{**option.settings, **settings})


if __name__ == "__main__":
    sys.exit(main())
