"""One DAG run at a time: a lock taken before the work and given back after it.

Example:
    with dag_lock(redis_conn_id="redis_state", on_held="skip") as lock:
        publish(fence=lock.output)

The lock is a setup task and the unlock its teardown. So clearing the work takes the lock again,
failed work still unlocks, and so does a run that is marked failed. What no teardown survives (a
`dagrun_timeout`, a deleted run, a machine that is gone) is found out by the next contender, who
asks Airflow whether the run that holds the lock still lives.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator, SkipMixin
from airflow.sdk.exceptions import AirflowSkipException

from nexus_redis_provider.core.durations import Duration, in_words
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE
from nexus_redis_provider.core.locks.protocol import Claim, Mode, inspect, release
from nexus_redis_provider.core.locks.states import Acquisition
from nexus_redis_provider.core.scripts import run
from nexus_redis_provider.hooks.dag_runs import deployment_id
from nexus_redis_provider.hooks.redis import NexusRedisHook
from nexus_redis_provider.hooks.roles import state_conn_id
from nexus_redis_provider.operators import lock_metrics
from nexus_redis_provider.operators.locking import (
    LOCK_COLOR,
    LockingOperator,
    OnHeld,
    OnUnreachable,
    Patience,
    description_of,
    in_line,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airflow.sdk import Context

DEFAULT_NAME = "dag:{{ dag.dag_id }}"


def owner_of(context: Context, deployment: str) -> str:
    """`deployment/dag_id/run_id`: the same for every try, clear and task of a run.

    A retry thus finds the lock its own, and the unlock knows it by the run alone. Nothing in it
    needs a logical date, which manual and asset-triggered runs may lack.
    """
    run_of_dag = context["dag_run"]
    return f"{deployment}/{run_of_dag.dag_id}/{run_of_dag.run_id}"


class DagLockOperator(LockingOperator, SkipMixin):
    """Succeeds only with the lock in the hands of this DAG run; returns the fencing token.

    The token (int, by XCom) rises with every new holder: hand it to what writes, as `fence`.

    The lock stays with the run, over retries and clears, as long as the run is queued or running
    and until `DagUnlockOperator` gives it back. Nobody guesses how long that may take: who wants
    the lock asks Airflow, and takes it from a run that is finished or deleted. While Airflow cannot
    say, the run counts as alive. Server trouble fails the task, never the exclusion.

    There is no `on_kill`: Airflow calls it while `execute` may still go on, and a lock given back
    under working tasks would protect nothing. Who is killed while waiting is passed over.
    """

    # The scheduler then keeps tasks skipped that are cleared without the lock task.
    inherits_from_skipmixin = True

    def __init__(
        self,
        *,
        name: str = DEFAULT_NAME,
        redis_conn_id: str | None = None,
        mode: Mode = "exclusive",
        permits: int | str = 1,
        lease: Duration | str = timedelta(hours=4),
        on_held: OnHeld | str = "wait",
        on_unreachable: OnUnreachable | str = "fail",
        wait_timeout: Duration | str | None = None,
        claim_timeout: Duration | str = 120.0,
        poll_interval: Duration = 10.0,
        replicas: int | str = 0,
        allow_eviction: bool = False,
        deferrable: bool = True,
        namespace: str = DEFAULT_NAMESPACE,
        **kwargs: Any,
    ) -> None:
        """Describe the lock; the task is a setup task. All options may be templates but
        `poll_interval`, `allow_eviction` and `deferrable`.

        Args:
            name: what is locked; by default this DAG. The same name in several DAGs is one lock.
            redis_conn_id: connection of type `nexus_redis` or `redis`, of the *state* role; by
                default `[nexus_redis] state_conn_id`.
            mode: `exclusive`, or `shared` with others that say so too.
            permits: how many runs may hold it at once; more than 1 make it a semaphore.
            lease: seconds until holders of another kind (another Airflow, plain Python) may take
                the lock. Contenders of this Airflow go by the state of the run alone.
            on_held: what to do while others hold it. `wait` in line, first come, first served;
                `fail` this run at once, without retries; `skip` every task downstream, whatever its
                trigger rule, except teardowns.
            on_unreachable: what to do while Redis is away: `fail` this try, or `wait` for it as for
                the lock. Working without a lock is not offered: it would not be one.
            wait_timeout: seconds to `wait`, then `fail`; None waits as long as it takes.
            claim_timeout: seconds within which a waiter must be heard from, or come when it is its
                turn; else others pass it, and it has its place again when it comes back.
            poll_interval: seconds between two looks while waiting, in case a wake-up is lost, and
                between two questions whether the holder lives.
            replicas: how many replicas must confirm before the lock counts as taken.
            allow_eviction: take it on a server that may evict it, too; two runs may hold it then.
            deferrable: wait in the triggerer, holding no worker slot.
            namespace: first part of the lock's keys.

        Raises:
            ConfigurationError: an option has a value it cannot have.
        """
        super().__init__(
            name=name,
            redis_conn_id=redis_conn_id,
            mode=mode,
            permits=permits,
            lease=lease,
            on_held=on_held,
            on_unreachable=on_unreachable,
            wait_timeout=wait_timeout,
            claim_timeout=claim_timeout,
            poll_interval=poll_interval,
            replicas=replicas,
            allow_eviction=allow_eviction,
            deferrable=deferrable,
            namespace=namespace,
            **kwargs,
        )
        self.is_setup = True

    def execute(self, context: Context) -> int:
        return self.take(context, self.first_patience()).token

    def resume(self, context: Context, event: Mapping[str, Any]) -> int:
        return self.take(context, Patience(event["until"], event["ticket"]), again=True).token

    def claim_of(self, context: Context) -> Claim:
        deployment = deployment_id()
        return Claim(
            name=self.name,
            owner=owner_of(context, deployment),
            mode=self.mode,
            permits=int(self.permits),
            deployment=deployment,
            description=description_of(context),
            namespace=self.namespace,
        )

    def skip_for(self, context: Context, attempt: Acquisition) -> NoReturn:
        downstream = self.get_flat_relatives(upstream=False)
        # Ends this task, as a success of its own, except in a mapped task.
        self.skip(context["ti"], [task for task in downstream if not task.is_teardown])
        raise AirflowSkipException(f"Lock {self.name!r} is held by another run.")


class DagUnlockOperator(BaseOperator):
    """Leaves the lock free of this DAG run, and untouched if another one holds it. Repeatable.

    It knows the lock by its owner, this run, and so needs no token. Returns whether there was
    anything to release. If Redis stays away for all its tries, the run's end frees the lock.
    """

    template_fields: Sequence[str] = ("name", "redis_conn_id", "namespace")
    ui_color = LOCK_COLOR

    def __init__(
        self,
        *,
        name: str = DEFAULT_NAME,
        redis_conn_id: str | None = None,
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
        self.redis_conn_id = state_conn_id(redis_conn_id)
        self.namespace = namespace
        self.as_teardown()

    def execute(self, context: Context) -> bool:
        owner = owner_of(context, deployment_id())
        with closing(NexusRedisHook(self.redis_conn_id)) as hook:
            client = hook.get_conn()
            state = run(client, inspect(self.name, waiters=0, namespace=self.namespace))
            ours = next((holder for holder in state.holders if holder.owner == owner), None)
            if ours is None:
                for line in in_line(self.name, state.holders, 0, 0) if state.holders else ():
                    self.log.info("Not ours to release. %s", line)
                self.log.info("Lock %r is not held by this run: nothing to do.", self.name)
                return False
            call = release(self.name, owner, ours.token, ours.entries, namespace=self.namespace)
            held_for = run(client, call)
        if held_for is None:
            return False
        lock_metrics.duration("hold_time", self.name, held_for)
        self.log.info(
            "Lock %r released after %s: token %d of %s.",
            *(self.name, in_words(held_for), ours.token, owner),
        )
        return True


@contextmanager
def dag_lock(
    name: str = DEFAULT_NAME,
    *,
    redis_conn_id: str | None = None,
    namespace: str = DEFAULT_NAMESPACE,
    lock_task_id: str = "lock",
    unlock_task_id: str = "unlock",
    **options: Any,
) -> Iterator[DagLockOperator]:
    """The tasks defined within run only while this DAG run holds the lock.

    Args:
        name: what is locked; by default this DAG.
        redis_conn_id: connection of type `nexus_redis` or `redis`, of the *state* role; by default
            `[nexus_redis] state_conn_id`.
        namespace: first part of the lock's keys.
        lock_task_id: of the setup task before them.
        unlock_task_id: of the teardown task after them.
        options: further ones of `DagLockOperator`, such as `on_held` and `permits`.

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
