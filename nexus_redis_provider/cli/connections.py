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


def run_in_airflow(command: Command, args: Namespace) -> None:
    """Run a command on the server of `--conn-id`, or of `--url`.

    Raises:
        SystemExit: with the exit code, where it is not 0.
    """
    # As Airflow's own commands do that look up connections: else its database is not asked.
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    redirect_stdout_log_handlers_to_stderr()
    if code := perform(command, args, lambda: _endpoint(args.conn_id, args.url)):
        raise SystemExit(code)


def _endpoint(conn_id: str | None, url: str | None) -> Endpoint:
    if url is not None:
        if conn_id is not None:
            raise ConfigurationError("Give --conn-id or --url, not both.")
        return Endpoint.from_url(url)
    try:
        return NexusRedisHook(conn_id or NexusRedisHook.default_conn_name).endpoint
    except AirflowException as error:
        raise ConfigurationError(f"{error}. See `airflow connections list`.") from error
