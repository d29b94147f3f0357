"""Going on only when what the next step reads from Redis is there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException

from nexus_redis_provider.core.durations import Duration, in_words, to_ms
from nexus_redis_provider.core.errors import ConfigurationError, LockHeldError
from nexus_redis_provider.core.fills import BATCH, Loader, fill_lock, fill_once
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE
from nexus_redis_provider.core.requirements import Requirement, check_combination
from nexus_redis_provider.core.warmth import Warmth, probe
from nexus_redis_provider.hooks.databases import query
from nexus_redis_provider.hooks.redis import NexusRedisHook
from nexus_redis_provider.operators.options import is_deferrable
from nexus_redis_provider.triggers.cache_warm import CacheWarmTrigger
from nexus_redis_provider.triggers.polling import TRIGGER_GRACE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from airflow.sdk import Context

    from nexus_redis_provider.core.fills import Pairs


class CacheWarmSensor(BaseSensorOperator):
    """Succeeds only when the cache is warm: published, complete, fresh, and living long enough.

    With `fill`, a miss is loaded and written, once even when several sensors wait for the same
    keys. Returns what was found: `rows` (or keys), `ttl` in seconds, and of a dataset `version`,
    `published_at` and `age` in seconds; `filled` if it wrote keys.

    Example:
        CacheWarmSensor(
            task_id="warm",
            dataset="flights_daily",
            min_rows=1_000,
            min_version=publish.output["version"],
            deferrable=True,
        )
    """

    template_fields: Sequence[str] = (
        "redis_conn_id",
        "dataset",
        "keys",
        "pattern",
        "newer_than",
        "min_version",
        "after_version",
        "namespace",
        "fill_sql",
        "fill_conn_id",
    )
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers = {"fill_sql": "sql"}  # noqa: RUF012 - as in every operator of Airflow
    ui_color = "#dcebf6"

    def __init__(
        self,
        *,
        redis_conn_id: str = NexusRedisHook.default_conn_name,
        dataset: str | None = None,
        keys: Sequence[str] | None = None,
        pattern: str | None = None,
        min_rows: int | None = None,
        min_coverage: float | None = None,
        max_age: Duration | None = None,
        min_ttl: Duration | None = None,
        newer_than: datetime | str | None = None,
        min_version: str | None = None,
        after_version: str | None = None,
        fill: Loader | str | None = None,
        fill_conn_id: str | None = None,
        fill_ttl: Duration | None = None,
        deferrable: bool | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        **kwargs: Any,
    ) -> None:
        """Describe what must be there; see `Requirement` for what goes with what.

        Args:
            redis_conn_id: connection of type `nexus_redis` or `redis`.
            dataset: a published Gold dataset; or
            keys: these keys; or
            pattern: keys that match a glob. Each look walks the keys of the whole database.
            min_rows: rows of the dataset, or keys, at least.
            min_coverage: share of `keys`, above 0 up to 1; by default all of them.
            max_age: seconds since the dataset was published, at most.
            min_ttl: seconds that it must still live, at least.
            newer_than: when it must have been published after, with a time zone; ISO 8601 if text.
            min_version: the version that must be live, or one begun after it: that of an upstream
                publish, `publish.output["version"]`. A rollback from it makes the sensor wait.
            after_version: a version that the live one must come after, such as the one that the
                last run worked on.
            fill: loads what is missing: a callable that is given the missing keys (of a pattern,
                none) and returns keys with values as a mapping or pairs, or SQL (or a `.sql` file)
                of two columns, key and value. Dicts and lists are written as JSON.
            fill_conn_id: connection of the database that the SQL is for.
            fill_ttl: seconds that filled keys live; None for ever.
            deferrable: wait in the triggerer, by default as `[operators] default_deferrable`. A
                fill then happens in the worker before.
            namespace: first part of the dataset's keys, and of the fill's lock.
            kwargs: of every sensor, such as `timeout`, `poke_interval`, `mode` and `soft_fail`.

        Raises:
            ConfigurationError: options contradict each other.
        """
        super().__init__(**kwargs)
        self.redis_conn_id = redis_conn_id
        self.dataset = dataset
        self.keys = keys
        self.pattern = pattern
        self.newer_than = newer_than
        self.min_version = min_version
        self._has_min_version = min_version is not None
        self.after_version = after_version
        self.namespace = namespace
        self.conditions = {
            "min_rows": min_rows,
            "min_coverage": min_coverage,
            "max_age": max_age,
            "min_ttl": min_ttl,
        }
        # Airflow calls a callable in a templated field, hence two fields.
        self.fill = fill if callable(fill) else None
        self.fill_sql = None if callable(fill) else fill
        self.fill_conn_id = fill_conn_id
        self.fill_ttl = fill_ttl
        self.deferrable = is_deferrable(given=deferrable)
        self._check_options()

    def _check_options(self) -> None:
        given = {name for name, value in self._arguments().items() if value is not None}
        if check_combination(given) == "dataset" and self._fills:
            raise ConfigurationError(
                "A dataset cannot be filled by a sensor: publish it by a Spark job."
            )
        if (self.fill_conn_id is None) != (self.fill_sql is None):
            raise ConfigurationError("A fill by SQL needs fill_conn_id, and no other fill does.")
        if self.fill_ttl is not None:
            to_ms(self.fill_ttl, "fill_ttl")

    @property
    def _fills(self) -> bool:
        return self.fill is not None or self.fill_sql is not None

    def _arguments(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "keys": self.keys,
            "pattern": self.pattern,
            "newer_than": self.newer_than,
            "min_version": self.min_version,
            "after_version": self.after_version,
            "namespace": self.namespace,
            **self.conditions,
        }

    def execute(self, context: Context) -> Any:
        if self.deferrable:
            return self._wait(time.time() + self.timeout)
        try:
            return super().execute(context)
        except AirflowSensorTimeout as timeout:
            raise AirflowSensorTimeout(f"{timeout} Not warm: {self._found}.") from timeout

    def poke(self, context: Context) -> PokeReturnValue:
        self._found, report, _ = self._look()
        return PokeReturnValue(self._found.is_warm, report)

    def resume(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Look again after the trigger's event, and say what is missing when it is too late."""
        return self._wait(event["until"])

    def _wait(self, until: float) -> dict[str, Any]:  # noqa: RET503 - defer never returns
        found, report, filler = self._look()
        if found.is_warm:
            return report
        left = until - time.time()
        if left <= 0:
            message = f"Not warm after {in_words(self.timeout)}: {found}."
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(message)
            raise AirflowSensorTimeout(message)
        trigger = CacheWarmTrigger(
            redis_conn_id=self.redis_conn_id,
            requirement=Requirement.from_dict(self._arguments()).to_dict(),
            poll_interval=self.poke_interval,
            until=until,
            filler=filler,
        )
        timeout = left + TRIGGER_GRACE
        self.defer(trigger=trigger, method_name=self.resume.__name__, timeout=timeout)

    def _look(self) -> tuple[Warmth, dict[str, Any], str | None]:
        """What is there after trying to fill, the same as XCom, and the lock of another filler."""
        if self._has_min_version and self.min_version is None:
            raise ConfigurationError(
                "min_version is None: the task upstream has published nothing, or its XCom is gone."
            )
        requirement = Requirement.from_dict(self._arguments())
        filled, filler = 0, None
        with NexusRedisHook(self.redis_conn_id) as hook:
            found = probe(hook.get_conn(), requirement)
            if not found.is_warm and self._fills:
                self.log.info("Not warm: %s. Filling.", found)
                try:
                    filled, found = fill_once(
                        hook.endpoint, requirement, self._load, ttl=self.fill_ttl
                    )
                    self.log.info("%d keys written.", filled)
                except LockHeldError as held:
                    filler = fill_lock(requirement)
                    self.log.info("%s is filling already.", held.owner)
        if found.is_warm:
            self.log.info("%s: warm.", requirement)
        else:
            self.log.info("%s: not warm: %s.", requirement, found)
        return found, found.to_dict() | ({"filled": filled} if filled else {}), filler

    def _load(self, missing: list[str]) -> Pairs:
        return self.fill(missing) if self.fill else self._rows(str(self.fill_sql))

    def _rows(self, sql: str) -> Iterator[tuple[Any, Any]]:
        _, chunks = query(str(self.fill_conn_id), sql, chunk=BATCH)
        for chunk in chunks:
            yield from chunk
