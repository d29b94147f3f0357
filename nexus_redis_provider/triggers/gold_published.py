"""DAGs that run when a Gold dataset is published, by whomever, or rolled back."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from airflow.triggers.shared_stream import SharedStreamProducer
from asgiref.sync import sync_to_async

from nexus_redis_provider.core.errors import ConfigurationError, ServerError
from nexus_redis_provider.core.gold.events import Follower
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE, GoldKeys
from nexus_redis_provider.hooks.dag_runs import deployment_id
from nexus_redis_provider.hooks.redis import NexusRedisHook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Sequence

    from airflow.triggers.shared_stream import AdvanceItem

_log = logging.getLogger(__name__)

KINDS = ("publish", "rollback")
_SHARED = ("redis_conn_id", "dataset", "namespace", "watcher")


class GoldPublishedTrigger(BaseEventTrigger):
    """Fires for every publish and rollback of a dataset, also for those while nobody listened.

    The payload is the event: `dataset`, `kind`, `version`, `published_ms`, `rows`, `fence`, and
    `id`, its place in the dataset's stream. An event counts as heard when Airflow has stored what
    it fired, so a triggerer that dies fires it again: at least once, never not at all, as long as
    no thousand later events came before it was heard. The first time it listens it hears what comes
    from then on.

    Airflow makes one run of events that come within a moment, and tells it of the first of them
    alone; the others are told to the run after it. So a DAG reads what is live, and takes the
    payload for the reason why it runs.

    Triggers that differ in `kinds` alone share a connection, and another one to say what was heard.

    Example:
        AssetWatcher(name="sales", trigger=GoldPublishedTrigger(dataset="sales"))
    """

    def __init__(
        self,
        *,
        dataset: str,
        redis_conn_id: str = NexusRedisHook.default_conn_name,
        kinds: Sequence[str] = KINDS,
        watcher: str | None = None,
        namespace: str = DEFAULT_NAMESPACE,
    ) -> None:
        """Remember what to follow.

        Args:
            dataset: a Gold dataset; it need not exist yet.
            redis_conn_id: connection of type `nexus_redis` or `redis`.
            kinds: of events to fire for: `publish`, `rollback`.
            watcher: under which the server keeps how far this one has heard; by default the id of
                this deployment. Each deployment needs its own.
            namespace: first part of the dataset's keys.

        Raises:
            ConfigurationError: there is no such kind, or the dataset cannot have this name.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        GoldKeys(dataset, namespace)
        if not kinds or isinstance(kinds, str) or not set(kinds) <= set(KINDS):
            raise ConfigurationError(f"kinds are some of {', '.join(KINDS)}, not {kinds!r}.")
        self.dataset = dataset
        self.redis_conn_id = redis_conn_id
        self.kinds = sorted(set(kinds))
        self.watcher = watcher
        self.namespace = namespace

    def serialize(self) -> tuple[str, dict[str, Any]]:
        classpath = f"{type(self).__module__}.{type(self).__qualname__}"
        names = (*_SHARED, "kinds")
        return classpath, {name: getattr(self, name) for name in names}

    def shared_stream_key(self) -> Hashable:
        return (__name__, *(getattr(self, name) for name in _SHARED))

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SharedStreamProducer:
        return _Events({name: kwargs[name] for name in _SHARED})

    async def filter_shared_stream(
        self, shared_stream: AsyncIterator[dict[str, Any]]
    ) -> AsyncIterator[TriggerEvent]:
        async for event in shared_stream:
            if event["kind"] in self.kinds:
                yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """The same, where a triggerer shares no streams."""
        events = _Events({name: getattr(self, name) for name in _SHARED})
        try:
            async for event, place in events.open_stream():
                if event["kind"] in self.kinds:
                    yield TriggerEvent(event)  # type: ignore[no-untyped-call]
                await events.heard(place)
        finally:
            await events.aclose()


class _Events(SharedStreamProducer):
    """The events of a dataset, for all triggers of a triggerer that follow it under one name."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._follower: Follower | None = None

    async def open_stream(self) -> AsyncIterator[tuple[dict[str, Any], str]]:
        options = self._options
        endpoint = await NexusRedisHook(options["redis_conn_id"]).get_endpoint()
        name = options["watcher"] or await sync_to_async(deployment_id)()
        self._follower = Follower(
            endpoint, options["dataset"], name, namespace=options["namespace"]
        )
        async for event in self._follower.events():
            yield event.to_dict(), event.id

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        # Events behind one that failed wait for it: the stream is then read again from there.
        for item in batch:
            if item.outcome.failed:
                raise ServerError(f"Airflow did not store event {item.broker_payload}.")
        await self.heard(batch[-1].broker_payload)

    async def heard(self, place: str) -> None:
        if self._follower is None:
            raise RuntimeError("Nothing was read yet.")
        try:
            await self._follower.heard(place)
        except ServerError as error:
            # The next event says so for this one, too.
            _log.warning("Not noted that event %s was heard: %s", place, error)

    async def aclose(self) -> None:
        if self._follower is not None:
            await self._follower.aclose()
