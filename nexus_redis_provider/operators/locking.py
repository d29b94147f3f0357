"""Taking a lock in a task: at once, or after waiting where it costs no worker."""

from __future__ import annotations

import time
import uuid
from abc import abstractmethod
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.exceptions import AirflowFailException

from nexus_redis_provider.core.clients import thread_client
from nexus_redis_provider.core.durations import Duration, in_words, to_ms
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    LockHeldError,
    NotReplicatedError,
    UnreachableError,
)
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE
from nexus_redis_provider.core.locks.evictions import refuse_eviction
from nexus_redis_provider.core.locks.protocol import (
    Claim,
    Mode,
    acquire,
    extend,
    leave,
    release,
    renew,
    steal,
)
from nexus_redis_provider.core.locks.states import Acquisition, Holder
from nexus_redis_provider.core.scripts import run, run_replicated
from nexus_redis_provider.hooks.dag_runs import is_dag_run_alive
from nexus_redis_provider.hooks.redis import NexusRedisHook
from nexus_redis_provider.hooks.roles import state_conn_id
from nexus_redis_provider.operators import lock_metrics
from nexus_redis_provider.operators.options import is_literal, one_of, seconds, whole
from nexus_redis_provider.triggers.dag_lock import DagLockTrigger
from nexus_redis_provider.triggers.polling import TRIGGER_GRACE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import redis
    from airflow.sdk import Context

OnHeld = Literal["wait", "fail", "skip"]
OnUnreachable = Literal["fail", "wait"]
LOCK_COLOR = "#f6dccb"
_REPLICA_TIMEOUT_MS = 1000


class LockHolderLink(BaseOperatorLink):
    """From a task that waits for a lock to the run that holds it."""

    name = "Lock holder"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        return getattr(operator, "holder_url", "")


@dataclass(frozen=True, slots=True)
class Patience:
    """What a task that waits takes along from one worker to the next.

    Attributes:
        until: when it gives up, in seconds since 1970; None waits as long as it takes.
        ticket: its place in the line, for a server that has forgotten it.
    """

    until: float | None = None
    ticket: int = 0

    @property
    def left(self) -> float:
        """Seconds left; infinite without an end."""
        return float("inf") if self.until is None else self.until - time.time()


