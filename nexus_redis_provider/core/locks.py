"""Locks by name, with a lease, an owner and a fencing token.

What a lock promises: at any moment the server names at most one owner, and every new owner gets a
larger token than all before. What no lease can promise: that an owner which was paused past its
lease notices before it acts. So hand the token to whatever you write to, and let it refuse older
ones; `gold` datasets do (Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

from nexus_redis_provider.core.durations import Duration, to_ms
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    LockHeldError,
    LockLostError,
    ServerError,
)
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE, LockKeys
from nexus_redis_provider.core.scripts import Call, arun, run

DEFAULT_LEASE = 30.0
_LEAK_NET_MS = 24 * 3600 * 1000
_FENCE_LIFE_MS = 30 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock.

    Attributes:
        owner: the holder's identity, such as `deployment/dag_id/run_id`.
        token: its fencing token.
        expires_in: seconds left of its lease; negative when it has run out and nobody else came.
        since: when it took the lock, by the server's clock.
        description: what the holder says of itself.
    """

    name: str
    owner: str
    token: int
    expires_in: float
    since: datetime
    description: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Acquisition:
    """What came of an attempt: whether the lock is ours, and who holds it now."""

    acquired: bool
    holder: Holder


def acquire(
    name: str,
    owner: str,
    lease: Duration,
    *,
    description: Mapping[str, Any] | None = None,
    namespace: str = DEFAULT_NAMESPACE,
) -> Call[Acquisition]:
    """Take the lock, or learn who holds it. The same owner gets the same token again.

    Args:
        name: free text; equal names are the same lock.
        owner: identity that a retry of the same work repeats exactly.
        lease: seconds until others may take the lock unless it is renewed.
        description: shown to whoever inspects the lock or waits for it.

    Redis: see `LockKeys`; one script. Clock: server.
    """
    if not name or not owner:
        raise ConfigurationError(f"A lock needs a name and an owner, not {name!r} and {owner!r}.")
    keys = LockKeys(name, namespace)
    body = json.dumps(description or {}, sort_keys=True)
    args = (owner, to_ms(lease, "lease"), body, _LEAK_NET_MS, _FENCE_LIFE_MS)

    def decode(reply: Any) -> Acquisition:
        acquired, token, held_by, left_ms, since_ms, text = reply
        return Acquisition(acquired == 1, _holder(name, [held_by, token, left_ms, since_ms, text]))

    return Call("acquire_lock", (keys.holder, keys.fence), args, decode)


def release(name: str, owner: str, token: int, *, namespace: str = DEFAULT_NAMESPACE) -> Call[bool]:
    """Give the lock back if it is still ours; never takes it from another owner. Repeatable."""
    return Call(
        "release_lock",
        (LockKeys(name, namespace).holder,),
        (owner, token),
        lambda reply: bool(reply[0] == 1),
    )


def renew(
    name: str, owner: str, token: int, lease: Duration, *, namespace: str = DEFAULT_NAMESPACE
) -> Call[str | None]:
    """Let the lease begin anew. Returns None, or who holds the lock instead ('' for nobody)."""
    return Call(
        "renew_lock",
        (LockKeys(name, namespace).holder,),
        (owner, token, to_ms(lease, "lease"), _LEAK_NET_MS),
        lambda reply: None if reply[0] == 1 else reply[1].decode(),
    )


def inspect(name: str, *, namespace: str = DEFAULT_NAMESPACE) -> Call[Holder | None]:
    """Who holds the lock, or None."""
    return Call(
        "inspect_lock",
        (LockKeys(name, namespace).holder,),
        (),
        lambda reply: _holder(name, reply) if reply else None,
    )


def is_free(holder: Holder | None) -> bool:
    """Whether another owner may take the lock that `inspect` found so."""
    return holder is None or holder.expires_in <= 0


def _holder(name: str, reply: list[Any]) -> Holder:
    owner, token, left_ms, since_ms, text = reply
    return Holder(
        name=name,
        owner=owner.decode(),
        token=int(token),
        expires_in=left_ms / 1000,
        since=datetime.fromtimestamp(int(since_ms) / 1000, tz=UTC),
        description=json.loads(text),
    )


