"""Renewing the leases of a process in the background: one thread and connection for all alike.

A lease whose server did not answer when it was to be given back is given back there, too.
"""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import Any, ClassVar

from nexus_redis_provider.core.clients import thread_client
from nexus_redis_provider.core.durations import uptime
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ServerError
from nexus_redis_provider.core.locks.leases import Lease
from nexus_redis_provider.core.scripts import Call, run_all


def renewal_endpoint(endpoint: Endpoint, lease_s: float) -> Endpoint:
    """The endpoint with timeouts that leave time for a second try, and without hidden retries.

    A renewal that is retried behind our back could outlive the lease without our noticing.
    """
    timeout = lease_s / 4
    return replace(
        endpoint,
        retries=0,
        connect_timeout=min(timeout, endpoint.connect_timeout),
        read_timeout=min(timeout, endpoint.read_timeout),
    )


class Renewer:
    """Renews leases of the same length on the same server, each at a third of it.

    Since all have the same length, the order of entering is the order of being due: no lease that
    is taken wakes the thread, and one that is given back in time costs nothing more.
    """

    _renewers: ClassVar[dict[tuple[Endpoint, float], Renewer]] = {}
    _registry_lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def of(cls, endpoint: Endpoint, lease_s: float) -> Renewer:
        """The renewer of this process for leases of a length."""
        found = cls._renewers.get((endpoint, lease_s))
        if found is None:
            with cls._registry_lock:
                found = cls._renewers.setdefault((endpoint, lease_s), cls(endpoint, lease_s))
        return found

    def __init__(self, endpoint: Endpoint, lease_s: float) -> None:
        self._endpoint = renewal_endpoint(endpoint, lease_s)
        self._lease_s = lease_s
        self._due: dict[Lease, float] = {}
        self._called = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        """Renew a lease from now on."""
        self._enter(lease, lease.renewed_at + self._lease_s / 3)

    def give_back(self, lease: Lease) -> None:
        """Give a lease back that could not be given back, trying again for as long as it lasts."""
        lease.is_left, lease.on_loss = True, None
        self._enter(lease, uptime())
        self._called.set()

    def _enter(self, lease: Lease, due_at: float) -> None:
        with self._lock:
            self._due[lease] = due_at
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="renew leases", daemon=True)
                thread.start()
                self._thread = thread

    def discard(self, lease: Lease) -> None:
        """Renew it no longer. A renewal that is under way may still come after this."""
        with self._lock:
            self._due.pop(lease, None)

    def _run(self) -> None:
        pause = self._pause()
        while True:
            self._called.wait(pause)
            self._called.clear()
            with self._lock:
                if not self._due:
                    self._thread = None
                    return
                now = uptime()
                due = [lease for lease, at in self._due.items() if at <= now]
            pause = self._renew(due)

    def _renew(self, leases: list[Lease]) -> float:
        """Renew these, or give them back; returns the seconds until the next are due."""
        asked_at, failed = uptime(), False
        left = {lease for lease in leases if lease.is_left}
        calls: list[Call[Any]] = [
            lease.release_call() if lease in left else lease.renew_call() for lease in leases
        ]
        try:
            replies = run_all(thread_client(self._endpoint), calls) if calls else []
        except Exception as error:  # noqa: BLE001 - whatever it is, the leases need another try
            replies = [ServerError(str(error))] * len(leases)
        for lease, reply in zip(leases, replies, strict=True):
            if isinstance(reply, ServerError):
                failed = True
            elif lease in left:
                self.discard(lease)
            else:
                lease.renewed(asked_at, reply)
            self._enter_again(lease)
        if failed:
            # What is left of the leases is for further tries.
            return self._lease_s / 10
        return self._pause()

    def _pause(self) -> float:
        with self._lock:
            first = next(iter(self._due.values()), None)
        return self._lease_s / 3 if first is None else max(0.0, first - uptime())

    def _enter_again(self, lease: Lease) -> None:
        with self._lock:
            # Given back meanwhile: then it is not there.
            if self._due.pop(lease, None) is not None and not lease.is_over():
                due_at = lease.renewed_at + self._lease_s / 3
                self._due[lease] = uptime() if lease.is_left else due_at


def _forget_all() -> None:
    # Threads do not live on in the child of a fork, nor do its parent's leases belong to it.
    Renewer._renewers.clear()  # noqa: SLF001 - part of the class, but for the name
    Renewer._registry_lock = threading.Lock()  # noqa: SLF001


os.register_at_fork(after_in_child=_forget_all)
