"""Commands whose server is that of an Airflow connection."""

from __future__ import annotations

import os
from argparse import Namespace

from airflow.cli.utils import redirect_stdout_log_handlers_to_stderr
from airflow.sdk.exceptions import AirflowException

from nexus_redis_provider.cli.declaring import Command
from nexus_redis_provider.cli.running import perform
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.hooks.redis import NexusRedisHook
from nexus_redis_provider.hooks.roles import state_conn_id


def run_in_airflow(command: Command, args: Namespace, *, is_state: bool) -> None:
    """Run a command on the server of `--conn-id`, or of `--url`.

    Args:
        command: what to do.
        args: its options as they were given.
        is_state: whether the server for state is meant where none is given.

    Raises:
        SystemExit: with the exit code, where it is not 0.
    """
    # As Airflow's own commands do that look up connections: else its database is not asked.
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    redirect_stdout_log_handlers_to_stderr()
    if code := perform(command, args, lambda: _endpoint(args.conn_id, args.url, is_state=is_state)):
        raise SystemExit(code)


def _endpoint(conn_id: str | None, url: str | None, *, is_state: bool) -> Endpoint:
    if url is not None:
        if conn_id is not None:
            raise ConfigurationError("Give --conn-id or --url, not both.")
        return Endpoint.from_url(url)
    default = state_conn_id() if is_state else NexusRedisHook.default_conn_name
    try:
        return NexusRedisHook(conn_id or default).endpoint
    except AirflowException as error:
        raise ConfigurationError(f"{error}. See `airflow connections list`.") from error
