"""The same commands as `airflow nexus-redis ...`.

Airflow imports this whenever it is called, for anything: what a command needs is loaded by it.
"""

from __future__ import annotations

from argparse import Namespace

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand, GroupCommand

from nexus_redis_provider.cli.commands import COMMANDS, GROUPS
from nexus_redis_provider.cli.declaring import URL, Command, Group, Option, option

CONN_ID = option(
    "--conn-id",
    metavar="ID",
    help="connection of type nexus_redis or redis (default: nexus_redis_default; of locks, "
    "nexus_redis/state_conn_id of the configuration)",
)


def get_commands() -> list[CLICommand]:
    """What Airflow adds to its command line: one group, with one for each kind of thing."""
    return [
        GroupCommand(
            name="nexus-redis",
            help="Look at, and set right, what Nexus Redis keeps on a server",
            subcommands=[
                *(_action(command, (URL,), is_state=False) for command in COMMANDS),
                *map(_group, GROUPS),
            ],
        )
    ]


def _group(group: Group) -> GroupCommand:
    commands = [
        _action(command, group.server_options, is_state=group.is_state)
        for command in group.commands
    ]
    return GroupCommand(name=group.name, help=group.help, subcommands=commands)


def _action(
    command: Command, server_options: tuple[Option, ...], *, is_state: bool
) -> ActionCommand:
    def run(args: Namespace) -> None:
        from nexus_redis_provider.cli.connections import run_in_airflow

        run_in_airflow(command, args, is_state=is_state)

    options = (*command.options, CONN_ID, *server_options)
    return ActionCommand(
        name=command.name, help=command.help, func=run, args=[_arg(one) for one in options]
    )


def _arg(option: Option) -> Arg:
    return Arg(option.flags, **option.settings)  # type: ignore[no-untyped-call]
