"""Taking from a cache what is no longer true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.gold.unpublishing import unpublish
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE, GoldKeys
from nexus_redis_provider.core.keyspace.patterns import beginning_with
from nexus_redis_provider.core.keyspace.walks import delete
from nexus_redis_provider.hooks.redis import NexusRedisHook
from nexus_redis_provider.operators.options import refuse_lost_token

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis
    from airflow.sdk import Context

# What does not go with each way of saying what is no longer true.
_UNFIT = {
    "pattern": ("fence",),
    "prefix": ("fence",),
    "tags": ("key_type", "dry_run_only", "fence"),
    "dataset": ("key_type", "dry_run_only"),
}


class InvalidateCacheOperator(BaseOperator):
    """When it succeeds, nothing of what was named is left to be read.

    Keys by pattern or prefix are unlinked in batches, on all nodes of a Cluster; returns, by XCom,
    `found` and `deleted`. Of a Gold dataset all versions go at once, and readers ask their source
    until the next publish; returns `dataset` and `version`, the one that was live, or None. Entries
    by tag are out of reach at once, and expire by themselves; returns `tags`, the new generation of
    each. Doing it again does no harm, so a retry is safe.

    Example:
        InvalidateCacheOperator(task_id="invalidate", prefix="api:prices:{{ params.region }}:")
        InvalidateCacheOperator(task_id="tags", tags=["prices", "region:{{ params.region }}"])
    """

    template_fields: Sequence[str] = (
        *("redis_conn_id", "pattern", "prefix", "key_type"),
        *("tags", "dataset", "fence", "namespace"),
    )
    ui_color = "#dcebf6"

    def __init__(
        self,
        *,
        redis_conn_id: str = NexusRedisHook.default_conn_name,
        pattern: str | None = None,
        prefix: str | None = None,
        key_type: str | None = None,
        tags: Sequence[str] | None = None,
        dataset: str | None = None,
        fence: int | str | None = None,
        dry_run: bool = False,
        namespace: str = DEFAULT_NAMESPACE,
        **kwargs: Any,
    ) -> None:
        """Say what is no longer true.

        Args:
            redis_conn_id: connection of type `nexus_redis` or `redis`.
            pattern: keys like this glob, `*` for all of the database; or
            prefix: keys that begin just so, whatever signs it has; or
            tags: all entries that carry one of these, see `core.tags`; or
            dataset: a Gold dataset, but for one that is upserted in place.
            key_type: only keys of this type, such as `hash`.
            fence: fencing token of the lock that guards the dataset: `lock.output`.
            dry_run: count the keys only.
            namespace: first part of the keys of tags and datasets.
            kwargs: of every operator.

        Raises:
            ConfigurationError: options contradict each other.
        """
        super().__init__(**kwargs)
        self.redis_conn_id = redis_conn_id
        self.pattern = pattern
        self.prefix = prefix
        self.key_type = key_type
        self.tags = tags
        self.dataset = dataset
        self.fence = fence
        # Every operator has a method `dry_run`.
        self.dry_run_only = dry_run
        self.namespace = namespace
        self._is_fenced = fence is not None
        self._check_options()

    def _check_options(self) -> None:
        given = [name for name in _UNFIT if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ConfigurationError(f"Give one of pattern, prefix, tags and dataset, not {found}.")
        for name in _UNFIT[given[0]]:
            if getattr(self, name):
                raise ConfigurationError(
                    f"{name.removesuffix('_only')} does not go with {given[0]}."
                )

    def execute(self, context: Context) -> dict[str, Any]:
        with NexusRedisHook(self.redis_conn_id) as hook:
            if self.dataset is not None:
                return self._unpublish(hook.get_conn(), self.dataset)
            if self.tags is not None:
                return self._advance(hook, self.tags)
            return self._delete(hook.get_conn())

    def _delete(self, client: redis.Redis) -> dict[str, Any]:
        pattern = beginning_with(self.prefix) if self.prefix is not None else self.pattern or ""
        done = delete(client, pattern, kind=self.key_type, dry_run=self.dry_run_only)
        self.log.info("%d keys like %r, %d of them removed.", done.found, pattern, done.deleted)
        return {"found": done.found, "deleted": done.deleted}

    def _advance(self, hook: NexusRedisHook, tags: Sequence[str]) -> dict[str, Any]:
        generations = hook.invalidate_tags(tags, namespace=self.namespace)
        self.log.info("Tags invalidated: %s.", ", ".join(map(repr, generations)))
        return {"tags": generations}

    def _unpublish(self, client: redis.Redis, dataset: str) -> dict[str, Any]:
        keys = GoldKeys(dataset, self.namespace)
        version = unpublish(client, dataset, fence=self._token(), namespace=self.namespace)
        if version is None:
            self.log.info("Nothing was live of Gold dataset %r.", dataset)
        else:
            self.log.info("Version %s of Gold dataset %r was live.", version, dataset)
        self._sweep(client, keys)
        return {"dataset": dataset, "version": version}

    def _sweep(self, client: redis.Redis, keys: GoldKeys) -> None:
        try:
            from nexus_redis_provider.core.gold.sweeping import sweep
        except ModuleNotFoundError as error:
            if error.name != "pyarrow":
                raise
            self.log.info("Without pyarrow, rows are left to the next publish to remove.")
        else:
            self.log.info("Versions removed: %s.", ", ".join(sweep(client, keys)) or "none")

    def _token(self) -> int | None:
        if not self._is_fenced:
            return None
        refuse_lost_token(self.fence)
        try:
            return int(self.fence or "")
        except ValueError:
            raise ConfigurationError(f"fence must be a number, not {self.fence!r}.") from None
