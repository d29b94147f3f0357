"""What a plain Python holder knows of its lock, on its own clock."""

from __future__ import annotations

import os
from collections.abc import Callable

from nexus_redis_provider.core.durations import uptime
from nexus_redis_provider.core.errors import LockLostError
from nexus_redis_provider.core.locks.protocol import Claim, release, renew
from nexus_redis_provider.core.locks.states import Acquisition
from nexus_redis_provider.core.scripts import Call


class Lease:
    """One hold of a lock, from taking it to giving it back.

    It counts from before the server was asked, so it ends here no later than there.

    Attributes:
        token: the fencing token.
        is_lost: whether the lock is known to be lost.
        on_loss: called when it is, once, by who renews it.
        is_left: whether its holder is gone, so that it is to be given back, and not renewed.
        renewed_at: when the server was last asked with success, seconds of `uptime`.
    """

    def __init__(self, claim: Claim, lease_s: float, asked_at: float, attempt: Acquisition) -> None:
        self.token = attempt.token
        self.is_lost = False
        self.is_left = False
        self.on_loss: Callable[[], None] | None = None
        self.renewed_at = asked_at
        self._entries = attempt.entries
        self._claim = claim
        self._lease_s = lease_s
        self._pid = os.getpid()
        self._taken_by: str | None = None

    @property
    def held(self) -> bool:
        """Whether the lock is ours for all that we know. Never, in a fork of who took it."""
        return (
            not self.is_lost
            # The server cuts its clock to milliseconds, so there a lease may end by one earlier.
            and uptime() < self.renewed_at + self._lease_s - 0.001
            and self._pid == os.getpid()
        )

    def ensure_held(self) -> None:
        """Return only while the lock is ours.

        Raises:
            LockLostError: it is not; stop the protected work.
        """
        if not self.held:
            raise LockLostError(self._claim.name, self._claim.owner, self._taken_by)

    @property
    def is_of_this_process(self) -> bool:
        """Whether it was taken here, and not before a fork."""
        return self._pid == os.getpid()

    def renew_call(self) -> Call[str | None]:
        """What to send to renew it."""
        claim = self._claim
        return renew(claim.name, claim.owner, self.token, self._lease_s, namespace=claim.namespace)

    def release_call(self) -> Call[float | None]:
        """What to send to give it back."""
        claim = self._claim
        return release(
            claim.name, claim.owner, self.token, self._entries, namespace=claim.namespace
        )

    def renewed(self, asked_at: float, taken_by: str | None) -> None:
        """Take notice of the reply to `renew_call`, which was sent at `asked_at`."""
        if taken_by is None:
            self.renewed_at = asked_at
        else:
            self._taken_by = taken_by
            self._lose()

    def is_over(self) -> bool:
        """Whether the lock is lost; if it is, its holder is told."""
        if not self.held:
            self._lose()
        return self.is_lost

    def _lose(self) -> None:
        if not self.is_lost:
            self.is_lost = True
            if self.on_loss:
                self.on_loss()
