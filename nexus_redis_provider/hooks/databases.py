"""Rows of whatever database an Airflow connection describes."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from nexus_redis_provider.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


def query(
    conn_id: str,
    sql: str,
    parameters: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    chunk: int,
    hook_params: Mapping[str, Any] | None = None,
) -> tuple[list[str], Iterator[list[Any]]]:
    """The names of the columns of a query, and its rows in chunks.

    Args:
        conn_id: connection whose hook is a `DbApiHook`.
        sql: one statement that returns rows.
        parameters: of the statement, in the style of the driver.
        chunk: rows, at most.
        hook_params: of the hook, such as `{"database": "sales"}`.

    Raises:
        ConfigurationError: the connection is of another kind, or the statement returns no rows.
        Exception: of the driver.
    """
    rows = _rows(conn_id, sql, parameters, chunk, dict(hook_params or {}))
    names: Any = next(rows)
    return names, rows


def _rows(
    conn_id: str, sql: str, parameters: Any, chunk: int, hook_params: dict[str, Any]
) -> Iterator[list[Any]]:
    """The names, then the chunks: one generator, so that its end closes what was opened."""
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    hook = BaseHook.get_hook(conn_id, hook_params=hook_params)
    if not isinstance(hook, DbApiHook):
        raise ConfigurationError(
            f"Airflow connection {conn_id!r} is no SQL database: "
            f"{type(hook).__name__} is no DbApiHook."
        )
    with closing(hook.get_conn()) as connection, closing(connection.cursor()) as cursor:
        # Drivers differ in what they make of None.
        cursor.execute(sql, *([] if parameters is None else [parameters]))
        if cursor.description is None:
            raise ConfigurationError(
                f"The SQL for connection {conn_id!r} returns no rows: give one SELECT."
            )
        yield [str(column[0]) for column in cursor.description]
        while rows := cursor.fetchmany(chunk):
            yield rows
