"""Commands that a node of a Cluster returns: their slot is elsewhere, or on its way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from redis import exceptions
from redis.cluster import ClusterNode

# Slots that move often are followed so many times without a pause.
_AT_ONCE = 8
_LONGEST_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Returned:
    """A thing that was not written, as its reply says: `-MOVED 7 host:port`, for example.

    Attributes:
        place: of the thing.
        reply: what was said.
        node: by whom.
    """

    place: int
    reply: bytes
    node: ClusterNode

    @staticmethod
    def is_one(reply: bytes) -> bool:
        """Whether a reply says so."""
        return reply.startswith((b"-MOVED ", b"-ASK ", b"-TRYAGAIN", b"-CLUSTERDOWN"))

    @property
    def is_moved(self) -> bool:
        """Whether another node has the slot for good."""
        return self.reply.startswith(b"-MOVED ")

    @property
    def is_asked_for(self) -> bool:
        """Whether another node is to be asked this once, as the slot is on its way there."""
        return self.reply.startswith(b"-ASK ")

    def address(self) -> tuple[int, str, int]:
        """The slot, and host and port of the other node."""
        slot, address = self.reply.decode().split(" ")[1:3]
        host, _, port = address.rpartition(":")
        # A node that knows no name of its own stands for itself.
        return int(slot), self.node.host if host in ("", "?") else host, int(port)


class Patience:
    """How long things are sent again."""

    def __init__(self, seconds: float) -> None:
        """Begin to count with the first pause."""
        self._seconds = seconds
        self._until: float | None = None
        self._rounds = 0

    def pause(self, returned: Sequence[Returned]) -> bool:
        """Pause where that helps; whether no node has some of the slots.

        Raises:
            redis.exceptions.ConnectionError: it has been long enough.
        """
        now = time.monotonic()
        self._until = self._until or now + self._seconds
        self._rounds += 1
        last = returned[-1]
        if now > self._until:
            raise exceptions.ConnectionError(
                f"{len(returned)} command(s) found no node for {self._seconds} s, the last answer "
                f"was {last.reply.decode()!r} (by {last.node.name})"
            )
        nowhere = not all(one.is_moved or one.is_asked_for for one in returned)
        if nowhere or self._rounds > _AT_ONCE:
            time.sleep(min(0.001 * 2**self._rounds, _LONGEST_PAUSE))
        return nowhere
