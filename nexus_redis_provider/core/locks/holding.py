"""What `Lock` and `AsyncLock` have in common: all but talking to the server."""

from __future__ import annotations

import os
import random
import socket
import threading
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nexus_redis_provider.core.bounds import is_whole
from nexus_redis_provider.core.durations import Duration, to_ms, uptime
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    EvictionError,
    LockHeldError,
    NotReplicatedError,
    UnreachableError,
)
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE
from nexus_redis_provider.core.locks.leases import Lease
from nexus_redis_provider.core.locks.protocol import (
    Claim,
    Mode,
    acquire,
    inspect,
    leave,
    steal,
    with_request,
)
from nexus_redis_provider.core.locks.states import Acquisition, LockState
from nexus_redis_provider.core.scripts import Call
from nexus_redis_provider.core.slots import is_on_its_way

DEFAULT_LEASE = 30.0
_HOST = socket.gethostname()
_LEAST_STAY = 1.0


class PythonLock:
    """A lock that is held within a `with` block, renewed meanwhile, and told when it is lost."""

    def __init__(
        self,
        endpoint: Endpoint,
        name: str,
        *,
        lease: Duration = DEFAULT_LEASE,
        wait: Duration | None = None,
        mode: Mode = "exclusive",
        permits: int = 1,
        poll: Duration = 5.0,
        owner: str | None = None,
        description: Mapping[str, Any] | None = None,
        replicas: int = 0,
        replica_timeout: Duration = 1.0,
        allow_eviction: bool = False,
        namespace: str = DEFAULT_NAMESPACE,
    ) -> None:
        """Describe the lock; nothing is sent yet. One object is for one holder at a time.

        Args:
            endpoint: the server, of the *state* role.
            name: what is locked.
            lease: seconds after which a dead holder loses the lock; renewed at a third of it.
            wait: seconds to stand in line for it; None fails at once.
            mode: `exclusive`, or `shared` with others that say so too.
            permits: how many may hold it at once; more than 1 make it a semaphore.
            poll: seconds between two looks while waiting, in case a wake-up is lost. Who is not
                heard from for three times as long is passed over; who vanishes just as its turn
                comes, for twice that.
            owner: identity; by default unique to this object in this process. The same owner gets
                the same hold again, and then its earlier object no longer gives it back.
            description: shown to whoever inspects the lock or waits for it.
            replicas: how many replicas must confirm before the lock counts as taken.
            replica_timeout: seconds that they have for that.
            allow_eviction: take it on a server that may evict it, too; two may hold it then.
            namespace: first part of the lock's keys.

        Raises:
            ConfigurationError: an option has a value it cannot have.
        """
        self.name = name
        self._endpoint = endpoint
        self._lease_s = to_ms(lease, "lease") / 1000
        self._wait_s = to_ms(wait, "wait") / 1000 if wait is not None else 0.0
        self._poll_s = to_ms(poll, "poll") / 1000
        self._stay_s = max(3 * self._poll_s, _LEAST_STAY)
        self._asks_eviction = not allow_eviction
        self._replicas = replicas
        self._replica_ms = to_ms(replica_timeout, "replica_timeout")
        if not is_whole(replicas, 0):
            raise ConfigurationError(
                f"Lock {name!r}: replicas must be a whole number from 0, not {replicas!r}."
            )
        if replicas and self._replica_ms >= endpoint.read_timeout * 1000:
            raise ConfigurationError(
                f"Lock {name!r}: replica_timeout must be less than the endpoint's read_timeout of "
                f"{endpoint.read_timeout} s, not {self._replica_ms / 1000} s."
            )
        self._pid = 0
        self._id = uuid.uuid4().hex
        self._entered = 0
        self._owner_is_ours = owner is None
        self._claim = Claim(
            name=name,
            owner=owner or self._new_owner(),
            mode=mode,
            permits=permits,
            description=description or {},
            namespace=namespace,
        )
        self._acquire_bare = self._new_acquire_call()
        self._guard = threading.Lock()
        self._hold: Lease | None = None

    @property
    def owner(self) -> str:
        """The identity by which the lock is held."""
        return self._claim.owner

    @property
    def token(self) -> int:
        """The fencing token of the last hold; 0 before the first."""
        return self._hold.token if self._hold else 0

    @property
    def held(self) -> bool:
        """Whether the lease, counted from before it was asked for, still runs."""
        return self._hold is not None and self._guard.locked() and self._hold.held

    def ensure_held(self) -> None:
        """Return only while the lock is ours. Sends nothing.

        Raises:
            LockLostError: it is not; stop the protected work.
        """
        if self._hold is None or not self._guard.locked():
            raise self._not_entered()
        self._hold.ensure_held()

    def _not_entered(self) -> ConfigurationError:
        return ConfigurationError(f"Lock {self.name!r} has not been entered.")

    def _enter(self) -> None:
        if not self._guard.acquire(blocking=False):
            raise ConfigurationError(
                f"Lock {self.name!r} is entered by this very object already. An object is for one "
                "holder at a time: make one for each thread or task."
            )
        if self._pid != os.getpid():
            self._begin_in_this_process()
        self._entered += 1

    def _begin_in_this_process(self) -> None:
        # A child of a fork is somebody else.
        if self._pid:
            self._id = uuid.uuid4().hex
            if self._owner_is_ours:
                self._claim = replace(self._claim, owner=self._new_owner())
            self._acquire_bare = self._new_acquire_call()
        self._pid = os.getpid()

    def _new_owner(self) -> str:
        return f"{_HOST}/{os.getpid()}/{self._id}"

    def _new_acquire_call(self) -> Call[Acquisition]:
        return acquire(self._claim, self._lease_s, stay=self._stay_s if self._wait_s else None)

    def _acquire_call(self, bell: str, lease: float | None = None) -> Call[Acquisition]:
        request = f"{self._id}.{self._entered}"
        return with_request(self._acquire_bare, request, bell=bell, lease=lease)

    def _leave_call(self) -> Call[bool]:
        return leave(self.name, self.owner, namespace=self._claim.namespace)

    def _look_call(self) -> Call[LockState]:
        return inspect(self.name, waiters=0, namespace=self._claim.namespace)

    def _undo_calls(self, found: LockState) -> list[Call[float | None]]:
        # An owner that was given to us may have had the lock before.
        return [
            steal(holder, namespace=self._claim.namespace)
            for holder in found.holders
            if holder.owner == self.owner and (self._owner_is_ours or holder.entries == 1)
        ]

    def _not_yet(self, error: UnreachableError) -> Acquisition:
        """What an error comes to for who waits; raises it if it is not about to pass."""
        if not (self._wait_s and is_on_its_way(error)):
            raise error
        return Acquisition(acquired=False)

    def _refusal(self, attempt: Acquisition, waited: float = 0.0) -> LockHeldError:
        holder = attempt.holders[0] if attempt.holders else None
        owner, expires_in = (holder.owner, holder.expires_in) if holder else ("", 0.0)
        return LockHeldError(self.name, owner, expires_in, waited, attempt.position)

    def _next_look(self, attempt: Acquisition, deadline: float) -> float:
        pause = self._poll_s * random.uniform(0.8, 1.2)
        if attempt.position == 1:
            # Nobody calls when a lease runs out.
            ends = [h.expires_in for h in attempt.holders if h.expires_in > 0]
            pause = min(pause, min(ends, default=pause) + 0.005)
        return max(0.0, min(pause, deadline - uptime()))

    def _check_replicas(self, taken_by: str | None, confirmed: int) -> None:
        if taken_by is not None or confirmed < self._replicas:
            raise NotReplicatedError(self.name, self._replicas, confirmed, self._replica_ms / 1000)

    def _is_slow(self, asked_at: float) -> bool:
        # What is left of the lease may be over before it is renewed for the first time.
        return uptime() - asked_at > self._lease_s / 3

    def _may_have_left_something(self, error: BaseException) -> bool:
        # Even one who is interrupted before the reply may stand in line, or hold the lock. Where
        # the server does not answer, the lease and the place end by themselves.
        if isinstance(error, UnreachableError | EvictionError):
            return False
        return bool(self._wait_s) or not isinstance(error, LockHeldError)
