"""Where an attempt writes to: a stream of commands to a server, and the replies to them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import redis

from nexus_redis_provider.core.endpoint import translated_errors
from nexus_redis_provider.core.errors import WriteError
from nexus_redis_provider.core.gold.row_commands import Commands
from nexus_redis_provider.core.gold.transactions import Condition, Transactions
from nexus_redis_provider.core.gold.wire import Replies, ReplyStream, command, slices
from nexus_redis_provider.core.scripts import Call, script

STAGED = b":1"
"""The reply of a script that registers what is written next."""


@dataclass(frozen=True, slots=True)
class Writes:
    """Things to write under a key each, such as the rows of a batch.

    Attributes:
        size: how many they are.
        commands: makes the commands for those at some places, in this order, or (None) for all.
        slots: tells the slot of each key, if one wants to know.
    """

    size: int
    commands: Callable[[Sequence[int] | None], Commands]
    slots: Callable[[], Sequence[int]]

    def __len__(self) -> int:
        return self.size


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of things that were sent.

    Attributes:
        staged: reply to their registration.
        unusual: replies to commands that were not due.
        unwritten: places of those that were not written.
        kept: the reply to a command that has not written, since a key was there.
        one_by_one: whether each had a command of its own; else some may be `unwritten` for others.
    """

    staged: bytes
    unusual: Replies = ()
    unwritten: Sequence[int] = ()
    kept: bytes | None = None
    one_by_one: bool = True

    @property
    def is_staged(self) -> bool:
        """Whether they were registered; else the version was given up."""
        return self.staged == STAGED

    @property
    def is_refused(self) -> bool:
        """Whether that was not all: what was not registered, or fails, is not to be published."""
        return not self.is_staged or any(line != self.kept for _, line in self.unusual)

    @property
    def replies(self) -> Replies:
        """All that may say why."""
        return [(0, self.staged), *self.unusual]


class Stream(ABC):
    """Where an attempt writes. Errors of connections are those of redis-py."""

    @abstractmethod
    def send(self, registration: Call[int], *writes: Writes) -> None:
        """Register things by a script, and send them; of several writes one after the other.

        At most two of these may be under way; `receive` tells of them in their order.
        """

    @abstractmethod
    def receive(self) -> Outcome:
        """What became of what was sent first; of several writes, `unwritten` is of the first."""

    @abstractmethod
    def write_if(self, conditions: Sequence[Condition], writes: Writes) -> None:
        """Write under conditions, whatever is there.

        Raises:
            WriteError: the server refused some.
        """

    @abstractmethod
    def disconnect(self) -> None:
        """Have no connection until something is sent."""


class ServerStream(Stream):
    """One connection to one server, which does all in the order in which it was sent.

    So a registration and what is registered travel in one write.
    """

    def __init__(self, client: redis.Redis, dataset: str) -> None:
        """Connect.

        Args:
            client: with RESP2.
            dataset: for messages.

        Raises:
            UnreachableError, AccessDeniedError: it cannot.
        """
        with translated_errors(client):
            self._connection: Any = client.connection_pool.get_connection()
        self._replies = ReplyStream(self._connection)
        self._under_way: deque[tuple[Sequence[Writes], Sequence[Commands]]] = deque()
        self.transactions = Transactions(
            self._connection, self._replies, partial(refuse_errors, dataset)
        )

    def send(self, registration: Call[int], *writes: Writes) -> None:
        commands = [some.commands(None) for some in writes]
        streams = [piece for some in commands for piece in slices(some.stream)]
        # No health check: it would read a reply that is not its own.
        self._connection.send_packed_command(
            [script_command(registration), *streams], check_health=False
        )
        self._under_way.append((writes, commands))

    def receive(self) -> Outcome:
        writes, commands = self._under_way.popleft()
        staged = self._replies.line()
        unusual = [self._replies.differing(some.due) for some in commands]
        if not commands:
            return Outcome(staged)
        return Outcome(
            staged,
            list(chain.from_iterable(unusual)),
            commands[0].rows_of(unusual[0], writes[0]),
            commands[0].kept,
            one_by_one=commands[0].rows == 1,
        )

    def write_if(self, conditions: Sequence[Condition], writes: Writes) -> None:
        self.transactions.perform(writes.commands(None), conditions)

    def disconnect(self) -> None:
        self._connection.disconnect()


def script_command(call: Call[int]) -> bytes:
    """The command that runs a script which the server knows."""
    return command("EVALSHA", script(call.script).sha, len(call.keys), *call.keys, *call.args)


def refuse_errors(dataset: str, replies: Replies) -> None:
    """Raise if there is an error among replies."""
    errors = [line for _, line in replies if line.startswith(b"-")]
    if errors:
        raise WriteError(dataset, errors[0][1:].decode(), len(errors))
