"""Workers that speak the protocol themselves: DAG runs, thieves, and holders that oversleep."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import replace

import redis

from nexus_redis_provider.core.clients import thread_client
from nexus_redis_provider.core.durations import uptime
from nexus_redis_provider.core.errors import LockLostError, UnreachableError
from nexus_redis_provider.core.locks.leases import Lease
from nexus_redis_provider.core.locks.protocol import (
    Claim,
    acquire,
    inspect,
    leave,
    steal,
)
from nexus_redis_provider.core.locks.states import Holder
from nexus_redis_provider.core.scripts import run
from tests.chaos.oracles import DEPLOYMENT, Oracle, name_of, new_run
from tests.chaos.workers import LEASES, MAX_STAY, NAMESPACE, Assignment, Wish, Worker

_RUNS_LOCKS = ("dag", "mixed")
_SLICE_S = 0.02


class RawWorker(Worker):
    """Stands in line and holds by the protocol's own calls."""

    deployment = ""

    def __init__(self, assignment: Assignment) -> None:
        super().__init__(assignment)
        self.oracle = Oracle(assignment.directory)

    @property
    def client(self) -> redis.Redis:
        """Connects; raises UnreachableError."""
        return thread_client(self.assignment.endpoint)

    def stand_in_line(self, wish: Wish) -> Lease | None:
        """The lease, or None: given up, or the server cannot be reached."""
        claim = Claim(wish.name, wish.owner, deployment=self.deployment, namespace=NAMESPACE)
        call = acquire(claim, wish.lease, stay=MAX_STAY)
        self.log_wants(wish)
        deadline = time.monotonic() + wish.wait
        try:
            while True:
                sent, asked_at = time.monotonic(), uptime()
                # Who is killed before it hears the answer may have had the lock.
                self.log("asks", wish, at=sent)
                attempt = run(self.client, call)
                if attempt.acquired:
                    self.log_acquired(
                        wish,
                        attempt.token,
                        sent,
                        entries=attempt.entries,
                        expired=attempt.expired,
                    )
                    return Lease(claim, wish.lease, asked_at, attempt)
                self.log("asked", wish, sent=sent, ticket=attempt.ticket, stay=MAX_STAY)
                self.steal_from_the_dead(attempt.holders)
                if time.monotonic() > deadline:
                    break
                time.sleep(self.random.uniform(0.01, 0.06))
            self.log("refused", wish)
        except UnreachableError:
            self.log("unreachable", wish)
        with contextlib.suppress(UnreachableError):
            run(self.client, leave(wish.name, wish.owner, namespace=NAMESPACE))
        return None

    def steal_from_the_dead(self, holders: Iterable[Holder]) -> None:
        """Ask the oracle about holders that were seen before that, and rob those that are dead."""
        for holder in holders:
            if holder.deployment == DEPLOYMENT and not self.oracle.is_alive(holder.owner):
                # A scheduler's database is not that fast.
                time.sleep(self.random.uniform(0, 0.02))
                if run(self.client, steal(holder, namespace=NAMESPACE)) is not None:
                    self.journal.log(
                        "stole", name=holder.name, owner=holder.owner, token=holder.token
                    )

    def give_back(self, wish: Wish, lease: Lease) -> None:
        self.log("releasing", wish, token=lease.token)
        with contextlib.suppress(UnreachableError):
            held_for = run(self.client, lease.release_call())
            self.log("released", wish, token=lease.token, was_ours=held_for is not None)


class RunWorker(RawWorker):
    """Works for one DAG run after the other; runs fail, are cleared, or end without a teardown."""

    deployment = DEPLOYMENT

    def run(self) -> None:
        owner, count = self.assignment.resume, 0
        while self.goes_on():
            if not owner:
                name, count = self.random.choice(_RUNS_LOCKS), count + 1
                owner = new_run(name, self.assignment.number, f"{self.assignment.source}-{count}")
            while self._try(owner):
                # Cleared: the same run, soon.
                time.sleep(self.random.uniform(0, 0.02))
            owner = ""
            time.sleep(self.rest())

    def _try(self, owner: str) -> bool:
        """Do a run's work once. Returns whether it is to be done again."""
        self.journal.log("alive", owner=owner)
        self.oracle.begin(owner)
        name = name_of(owner)
        wish = Wish(
            name=name,
            owner=owner,
            lease=self.wish(name).lease,
            wait=self.random.uniform(1, 6),
            # Only runs of this deployment want that lock, so a lease that runs out ends nothing.
            bound="oracle" if name == "dag" else "lease",
        )
        lease = self.stand_in_line(wish)
        fate = self.random.choices(("release", "vanish", "clear"), (5, 1, 4))[0]
        if lease is not None:
            if not self._hold(wish, lease):
                fate = "release"
            elif fate == "release":
                self.give_back(wish, lease)
        self.journal.log("died", owner=owner)
        self.oracle.end(owner)
        return fate == "clear" and lease is not None

    def _hold(self, wish: Wish, lease: Lease) -> bool:
        """Do the work; returns whether the lock was ours to the end, for all that we know."""

        def ensure_held() -> None:
            if wish.bound == "lease" or lease.is_lost:
                lease.ensure_held()

        try:
            for pause in self.work(wish, lease.token, ensure_held):
                time.sleep(pause)
                if uptime() > lease.renewed_at + wish.lease / 3:
                    self._renew(lease)
        except LockLostError:
            self.log("lost", wish, token=lease.token)
            return False
        return True

    def _renew(self, lease: Lease) -> None:
        asked_at = uptime()
        with contextlib.suppress(UnreachableError):
            lease.renewed(asked_at, run(self.client, lease.renew_call()))


class SleepyWorker(RawWorker):
    """Does not renew, now and then sleeps past its lease, and writes and releases all the same."""

    def run(self) -> None:
        while self.goes_on():
            wish = replace(self.wish("one", "two"), lease=min(LEASES))
            lease = self.stand_in_line(wish)
            if lease is not None:
                base = self.read(wish, lease.token)
                if self.random.random() < 0.4:
                    self._sleep(wish, lease, wish.lease * self.random.uniform(1.1, 1.6))
                else:
                    self._sleep(wish, lease, self.random.uniform(0, 0.05))
                if base is not None:
                    self.write(wish, lease.token, base)
                self.give_back(wish, lease)
            time.sleep(self.rest())

    def _sleep(self, wish: Wish, lease: Lease, seconds: float) -> None:
        """Pause, and write down for how long it would have believed in its lock, had it looked."""
        end = time.monotonic() + seconds
        with contextlib.suppress(LockLostError):
            while (left := end - time.monotonic()) > 0:
                self.make_sure(wish, lease.token, lease.ensure_held)
                time.sleep(min(left, _SLICE_S))
        time.sleep(max(0.0, end - time.monotonic()))


class Thief(RawWorker):
    """Takes no lock: it looks for dead holders and robs them."""

    def run(self) -> None:
        while self.goes_on():
            try:
                name = self.random.choice(_RUNS_LOCKS)
                state = run(self.client, inspect(name, waiters=0, namespace=NAMESPACE))
                self.steal_from_the_dead(state.holders)
            except UnreachableError:
                self.journal.log("unreachable")
            time.sleep(self.rest())