class _Lease:
    """What a plain Python holder knows of its lock, on its own monotonic clock."""

    def __init__(
        self,
        endpoint: Endpoint,
        name: str,
        *,
        lease: Duration = DEFAULT_LEASE,
        wait: Duration | None = None,
        poll: Duration = 0.1,
        owner: str | None = None,
        namespace: str = DEFAULT_NAMESPACE,
    ) -> None:
        """Describe the lock; nothing is sent yet.

        Args:
            endpoint: the server, of the *state* role.
            name: what is locked.
            lease: seconds after which a dead holder loses the lock; renewed at a third of it.
            wait: seconds to wait for another holder; None fails at once.
            poll: seconds between two looks while waiting.
            owner: identity; by default unique to this object.
        """
        self.name = name
        self.owner = owner or f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex}"
        self.token = 0
        self._endpoint = endpoint
        self._lease_s = to_ms(lease, "lease") / 1000
        self._wait_s = to_ms(wait, "wait") / 1000 if wait is not None else 0.0
        self._poll_s = to_ms(poll, "poll") / 1000
        self._namespace = namespace
        self._deadline = 0.0
        self._taken_by: str | None = None

    @property
    def held(self) -> bool:
        """Whether the lease, counted from before it was asked for, still runs."""
        return self._taken_by is None and time.monotonic() < self._deadline

    def ensure_held(self) -> None:
        """Return only while the lock is ours.

        Raises:
            LockLostError: it is not; stop the protected work.
        """
        if not self.held:
            raise LockLostError(self.name, self.owner, self._taken_by)

    def _refuse_reuse(self) -> None:
        if self.held:
            raise ConfigurationError(
                f"Lock {self.name!r} is held by this very object; entering it again would give it "
                "up on leaving the inner block."
            )

    def _acquire_call(self) -> Call[Acquisition]:
        return acquire(self.name, self.owner, self._lease_s, namespace=self._namespace)

    def _renew_call(self) -> Call[str | None]:
        return renew(self.name, self.owner, self.token, self._lease_s, namespace=self._namespace)

    def _release_call(self) -> Call[bool]:
        return release(self.name, self.owner, self.token, namespace=self._namespace)

    def _took(self, asked_at: float, attempt: Acquisition) -> bool:
        if attempt.acquired:
            self.token = attempt.holder.token
            self._deadline = asked_at + self._lease_s
            self._taken_by = None
        return attempt.acquired

    def _renewed(self, asked_at: float, taken_by: str | None) -> bool:
        self._taken_by = taken_by
        if taken_by is None:
            self._deadline = asked_at + self._lease_s
        return taken_by is None

    def _next_look(self, began_at: float, holder: Holder) -> float:
        waited = time.monotonic() - began_at
        if waited >= self._wait_s:
            raise LockHeldError(self.name, holder.owner, holder.expires_in, waited)
        return min(self._poll_s, self._wait_s - waited)

    def _next_renewal(self, *, failed: bool) -> float:
        # After a failure the rest of the lease is for further tries.
        return self._lease_s / (10 if failed else 3)

    def _renewal_endpoint(self) -> Endpoint:
        # A renewal that is retried behind our back could outlive the lease without our noticing.
        timeout = self._lease_s / 4
        return replace(
            self._endpoint,
            retries=0,
            connect_timeout=min(timeout, self._endpoint.connect_timeout),
            read_timeout=min(timeout, self._endpoint.read_timeout),
        )


class Lock(_Lease):
    """Within `with Lock(endpoint, name) as lock:` the lock is ours, or `lock.lost` is set.

    Raises:
        LockHeldError: on entry, another owner kept it for longer than `wait`.
        UnreachableError: on entry; without a server there is no lock.
    """

    def __enter__(self) -> Self:
        self._refuse_reuse()
        self.lost = threading.Event()
        self._done = threading.Event()
        with self._endpoint.client() as client:
            self._acquire(client)
        self._renewer = threading.Thread(
            target=self._keep_renewing, name=f"renew {self.name}", daemon=True
        )
        self._renewer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._renewer.join()
        # An unreachable server must not hide the error of the work; the lease ends anyway.
        with self._endpoint.client() as client, contextlib.suppress(ServerError):
            run(client, self._release_call())
        self._deadline = 0.0

    def _acquire(self, client: Any) -> None:
        began_at = time.monotonic()
        while True:
            asked_at = time.monotonic()
            attempt = run(client, self._acquire_call())
            if self._took(asked_at, attempt):
                return
            time.sleep(self._next_look(began_at, attempt.holder))

    def _keep_renewing(self) -> None:
        failed = False
        with self._renewal_endpoint().client() as client:
            while not self._done.wait(self._next_renewal(failed=failed)):
                asked_at = time.monotonic()
                try:
                    alive = self._renewed(asked_at, run(client, self._renew_call()))
                    failed = False
                except ServerError:
                    alive, failed = self.held, True
                if not alive:
                    self.lost.set()
                    return


class AsyncLock(_Lease):
    """The asyncio twin of `Lock`: `async with AsyncLock(endpoint, name) as lock:`."""

    async def __aenter__(self) -> Self:
        self._refuse_reuse()
        self.lost = asyncio.Event()
        self._done = asyncio.Event()
        async with self._endpoint.async_client() as client:
            await self._acquire(client)
        self._renewer = asyncio.create_task(self._keep_renewing())
        return self

    async def __aexit__(self, *_: object) -> None:
        # Told, not cancelled: before Python 3.12 redis-py may swallow a cancellation as it sends.
        self._done.set()
        await asyncio.wait([self._renewer])
        async with self._endpoint.async_client() as client:
            with contextlib.suppress(ServerError):
                await arun(client, self._release_call())
        self._deadline = 0.0

    async def _acquire(self, client: Any) -> None:
        began_at = time.monotonic()
        while True:
            asked_at = time.monotonic()
            attempt = await arun(client, self._acquire_call())
            if self._took(asked_at, attempt):
                return
            await asyncio.sleep(self._next_look(began_at, attempt.holder))

    async def _keep_renewing(self) -> None:
        failed = False
        async with self._renewal_endpoint().async_client() as client:
            while not await self._is_done(within=self._next_renewal(failed=failed)):
                asked_at = time.monotonic()
                try:
                    alive = self._renewed(asked_at, await arun(client, self._renew_call()))
                    failed = False
                except ServerError:
                    alive, failed = self.held, True
                if not alive:
                    self.lost.set()
                    return

    async def _is_done(self, within: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), within)
        return self._done.is_set()
