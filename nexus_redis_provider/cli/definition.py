"""The same commands as `airflow nexus-redis ...`.

Airflow imports this whenever it is called, for anything: what a command needs is loaded by it.
"""

from __future__ import annotations

from argparse import Namespace

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand, GroupCommand

from nexus_redis_provider.cli.commands import GROUPS
from nexus_redis_provider.cli.declaring import Command, Group, Option, option

CONN_ID = option(
    "--conn-id",
    metavar="ID",
    help="connection of type nexus_redis or redis (default: nexus_redis_default)",
)


def get_commands() -> list[CLICommand]:
    """What Airflow adds to its command line: one group, with a group for each kind of thing."""
    return [
        GroupCommand(
            name="nexus-redis",
            help="Look at, and set right, what Nexus Redis keeps on a server",
            subcommands=[_group(group) for group in GROUPS],
        )
    ]


def _group(group: Group) -> GroupCommand:
    commands = [_action(command, group) for command in group.commands]
    return GroupCommand(name=group.name, help=group.help, subcommands=commands)


def _action(command: Command, group: Group) -> ActionCommand:
    def run(args: Namespace) -> None:
        from nexus_redis_provider.cli.connections import run_in_airflow

        run_in_airflow(command, args)

    options = (*command.options, CONN_ID, *group.server_options)
    return ActionCommand(
        name=command.name, help=command.help, func=run, args=[_arg(one) for one in options]
    )


def _arg(option: Option) -> Arg:
    return Arg(option.flags, **option.settings)  # type: ignore[no-untyped-call]
