"""Going on only when replicas have what was written."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from nexus_redis_provider.core.durations import Duration, to_ms
from nexus_redis_provider.core.errors import ReplicationLagError
from nexus_redis_provider.core.replication import Mark, await_replicas, mark, progress, refuse_none
from nexus_redis_provider.hooks.redis import NexusRedisHook
from nexus_redis_provider.operators.options import is_deferrable
from nexus_redis_provider.triggers.polling import TRIGGER_GRACE
from nexus_redis_provider.triggers.replication import ReplicationTrigger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from nexus_redis_provider.core.replication import Progress


class WaitForReplicationOperator(BaseOperator):
    """Succeeds when replicas have confirmed all that was written before it began, by whomever.

    Of a Cluster, replicas of each primary. A failover to a replica that has all of it is no
    matter; one that has not, or a restart, fails the task, since then something is lost. Returns
    how many replicas have confirmed, the least of any primary.

    Confirmed is what a replica has received: that it outlives the loss of its machine, too, needs
    its own AOF.

    Example:
        publish >> WaitForReplicationOperator(task_id="replicated", replicas=1, wait_timeout=120)
    """

    template_fields: Sequence[str] = ("redis_conn_id",)
    ui_color = "#dcebf6"

    def __init__(
        self,
        *,
        redis_conn_id: str = NexusRedisHook.default_conn_name,
        replicas: int = 1,
        wait_timeout: Duration = 60.0,
        poll_interval: Duration = 1.0,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Say how many.

        Args:
            redis_conn_id: connection of type `nexus_redis` or `redis`.
            replicas: how many have to confirm, at least 1.
            wait_timeout: seconds until it gives up.
            poll_interval: seconds between two looks; replicas confirm once a second.
            deferrable: wait in the triggerer, by default as `[operators] default_deferrable`.
            kwargs: of every operator.

        Raises:
            ConfigurationError: a number is not positive.
        """
        super().__init__(**kwargs)
        refuse_none(replicas)
        self.redis_conn_id = redis_conn_id
        self.replicas = replicas
        self.wait_timeout = to_ms(wait_timeout, "wait_timeout") / 1000
        self.poll_interval = to_ms(poll_interval, "poll_interval") / 1000
        self.deferrable = is_deferrable(given=deferrable)

    def execute(self, context: Context) -> int:
        with NexusRedisHook(self.redis_conn_id) as hook:
            client = hook.get_conn()
            if not self.deferrable:
                found = await_replicas(
                    client,
                    self.replicas,
                    timeout=self.wait_timeout,
                    poll_interval=self.poll_interval,
                )
                return self._confirmed(found)
            marks = mark(client)
        return self._wait(marks, time.time() + self.wait_timeout)

    def resume(
        self, context: Context, event: Mapping[str, Any], marks: Sequence[Mapping[str, Any]]
    ) -> int:
        """Look again after the trigger's event, and say who is behind when it is too late."""
        return self._wait(tuple(map(Mark.from_dict, marks)), event["until"])

    def _wait(self, marks: tuple[Mark, ...], until: float) -> int:  # noqa: RET503 - defer never returns
        with NexusRedisHook(self.redis_conn_id) as hook:
            found = progress(hook.get_conn(), marks, self.replicas)
        if found.is_done:
            return self._confirmed(found)
        left = until - time.time()
        if left <= 0:
            raise ReplicationLagError(self.replicas, "; ".join(found.lags), self.wait_timeout)
        facts = [one.to_dict() for one in marks]
        trigger = ReplicationTrigger(
            redis_conn_id=self.redis_conn_id,
            marks=facts,
            replicas=self.replicas,
            poll_interval=self.poll_interval,
            until=until,
        )
        self.defer(
            trigger=trigger,
            method_name=self.resume.__name__,
            kwargs={"marks": facts},
            timeout=left + TRIGGER_GRACE,
        )

    def _confirmed(self, found: Progress) -> int:
        self.log.info("Confirmed by %d replica(s).", found.confirmed)
        return found.confirmed
