"""One DAG run at a time: a lock taken before the work and given back after it.

Example:
    with dag_lock(redis_conn_id="redis_state", on_held="skip") as lock:
        publish(fence=lock.output)

The lock is a setup task and the unlock its teardown. So clearing the work takes the lock again,
failed work still unlocks, and so does a run that is marked failed. What no teardown survives (a
`dagrun_timeout`, a deleted run, a machine that is gone) is left to the lease.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args

from airflow.sdk import BaseOperator, SkipMixin, conf
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from nexus_redis_provider.core.durations import Duration, in_words, to_ms
from nexus_redis_provider.core.errors import ConfigurationError, LockHeldError
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE
from nexus_redis_provider.core.locks import Holder, acquire, inspect, release
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.hooks.redis import NexusRedisHook
from nexus_redis_provider.triggers.dag_lock import DagLockTrigger
from nexus_redis_provider.triggers.polling import TRIGGER_GRACE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airflow.sdk import Context

OnHeld = Literal["wait", "fail", "skip"]
DEFAULT_NAME = "dag:{{ dag.dag_id }}"
_LOCK_COLOR = "#f6dccb"


def owner_of(context: Context) -> str:
    """`deployment/dag_id/run_id`: the same for every try, clear and task of a run.

    A retry thus finds the lock its own, and the unlock knows it by the run alone. Nothing in it
    needs a logical date, which manual and asset-triggered runs may lack.
    """
    deployment = conf.get("nexus_redis", "deployment_id", fallback="airflow")
    run_of_dag = context["dag_run"]
    return f"{deployment}/{run_of_dag.dag_id}/{run_of_dag.run_id}"


class DagLockOperator(BaseOperator, SkipMixin):
    """Succeeds only with the lock in the hands of this DAG run; returns the fencing token.

    The token (int, by XCom) rises with every new holder: hand it to what writes, as `fence`. The
    lock stays with the run, over retries and clears, until `DagUnlockOperator` gives it back or the
    lease is over. Server trouble fails the task, never the exclusion; `retries` are for that.

    There is no `on_kill`: Airflow calls it while `execute` may still go on, and a lock given back
    under working tasks would protect nothing.
    """

    template_fields: Sequence[str] = ("name", "redis_conn_id", "namespace")
    ui_color = _LOCK_COLOR
    # The scheduler then keeps tasks skipped that are cleared without the lock task.
    inherits_from_skipmixin = True

    def __init__(
        self,
        *,
        name: str = DEFAULT_NAME,
        redis_conn_id: str = NexusRedisHook.default_conn_name,
        lease: Duration = timedelta(hours=4),
        on_held: OnHeld = "wait",
        wait_timeout: Duration | None = None,
        poll_interval: Duration = 10.0,
        deferrable: bool = True,
        namespace: str = DEFAULT_NAMESPACE,
        **kwargs: Any,
    ) -> None:
        """Describe the lock; the task is a setup task.

        Args:
            name: what is locked; by default this DAG. The same name in several DAGs is one lock.
            redis_conn_id: connection of type `nexus_redis` or `redis`, of the *state* role.
            lease: seconds until others may take the lock, even if the run goes on. Choose it longer
                than any run may take.
            on_held: what to do while another run holds it. `wait` for it; `fail` this run at once,
                without retries; `skip` every task downstream, whatever its trigger rule, except
                teardowns.
            wait_timeout: seconds to `wait`, then `fail`; None waits as long as it takes.
            poll_interval: seconds between two looks while waiting.
            deferrable: wait in the triggerer, holding no worker slot.
            namespace: first part of the lock's keys.

        Raises:
            ConfigurationError: an option has a value it cannot have.
        """
        super().__init__(**kwargs)
        if on_held not in get_args(OnHeld):
            raise ConfigurationError(
                f"on_held must be one of {', '.join(get_args(OnHeld))}, not {on_held!r}."
            )
        self.name = name
        self.redis_conn_id = redis_conn_id
        self.lease_s = to_ms(lease, "lease") / 1000
        self.on_held = on_held
        self.wait_s = None if wait_timeout is None else to_ms(wait_timeout, "wait_timeout") / 1000
        self.poll_s = to_ms(poll_interval, "poll_interval") / 1000
        self.deferrable = deferrable
        self.namespace = namespace
        self.is_setup = True

    def execute(self, context: Context) -> int:
        return self._take(context, None if self.wait_s is None else time.time() + self.wait_s)

    def resume(self, context: Context, event: Mapping[str, Any]) -> int:
        """Try again after the trigger's event; when another run was faster, wait on."""
        return self._take(context, event["until"])

    def _take(self, context: Context, until: float | None) -> int:
        owner, description = owner_of(context), _description_of(context)
        call = acquire(
            self.name, owner, self.lease_s, description=description, namespace=self.namespace
        )
        with NexusRedisHook(self.redis_conn_id) as hook:
            while not (attempt := run(hook.get_conn(), call)).acquired:
                self.log.info("%s", _in_words(attempt.holder))
                self._refuse(context, attempt.holder, until)
                time.sleep(self.poll_s if until is None else min(self.poll_s, max(0, _left(until))))
        token = attempt.holder.token
        self.log.info(
            "Lock %r is ours: owner %s, fencing token %d, lease %s.",
            *(self.name, owner, token, in_words(attempt.holder.expires_in)),
        )
        return token

    def _refuse(self, context: Context, holder: Holder, until: float | None) -> None:
        """Return only to look again in this worker."""
        if self.on_held == "skip":
            self._skip_run(context)
        if self.on_held == "fail" or (until is not None and _left(until) <= 0):
            waited = self.wait_s if self.on_held == "wait" and self.wait_s else 0.0
            held = LockHeldError(self.name, holder.owner, holder.expires_in, waited)
            raise AirflowFailException(str(held)) from held
        if self.deferrable:
            self.defer(
                trigger=self._trigger(until),
                method_name=self.resume.__name__,
                timeout=None if until is None else _left(until) + TRIGGER_GRACE,
            )

    def _trigger(self, until: float | None) -> DagLockTrigger:
        return DagLockTrigger(
            redis_conn_id=self.redis_conn_id,
            name=self.name,
            namespace=self.namespace,
            poll_interval=self.poll_s,
            until=until,
        )

    def _skip_run(self, context: Context) -> NoReturn:
        downstream = self.get_flat_relatives(upstream=False)
        # Ends this task, as a success of its own, except in a mapped task.
        self.skip(context["ti"], [task for task in downstream if not task.is_teardown])
        raise AirflowSkipException(f"Lock {self.name!r} is held by another run.")


