"""`Lock`: for threads."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Self

from nexus_redis_provider.core.clients import ThreadClient, thread_client
from nexus_redis_provider.core.durations import uptime
from nexus_redis_provider.core.errors import ServerError, UnreachableError
from nexus_redis_provider.core.locks.evictions import refuse_eviction
from nexus_redis_provider.core.locks.holding import PythonLock
from nexus_redis_provider.core.locks.leases import Lease
from nexus_redis_provider.core.locks.renewal import Renewer
from nexus_redis_provider.core.locks.states import Acquisition
from nexus_redis_provider.core.scripts import run, run_replicated, run_when_pushed

_LEAST_PAUSE = 0.001


class Lock(PythonLock):
    """Within `with Lock(endpoint, name) as lock:` the lock is ours, or `lock.lost` is set.

    Raises:
        EvictionError: on entry, the server may evict it.
        LockHeldError: on entry, others kept it for longer than `wait`.
        NotReplicatedError: on entry, too few `replicas` confirmed it.
        UnreachableError: on entry; without a server there is no lock.
    """

    def __enter__(self) -> Self:
        self._enter()
        client = None
        try:
            client = thread_client(self._endpoint)
            self._hold = self._take(client)
            self._renewer.add(self._hold)
        except BaseException as error:
            if client is not None and self._may_have_left_something(error):
                self._withdraw(client)
            self._guard.release()
            raise
        return self

    @property
    def lost(self) -> threading.Event:
        """Set when this hold is known to be lost; made when it is first asked for."""
        if self._hold is None:
            raise self._not_entered()
        if self._hold.on_loss is None:
            event = threading.Event()
            self._hold.on_loss = event.set
            self._lost = event
            if self._hold.is_lost:
                event.set()
        return self._lost

    def _begin_in_this_process(self) -> None:
        super()._begin_in_this_process()
        self._renewer = Renewer.of(self._endpoint, self._lease_s)

    def __exit__(self, *_: object) -> None:
        hold = self._hold
        try:
            if hold is not None and hold.is_of_this_process:
                self._renewer.discard(hold)
                # An unreachable server must not hide the error of the work, nor hold it up.
                with contextlib.suppress(ServerError):
                    try:
                        run(thread_client(self._endpoint), hold.release_call())
                    except UnreachableError:
                        self._renewer.give_back(hold)
        finally:
            self._guard.release()

    def _take(self, client: ThreadClient) -> Lease:
        if self._asks_eviction:
            refuse_eviction(self._endpoint, client, self._claim)
            self._asks_eviction = False  # Once is enough.
        began_at = uptime()
        asked_at, attempt = self._ask(client, began_at)
        if self._is_slow(asked_at):
            asked_at, attempt = self._ask(client, began_at)
        hold = Lease(self._claim, self._lease_s, asked_at, attempt)
        if self._replicas:
            self._check_replicas(
                *run_replicated(client, hold.renew_call(), self._replica_ms, self._replicas)
            )
        return hold

    def _ask(self, client: ThreadClient, began_at: float) -> tuple[float, Acquisition]:
        asked_at = uptime()
        try:
            attempt = run(client, self._acquire_call(f"list:{self._id}"))
        except UnreachableError as error:
            attempt = self._not_yet(error)
        if attempt.acquired:
            return asked_at, attempt
        if not self._wait_s:
            raise self._refusal(attempt)
        return self._wait(client, attempt, began_at)

    def _withdraw(self, client: ThreadClient) -> None:
        if self._hold is not None:
            self._renewer.discard(self._hold)
        with contextlib.suppress(ServerError):
            run(client, self._leave_call())
            for call in self._undo_calls(run(client, self._look_call())):
                run(client, call)

    def _wait(
        self, client: ThreadClient, attempt: Acquisition, began_at: float
    ) -> tuple[float, Acquisition]:
        """Ask again whenever woken, after every `poll`, and when a lease runs out.

        Returns:
            From when the lease counts, and the lock.
        """
        deadline = began_at + self._wait_s
        # Who is gone when its turn comes is let in all the same, so not for the whole of a long
        # lease. Who is there counts as having asked so much earlier.
        lease_s = min(self._lease_s, 2 * self._stay_s)
        call = self._acquire_call(f"list:{self._id}", lease_s)
        whole_call = self._acquire_call(f"list:{self._id}")
        bell = self._claim.keys.wake(self._id)
        pause = self._next_look(attempt, deadline)
        while True:
            sent_at = uptime()
            try:
                attempt = run_when_pushed(client, bell, max(pause, _LEAST_PAUSE), call)
                asked_at = sent_at - (self._lease_s - lease_s)
                if attempt.acquired and self._is_slow(asked_at):
                    # It was sent long ago, or for a short lease.
                    asked_at, attempt = uptime(), run(client, whole_call)
            except UnreachableError:
                # A server that restarts knows the line again, or forms it anew.
                left = deadline - uptime()
                if left <= 0:
                    raise
                time.sleep(min(self._poll_s, 0.5, left))
                pause = 0.0
                continue
            if attempt.acquired:
                return asked_at, attempt
            if uptime() >= deadline:
                raise self._refusal(attempt, uptime() - began_at)
            pause = self._next_look(attempt, deadline)
