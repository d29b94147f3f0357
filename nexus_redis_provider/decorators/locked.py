"""`@task.locked`: a Python task that runs only while it holds a lock.

Example:
    @task.locked(lock="warehouse:{{ params.region }}", permits=3)
    def load(rows, lock=None):
        for batch in rows:
            lock.ensure_held()
            write(batch, fence=lock.token)
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.standard.decorators.python import _PythonDecoratedOperator
from airflow.sdk.bases.decorator import task_decorator_factory
from airflow.sdk.exceptions import AirflowSkipException

from nexus_redis_provider.core.durations import Duration
from nexus_redis_provider.core.locks import Lock
from nexus_redis_provider.core.locks.holding import DEFAULT_LEASE
from nexus_redis_provider.core.locks.protocol import Claim
from nexus_redis_provider.core.locks.states import Acquisition
from nexus_redis_provider.hooks.dag_runs import deployment_id
from nexus_redis_provider.hooks.redis import NexusRedisHook
from nexus_redis_provider.operators import lock_metrics
from nexus_redis_provider.operators.dag_lock import owner_of
from nexus_redis_provider.operators.locking import LockingOperator, Patience, description_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow.sdk import Context
    from airflow.sdk.bases.decorator import TaskDecorator


class LockedPythonOperator(LockingOperator, _PythonDecoratedOperator):
    """Runs its function only while the task holds the lock, and fails if it lost it meanwhile.

    The lock is the task's, not the run's: taken before the function and given back after it,
    however it ends, and renewed meanwhile. A task that is killed loses it with the lease. The
    function finds it, a `Lock`, in a parameter `lock=None` and in the context.
    """

    template_fields: Sequence[str] = (
        *_PythonDecoratedOperator.template_fields,
        *LockingOperator.template_fields,
    )
    custom_operator_name = "@task.locked"

    def __init__(self, *, lock: str, lease: Duration | str = DEFAULT_LEASE, **kwargs: Any) -> None:
        """Describe the lock and the task.

        Args:
            lock: name of the lock.
            lease: seconds after which a task that was killed loses it; renewed at a third.
            kwargs: further options as of `DagLockOperator`, with `skip` for this task alone, and
                those of `@task`.
        """
        super().__init__(name=lock, lease=lease, **kwargs)

    def execute(self, context: Context) -> Any:
        self.take(context, self.first_patience())
        return self._run(context)

    def resume(self, context: Context, event: Mapping[str, Any]) -> Any:
        self.take(context, Patience(event["until"], event["ticket"]), again=True)
        return self._run(context)

    def claim_of(self, context: Context) -> Claim:
        instance, deployment = context["ti"], deployment_id()
        owner = f"{owner_of(context, deployment)}/{instance.task_id}/{instance.map_index}"
        return Claim(
            name=self.name,
            owner=owner,
            mode=self.mode,
            permits=int(self.permits),
            deployment=deployment,
            lease_only=True,  # renewed while the task works, and only then
            description=description_of(context),
            namespace=self.namespace,
        )

    def skip_for(self, context: Context, attempt: Acquisition) -> NoReturn:
        raise AirflowSkipException(f"Lock {self.name!r} is held by another task.")

    def _run(self, context: Context) -> Any:
        claim, began_at = self.claim_of(context), time.monotonic()
        with Lock(
            NexusRedisHook(self.redis_conn_id).endpoint,
            claim.name,
            owner=claim.owner,  # which has it already: this renews it from now on
            lease=float(self.lease) if isinstance(self.lease, str) else self.lease,
            mode=claim.mode,
            permits=claim.permits,
            description=claim.description,
            allow_eviction=self.allow_eviction,
            namespace=claim.namespace,
        ) as lock:
            context["lock"] = lock  # type: ignore[typeddict-unknown-key]
            result = _PythonDecoratedOperator.execute(self, context)
            lock.ensure_held()
        lock_metrics.duration("hold_time", claim.name, time.monotonic() - began_at)
        return result


def locked_task(
    python_callable: Callable[..., Any] | None = None,
    *,
    multiple_outputs: bool | None = None,
    **kwargs: Any,
) -> TaskDecorator:
    """Make a function a `LockedPythonOperator`; use it as `@task.locked(lock=...)`.

    Args:
        python_callable: the function.
        multiple_outputs: as of `@task`.
        kwargs: as of `LockedPythonOperator`.
    """
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=LockedPythonOperator,
        **kwargs,
    )