class DagUnlockOperator(BaseOperator):
    """Leaves the lock free of this DAG run, and untouched if another one holds it. Repeatable.

    It knows the lock by its owner, this run, and so needs no token. Returns whether there was
    anything to release.
    """

    template_fields: Sequence[str] = ("name", "redis_conn_id", "namespace")
    ui_color = _LOCK_COLOR

    def __init__(
        self,
        *,
        name: str = DEFAULT_NAME,
        redis_conn_id: str = NexusRedisHook.default_conn_name,
        namespace: str = DEFAULT_NAMESPACE,
        retries: int = 3,
        retry_delay: timedelta = timedelta(seconds=20),
        **kwargs: Any,
    ) -> None:
        """Describe the lock; the task is a teardown task.

        Args:
            name: as of the `DagLockOperator`.
            redis_conn_id: as of the `DagLockOperator`.
            namespace: as of the `DagLockOperator`.
            retries: further attempts when the server is away.
            retry_delay: between two attempts.
        """
        super().__init__(retries=retries, retry_delay=retry_delay, **kwargs)
        self.name = name
        self.redis_conn_id = redis_conn_id
        self.namespace = namespace
        self.as_teardown()

    def execute(self, context: Context) -> bool:
        owner = owner_of(context)
        with NexusRedisHook(self.redis_conn_id) as hook:
            client = hook.get_conn()
            holder = run(client, inspect(self.name, namespace=self.namespace))
            if holder is None:
                self.log.info("Lock %r is free already.", self.name)
                return False
            if holder.owner != owner:
                self.log.warning("Not ours to release. %s", _in_words(holder))
                return False
            call = release(self.name, owner, holder.token, namespace=self.namespace)
            released = run(client, call)
        self.log.info("Lock %r released: token %d of %s.", self.name, holder.token, owner)
        return released


@contextmanager
def dag_lock(
    name: str = DEFAULT_NAME,
    *,
    redis_conn_id: str = NexusRedisHook.default_conn_name,
    namespace: str = DEFAULT_NAMESPACE,
    lock_task_id: str = "lock",
    unlock_task_id: str = "unlock",
    **options: Any,
) -> Iterator[DagLockOperator]:
    """The tasks defined within run only while this DAG run holds the lock.

    Args:
        name: what is locked; by default this DAG.
        redis_conn_id: connection of type `nexus_redis` or `redis`, of the *state* role.
        namespace: first part of the lock's keys.
        lock_task_id: of the setup task before them.
        unlock_task_id: of the teardown task after them.
        options: further ones of `DagLockOperator`, such as `on_held` and `lease`.

    Returns:
        The lock task; its `output` is the fencing token.
    """
    where: dict[str, Any] = {
        "name": name,
        "redis_conn_id": redis_conn_id,
        "namespace": namespace,
    }
    lock = DagLockOperator(task_id=lock_task_id, **where, **options)
    unlock = DagUnlockOperator(task_id=unlock_task_id, **where)
    with unlock.as_teardown(setups=lock):
        yield lock


def _left(until: float) -> float:
    return until - time.time()


def _description_of(context: Context) -> dict[str, Any]:
    instance, run_of_dag = context["ti"], context["dag_run"]
    return {
        "dag_id": run_of_dag.dag_id,
        "run_id": run_of_dag.run_id,
        "run_type": run_of_dag.run_type,
        "task_id": instance.task_id,
        "url": instance.log_url,
    }


def _in_words(holder: Holder) -> str:
    left = f"{in_words(holder.expires_in)} left" if holder.expires_in > 0 else "over"
    where = f" ({url})" if (url := holder.description.get("url")) else ""
    since = holder.since.isoformat(timespec="seconds")
    return f"Lock {holder.name!r} is held by {holder.owner}{where} since {since}; lease: {left}."