class LockingOperator(BaseOperator):
    """What every operator does that takes a lock; see `DagLockOperator` for the promises."""

    template_fields: Sequence[str] = (
        "name",
        "redis_conn_id",
        "mode",
        "permits",
        "lease",
        "on_held",
        "on_unreachable",
        "wait_timeout",
        "claim_timeout",
        "replicas",
        "namespace",
    )
    operator_extra_links = (LockHolderLink(),)
    ui_color = LOCK_COLOR

    def __init__(
        self,
        *,
        name: str,
        redis_conn_id: str | None = None,
        mode: Mode = "exclusive",
        permits: int | str = 1,
        lease: Duration | str,
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
        """Describe the lock; see `DagLockOperator`."""
        super().__init__(**kwargs)
        self.name = name
        self.redis_conn_id = state_conn_id(redis_conn_id)
        self.mode = mode
        self.permits = permits
        self.lease = lease
        self.on_held = on_held
        self.on_unreachable = on_unreachable
        self.wait_timeout = wait_timeout
        self.claim_timeout = claim_timeout
        self.poll_s = to_ms(poll_interval, "poll_interval") / 1000
        self.replicas = replicas
        self.allow_eviction = allow_eviction
        self.deferrable = deferrable
        self.namespace = namespace
        self.holder_url = ""
        self._check_options()

    def _check_options(self) -> None:
        """Refuse what can be seen to be wrong before templates are rendered."""
        checks: dict[str, Callable[[], object]] = {
            "on_held": lambda: one_of("on_held", self.on_held, OnHeld),
            "on_unreachable": lambda: one_of("on_unreachable", self.on_unreachable, OnUnreachable),
            "mode": lambda: one_of("mode", self.mode, Mode),
            "permits": lambda: whole("permits", self.permits, least=1),
            "replicas": lambda: whole("replicas", self.replicas, least=0),
            "lease": lambda: seconds("lease", self.lease),
            "claim_timeout": lambda: seconds("claim_timeout", self.claim_timeout),
            "wait_timeout": lambda: (
                self.wait_timeout is None or seconds("wait_timeout", self.wait_timeout)
            ),
        }
        for name, check in checks.items():
            if is_literal(getattr(self, name)):
                check()
        if (
            is_literal(self.claim_timeout)
            and seconds("claim_timeout", self.claim_timeout) < 3 * self.poll_s
        ):
            raise ConfigurationError(
                f"claim_timeout must be at least three times poll_interval, {self.poll_s} s, not "
                f"{self.claim_timeout!r}: else who waits is passed over between two looks."
            )

    @abstractmethod
    def claim_of(self, context: Context) -> Claim:
        """Who takes the lock, and how."""

    @abstractmethod
    def resume(self, context: Context, event: Mapping[str, Any]) -> Any:
        """Try again after the trigger's event; when another one was faster, wait on."""

    @abstractmethod
    def skip_for(self, context: Context, attempt: Acquisition) -> NoReturn:
        """End this task as `on_held="skip"` says."""

    def first_patience(self) -> Patience:
        """Of a task that begins to wait now."""
        timeout = self.wait_timeout
        return Patience(None if timeout is None else time.time() + seconds("wait_timeout", timeout))

    def take(self, context: Context, patience: Patience, *, again: bool = False) -> Acquisition:
        """Return with the lock, or end this task for now or for good, as the options say.

        Args:
            context: of the task.
            patience: how long to wait.
            again: whether this task has waited already.
        """
        self._check_options()
        claim, request = self.claim_of(context), f"{uuid.uuid4().hex}.1"
        while True:
            try:
                with closing(NexusRedisHook(self.redis_conn_id)) as hook:
                    if not self.allow_eviction:
                        refuse_eviction(hook.endpoint, hook.get_conn(), claim)
                    attempt = self._ask(hook, claim, patience, request)
            except UnreachableError as error:
                if self.on_unreachable == "fail" or patience.left <= 0:
                    raise
                self.log.warning("%s Waiting for it.", error)
                self._wait_on(patience, claim)
                continue
            if attempt.acquired:
                return self._taken(claim, attempt)
            patience = Patience(patience.until, attempt.ticket or patience.ticket)
            if not again:
                lock_metrics.count("contention", claim.name)
            again = True
            self._refuse(context, claim, attempt, patience)

    def _ask(
        self, hook: NexusRedisHook, claim: Claim, patience: Patience, request: str
    ) -> Acquisition:
        client = hook.get_conn()
        lease_s = seconds("lease", self.lease)
        stay = seconds("claim_timeout", self.claim_timeout) if self.on_held == "wait" else None
        call = acquire(claim, lease_s, stay=stay, ticket=patience.ticket, request=request)
        attempt = run(client, call)
        # A dead holder makes room at once; whether for us, the line decides.
        while not attempt.acquired and self._remove_dead(client, claim, attempt.holders):
            attempt = run(client, call)
        if attempt.acquired:
            lock_metrics.count("expiries", claim.name, attempt.expired)
            if replicas := whole("replicas", self.replicas, least=0):
                self._confirm(hook, claim, attempt, replicas)
        return attempt

    def _remove_dead(self, client: redis.Redis, claim: Claim, holders: Sequence[Holder]) -> bool:
        """Take the lock from holders whose DAG run is over, and renew it for those that live."""
        removed, lease_s = False, seconds("lease", self.lease)
        for holder in holders:
            if not holder.deployment or holder.deployment != claim.deployment:
                continue
            try:
                alive = is_dag_run_alive(holder)
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody may be robbed
                self.log.warning("Airflow cannot say if %s lives: %s", holder.owner, error)
                continue
            if alive:
                if holder.expires_in < lease_s / 2:
                    run(client, extend(holder, lease_s, namespace=claim.namespace))
            elif run(client, steal(holder, namespace=claim.namespace)) is not None:
                self.log.warning(
                    "Took lock %r from %s, whose run is over.", holder.name, holder.owner
                )
                lock_metrics.count("steals", holder.name)
                removed = True
        return removed

    def _confirm(
        self, hook: NexusRedisHook, claim: Claim, attempt: Acquisition, replicas: int
    ) -> None:
        client = thread_client(hook.endpoint)
        where = {"namespace": claim.namespace}
        again = renew(claim.name, claim.owner, attempt.token, seconds("lease", self.lease), **where)
        taken_by, confirmed = run_replicated(client, again, _REPLICA_TIMEOUT_MS, replicas)
        if taken_by is None and confirmed >= replicas:
            return
        # A lock that the run has worked under before stays with it.
        if attempt.entries == 1:
            run(client, release(claim.name, claim.owner, attempt.token, 1, **where))
        raise NotReplicatedError(claim.name, replicas, confirmed, _REPLICA_TIMEOUT_MS / 1000)

    def _taken(self, claim: Claim, attempt: Acquisition) -> Acquisition:
        if attempt.entries == 1:
            lock_metrics.duration("wait_time", claim.name, attempt.waited)
        waited = f" after {in_words(attempt.waited)}" if attempt.waited else ""
        self.log.info(
            "Lock %r is ours%s: owner %s, fencing token %d, lease %s.",
            *(claim.name, waited, claim.owner, attempt.token, in_words(attempt.expires_in)),
        )
        self.holder_url = ""
        return attempt

    def _refuse(
        self, context: Context, claim: Claim, attempt: Acquisition, patience: Patience
    ) -> None:
        """Return only to look again in this worker."""
        for line in in_line(claim.name, attempt.holders, attempt.position, attempt.length):
            self.log.info("%s", line)
        first = attempt.holders[0] if attempt.holders else None
        self.holder_url = str(first.description.get("url", "")) if first else ""
        if self.on_held == "skip":
            self.skip_for(context, attempt)
        if any(claim.owner.startswith(f"{holder.owner}/") for holder in attempt.holders):
            raise AirflowFailException(
                f"Lock {claim.name!r} is held by this very run, which would wait for itself: give "
                "the task another lock than the run."
            )
        if self.on_held == "fail" or patience.left <= 0:
            waited = 0.0
            if self.on_held == "wait" and self.wait_timeout is not None:
                waited = seconds("wait_timeout", self.wait_timeout)
                self._leave_line(claim)
            owner, expires_in = (first.owner, first.expires_in) if first else ("", 0.0)
            held = LockHeldError(claim.name, owner, expires_in, waited, attempt.position)
            raise AirflowFailException(str(held)) from held
        self._wait_on(patience, claim)

    def _leave_line(self, claim: Claim) -> None:
        """Those behind are not to wait until they may pass who has given up."""
        call = leave(claim.name, claim.owner, namespace=claim.namespace)
        with suppress(UnreachableError), closing(NexusRedisHook(self.redis_conn_id)) as hook:
            run(hook.get_conn(), call)

    def _wait_on(self, patience: Patience, claim: Claim) -> None:
        if not self.deferrable:
            time.sleep(min(self.poll_s, max(0.0, patience.left)))
            return
        self.defer(
            trigger=DagLockTrigger(
                redis_conn_id=self.redis_conn_id,
                name=claim.name,
                namespace=claim.namespace,
                owner=claim.owner,
                deployment=claim.deployment,
                lease=seconds("lease", self.lease),
                poll_interval=self.poll_s,
                until=patience.until,
                ticket=patience.ticket,
            ),
            method_name=self.resume.__name__,
            timeout=None
            if patience.until is None
            else timedelta(seconds=max(0.0, patience.left) + TRIGGER_GRACE),
        )


def description_of(context: Context) -> dict[str, Any]:
    """What a lock shows of the run that holds it."""
    instance, run_of_dag = context["ti"], context["dag_run"]
    return {
        "dag_id": run_of_dag.dag_id,
        "run_id": run_of_dag.run_id,
        "run_type": run_of_dag.run_type,
        "task_id": instance.task_id,
        "url": instance.log_url,
    }


def in_line(name: str, holders: Sequence[Holder], position: int, length: int) -> Sequence[str]:
    """How a lock stands, for people, a sentence a line."""
    lines = [f"Lock {name!r} is held by {_in_words(holder)}." for holder in holders]
    if not holders:
        lines.append(f"Lock {name!r} is free, but others are before us.")
    if position:
        lines.append(f"We are number {position} of {length} in line.")
    return lines


def _in_words(holder: Holder) -> str:
    left = f"{in_words(holder.expires_in)} left" if holder.expires_in > 0 else "over"
    where = f" ({url})" if (url := holder.description.get("url")) else ""
    since = holder.since.isoformat(timespec="seconds")
    return f"{holder.owner}{where} since {since}; lease: {left}"
