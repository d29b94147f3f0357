"""Small results go to Redis from a worker, without Spark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from nexus_redis_provider.assets.gold import gold_asset
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.gold.limits import LIMITS, MAX_VALUE_BYTES, MEMORY_MARGIN, Limits
from nexus_redis_provider.core.gold.manifests import Layout, Mode
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE
from nexus_redis_provider.hooks.databases import query
from nexus_redis_provider.hooks.redis import NexusRedisHook
from nexus_redis_provider.operators.options import refuse_lost_token

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow.sdk import Context

    from nexus_redis_provider.core.durations import Duration
    from nexus_redis_provider.core.gold.manifests import Manifest

_CHUNK = 10_000
_MAX_ROWS = 1_000_000
_NAMED_BY = ("dataset", "redis_conn_id", "namespace")


class GoldPublishOperator(BaseOperator):
    """Readers see all rows of a query, or of a task, or what they saw before; nothing between.

    All rows are read and checked before Redis is asked, so a query that fails, a value of the wrong
    type, a null or repeated key change nothing there. Returns, by XCom, `dataset`, `version`,
    `rows`, `bytes`, `published_at`; each can be had by itself: `publish.output["version"]`.
    The dataset's asset is an outlet of the task; its event says the same.

    The type of a column is that of its values, whatever the database calls it: whole numbers
    `long`, floats `double`, decimals as wide as they are, text, dates, times with and without zone.
    Values of several types in one column are refused, a column of nulls alone is text. With `types`
    it does not depend on the values of the day.

    A try after the worker died begins anew; what was staged is swept by the next publish.

    Example:
        with dag_lock() as lock:
            GoldPublishOperator(
                task_id="publish",
                sql="SELECT shop, day, revenue FROM sales WHERE day = %(day)s",
                parameters={"day": "{{ ds }}"},
                conn_id="warehouse",
                dataset="sales",
                key=["shop", "day"],
                fence=lock.output,
            )
    """

    template_fields: Sequence[str] = (
        *("dataset", "key", "redis_conn_id", "namespace"),
        *("sql", "parameters", "conn_id", "rows"),
        *("mode", "layout", "types", "ttl", "ttl_jitter", "ttl_column", "keep", "min_rows"),
        *("fence", "lineage"),
        *LIMITS,
    )
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers = {"sql": "sql"}  # noqa: RUF012 - as in every operator of Airflow
    ui_color = "#dcebf6"

    def __init__(
        self,
        *,
        dataset: str,
        key: str | Sequence[str],
        redis_conn_id: str = NexusRedisHook.default_conn_name,
        sql: str | None = None,
        conn_id: str | None = None,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        hook_params: Mapping[str, Any] | None = None,
        rows: Any = None,
        mode: Mode | str = Mode.SNAPSHOT,
        layout: Layout | str = Layout.JSON,
        types: Mapping[str, str] | None = None,
        ttl: Duration | str | None = None,
        ttl_jitter: Duration | str | None = None,
        ttl_column: str | None = None,
        keep: int | str = 1,
        min_rows: int | str = 0,
        max_rows: int = _MAX_ROWS,
        fence: int | str | None = None,
        lineage: Mapping[str, str] | None = None,
        max_rows_per_second: int | str | None = None,
        max_writers: int | str | None = None,
        max_value_bytes: int | str | None = MAX_VALUE_BYTES,
        expected_rows: int | str | None = None,
        memory_margin: float | str | None = MEMORY_MARGIN,
        emit: bool = True,
        namespace: str = DEFAULT_NAMESPACE,
        multiple_outputs: bool = True,
        **kwargs: Any,
    ) -> None:
        """Describe what to publish; all but `hook_params`, `max_rows` and `emit` may be templates.

        Args:
            dataset: name of the dataset.
            key: key columns, or a template such as `analytics:{metric_name}:{date}`; in `upsert`
                mode a template is the row's whole Redis key.
            redis_conn_id: connection of type `nexus_redis` or `redis`.
            sql: one SELECT, or a `.sql` file; with `conn_id`. Or
            conn_id: any connection whose hook is a `DbApiHook`.
            parameters: of the SQL, in the style of the database's driver; a template gives text.
            hook_params: of the database's hook.
            rows: what a task returned: dicts of values by column, or whatever offers itself to
                Arrow, as tables of pyarrow and frames of pandas and polars do.
            mode: `snapshot` (a new version), `delta` (likewise, by what has changed), `upsert`
                (rows replaced in place).
            layout: `json`, a JSON string per row; `hash`, a hash per row; `packed`, some rows a
                hash.
            types: of some columns, as a manifest names them, to cast them to:
                `{"day": "date", "revenue": "decimal(10,2)"}`.
            ttl: seconds until the rows vanish; None keeps them.
            ttl_jitter: seconds by which rows vanish earlier, at most, each at a moment of its own,
                so that they are not all missed at once.
            ttl_column: that says when its row vanishes: a timestamp, or so many seconds from the
                publish; rows that have null there take the `ttl`, if there is one. Not for
                `packed`.
            keep: previous versions that stay readable.
            min_rows: fewer rows than these are refused, so that an empty source empties no cache.
            max_rows: more are refused, for all are in the worker's memory; publish those by Spark.
            fence: fencing token of the lock that guards this publish: `lock.output`.
            lineage: further facts for the manifest, beside DAG, run and task.
            max_rows_per_second, max_writers, max_value_bytes, expected_rows, memory_margin: how
                fast to write, and what to refuse; see `Limits`.
            emit: have the dataset's asset as an outlet. False where `dataset` or `redis_conn_id` is
                a template, since a DAG names its assets when it is parsed.
            namespace: first part of the dataset's keys.
            multiple_outputs: give each fact also an XCom of its own.

        Raises:
            ConfigurationError: options contradict each other.
        """
        super().__init__(multiple_outputs=multiple_outputs, **kwargs)
        self.dataset = dataset
        self.key = key
        self.redis_conn_id = redis_conn_id
        self.sql = sql
        self.conn_id = conn_id
        self.parameters = parameters
        self.hook_params = hook_params
        self.rows = rows
        self.mode = mode
        self.layout = layout
        self.types = types
        self.ttl = ttl
        self.ttl_jitter = ttl_jitter
        self.ttl_column = ttl_column
        self.keep = keep
        self.min_rows = min_rows
        self.max_rows = max_rows
        self.fence = fence
        self.lineage = lineage
        self.max_rows_per_second = max_rows_per_second
        self.max_writers = max_writers
        self.max_value_bytes = max_value_bytes
        self.expected_rows = expected_rows
        self.memory_margin = memory_margin
        self.namespace = namespace
        self.emit = emit
        self._is_fenced = fence is not None
        self._check_options()
        if emit:
            self.outlets = [*self.outlets, self._asset()]

    def _check_options(self) -> None:
        if (self.sql is None) == (self.rows is None):
            raise ConfigurationError("Give sql or rows, one of them.")
        if (self.sql is None) != (self.conn_id is None):
            raise ConfigurationError("sql needs conn_id, the connection of its database.")
        for name in _NAMED_BY if self.emit else ():
            if not isinstance(getattr(self, name), str) or "{{" in getattr(self, name):
                raise ConfigurationError(
                    f"{name} is known when the task runs, and its asset must be when the DAG is "
                    "parsed: give emit=False."
                )

    def _asset(self) -> Any:
        return gold_asset(self.dataset, self.redis_conn_id, namespace=self.namespace)

    def execute(self, context: Context) -> dict[str, Any]:
        publish_table = _publish_table()
        options = self._numbers() | {"lineage": self._lineage(context)}
        table = self._table()
        with NexusRedisHook(self.redis_conn_id) as hook:
            manifest = publish_table(
                table,
                self.dataset,
                key=self.key,
                endpoint=hook.endpoint,
                mode=self.mode,
                layout=self.layout,
                types=self.types,
                ttl_column=self.ttl_column,
                namespace=self.namespace,
                **options,
            )
        facts = _facts(manifest)
        self.log.info(
            "Version %(version)s of Gold dataset %(dataset)r: %(rows)d rows, %(bytes)d bytes.",
            facts,
        )
        if self.emit:
            context["outlet_events"][self._asset()].extra.update(facts)
        return facts

    def _table(self) -> Any:
        from nexus_redis_provider.core.gold.python_rows import table_of_mappings, table_of_rows

        if self.sql is not None:
            names, chunks = query(
                str(self.conn_id),
                self.sql,
                self.parameters,
                chunk=_CHUNK,
                hook_params=self.hook_params,
            )
            return table_of_rows(names, self._counted(chunks), self.dataset)
        if self.rows is None:
            raise ConfigurationError(
                f"Gold dataset {self.dataset!r}: rows is None: the task upstream has returned "
                "nothing, or its XCom is gone."
            )
        if hasattr(self.rows, "__arrow_c_stream__"):
            return self.rows
        if isinstance(self.rows, str | bytes | Mapping) or not isinstance(self.rows, Iterable):
            raise ConfigurationError(
                f"Gold dataset {self.dataset!r}: rows are dicts or an Arrow table, not "
                f"{type(self.rows).__name__}."
            )
        return table_of_mappings(self.rows, self.dataset)

    def _counted(self, chunks: Iterable[list[Any]]) -> Iterator[list[Any]]:
        count = 0
        for chunk in chunks:
            count += len(chunk)
            if count > self.max_rows:
                raise ConfigurationError(
                    f"Gold dataset {self.dataset!r}: more than max_rows={self.max_rows:,} rows. "
                    "Publish them by a Spark job, or raise max_rows if the worker has the memory."
                )
            yield chunk

    def _numbers(self) -> dict[str, Any]:
        if self._is_fenced:
            refuse_lost_token(self.fence, f"Gold dataset {self.dataset!r}: ")
        return {
            "ttl": self._duration("ttl"),
            "ttl_jitter": self._duration("ttl_jitter"),
            "keep": self._number("keep", int),
            "min_rows": self._number("min_rows", int),
            "fence": self._number("fence", int) if self._is_fenced else None,
            "limits": self._limits(),
        }

    def _limits(self) -> Limits:
        return Limits(
            **{
                name: None if getattr(self, name) is None else self._number(name, kind)
                for name, kind in LIMITS.items()
            }
        )

    def _duration(self, name: str) -> Any:
        value = getattr(self, name)
        return value if isinstance(value, timedelta | None) else self._number(name, float)

    def _number(self, name: str, kind: type[int | float]) -> Any:
        value = getattr(self, name)
        try:
            return kind(value)
        except (TypeError, ValueError):
            raise ConfigurationError(
                f"Gold dataset {self.dataset!r}: {name} must be a number, not {value!r}."
            ) from None

    def _lineage(self, context: Context) -> dict[str, str]:
        instance = context["ti"]
        facts = {
            "dag_id": instance.dag_id,
            "run_id": instance.run_id,
            "task_id": instance.task_id,
        }
        if self.conn_id is not None:
            facts["source_conn_id"] = self.conn_id
        return {**facts, **(self.lineage or {})}


def _publish_table() -> Any:
    """The function, which a worker loads only when it publishes: pyarrow is large, and an extra."""
    try:
        from nexus_redis_provider.core.gold.tables import publish_table
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise ConfigurationError(
            "GoldPublishOperator needs pyarrow: pip install 'nexus_redis_provider[arrow]'."
        ) from error
    return publish_table


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "dataset": manifest.dataset,
        "version": manifest.version,
        "rows": manifest.rows,
        "bytes": manifest.bytes,
        "published_at": manifest.published_at.isoformat(),
    }
