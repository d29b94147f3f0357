"""A stream to all nodes of a Cluster, which work side by side: each gets what is in its slots.

What is registered is in the dataset's own slot. So nothing is sent before that is acknowledged;
most often the nodes are done with the batch before by then.

A command that a node passes on was not executed. It alone is sent again, at once, to where it
belongs by now, for as long as a reply may take. A connection that breaks ends the stream: nobody
knows what was executed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import numpy as np
import redis
from redis import exceptions
from redis.cluster import ClusterNode

from nexus_redis_provider.core.clusters import is_spread
from nexus_redis_provider.core.endpoint import FAILURES, translated
from nexus_redis_provider.core.errors import AccessDeniedError, RefusedError
from nexus_redis_provider.core.exchanges import execute_all
from nexus_redis_provider.core.gold.owners import Owners
from nexus_redis_provider.core.gold.redirections import Patience, Returned
from nexus_redis_provider.core.gold.row_commands import Commands
from nexus_redis_provider.core.gold.streams import (
    STAGED,
    Outcome,
    ServerStream,
    Stream,
    Writes,
    refuse_errors,
)
from nexus_redis_provider.core.gold.transactions import Condition
from nexus_redis_provider.core.gold.wire import OK, ReplyStream, command, slices
from nexus_redis_provider.core.scripts import Call, run

_ASKING = command("ASKING")


@dataclass(frozen=True, slots=True)
class _Line:
    """A connection to a node, which is kept as long as the node's pool is."""

    node: ClusterNode
    connection: Any
    replies: ReplyStream


@dataclass(frozen=True, slots=True)
class _Sent:
    """What was sent over a line.

    Attributes:
        line: over which.
        places: of the things that were sent.
        due: the replies, if all is as it should be.
        each: how many of them are for each thing, of which the last one counts.
        kept: as of `Commands`.
    """

    line: _Line
    places: Sequence[int]
    due: bytes
    each: int
    kept: bytes | None


class NodeStreams(Stream):
    """A connection to each node that gets something; used as a context manager, or disconnected.

    At most one batch is on its way to the nodes: whoever sends the next one waits for it.
    """

    def __init__(self, client: redis.Redis, dataset: str) -> None:
        """Connect to nobody yet.

        Args:
            client: of the whole Cluster; with RESP2, but where all replies are numbers.
            dataset: for messages.
        """
        self._client: Any = client
        self._dataset = dataset
        self._lines: dict[str, _Line] = {}
        self._owners = Owners(client)
        self._under_way: tuple[Sequence[Writes], list[_Sent]] | None = None
        self._outcomes: deque[Outcome] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is not None:
            self.disconnect()
        self._release()

    def send(self, registration: Call[int], *writes: Writes) -> None:
        self._finish()
        staged = self._registered(registration)
        if staged == STAGED and writes:
            self._under_way = writes, self._send_to_owners(writes[0])
        else:
            # What is not sent is not ours, whoever has written a key of that name.
            unsent = range(len(writes[0])) if writes else ()
            self._outcomes.append(Outcome(staged, unwritten=unsent))

    def _registered(self, registration: Call[int]) -> bytes:
        """The reply, as it comes from the server; what it refuses is an answer, too."""
        try:
            return b":%d" % run(self._client, registration)
        except (AccessDeniedError, RefusedError) as error:
            return f"-{error.__cause__}".encode()

    def receive(self) -> Outcome:
        self._finish()
        if not self._outcomes:
            raise exceptions.ConnectionError("the stream broke off before")
        return self._outcomes.popleft()

    def write_if(self, conditions: Sequence[Condition], writes: Writes) -> None:
        """As it says, but what happens between the answers and the write is not noticed.

        No transaction spans slots.
        """
        answers = execute_all(self._client, [condition.question for condition in conditions])
        for condition, answer in zip(conditions, answers, strict=True):
            condition.check(answer)
        refuse_errors(self._dataset, list(self.exchange(writes).items()))

    def exchange(self, writes: Writes) -> Mapping[int, bytes]:
        """Write, and wait; by place each reply that was not due."""
        return self._followed(writes, self._send_to_owners(writes))

    def disconnect(self) -> None:
        for line in self._lines.values():
            line.connection.disconnect()
        self._release()

    def _release(self) -> None:
        for line in self._lines.values():
            self._client.get_redis_connection(line.node).connection_pool.release(line.connection)
        self._lines.clear()

    def _finish(self) -> None:
        """Wait for what is under way."""
        if self._under_way is None:
            return
        (first, *others), sent = self._under_way
        self._under_way = None
        unusual = self._followed(first, sent)
        replies = list(unusual.items())
        for writes in others:
            replies += self.exchange(writes).items()
        kept = sent[0].kept if sent else None
        self._outcomes.append(Outcome(STAGED, replies, sorted(unusual), kept))

    def _followed(self, writes: Writes, sent: list[_Sent]) -> dict[int, bytes]:
        """Read all replies, and send again what was returned; by place what was not due."""
        unusual: dict[int, bytes] = {}
        patience = Patience(self._client.get_connection_kwargs()["socket_timeout"])
        while sent:
            returned: list[Returned] = []
            for place, reply, node in self._read(sent):
                if Returned.is_one(reply):
                    returned.append(Returned(place, reply, node))
                else:
                    where = b" (at %b)" % node.name.encode() if reply.startswith(b"-") else b""
                    unusual[place] = reply + where
            sent = self._send_again(writes, returned, patience) if returned else []
        return unusual

    def _read(self, sent: Iterable[_Sent]) -> Iterator[tuple[int, bytes, ClusterNode]]:
        for one in sent:
            with self._unbroken(one.line.node):
                unusual = one.line.replies.differing(one.due)
            for at, reply in unusual:
                if at % one.each == one.each - 1:
                    yield one.places[at // one.each], reply, one.line.node

    def _send_again(
        self, writes: Writes, returned: Sequence[Returned], patience: Patience
    ) -> list[_Sent]:
        if patience.pause(returned):
            self._owners.ask()
        asked: dict[tuple[str, int], list[int]] = {}
        for one in returned:
            if one.is_asked_for:
                asked.setdefault(one.address()[1:], []).append(one.place)
            elif one.is_moved:
                self._owners.learn(*one.address())
        others = [one.place for one in returned if not one.is_asked_for]
        sent = self._send_to_owners(writes, others) if others else []
        for address, places in asked.items():
            each = [writes.commands([place]) for place in places]
            stream = b"".join(_ASKING + one.stream for one in each)
            due = b"".join(OK + one.due for one in each)
            commands = replace(each[0], stream=memoryview(stream), due=due)
            sent.append(self._send(self._owners.node(*address), places, commands, each=2))
        return sent

    def _send_to_owners(self, writes: Writes, places: Sequence[int] | None = None) -> list[_Sent]:
        """Send the things at some places, or all, to the nodes that have their slots."""
        slots = np.array(writes.slots(), np.int64)
        chosen = np.arange(len(slots)) if places is None else np.array(places)
        sent = []
        for node, found in self._owners.groups(slots[chosen]):
            some = chosen[found].tolist()
            commands = writes.commands(None if len(some) == len(slots) else some)
            sent.append(self._send(node, some, commands))
        return sent

    def _send(
        self, node: ClusterNode, places: Sequence[int], commands: Commands, *, each: int = 1
    ) -> _Sent:
        with self._unbroken(node):
            line = self._line(node)
            # No health check: it would read a reply that is not its own.
            line.connection.send_packed_command(slices(commands.stream), check_health=False)
        return _Sent(line, places, commands.due, each, commands.kept)

    def _line(self, node: ClusterNode) -> _Line:
        if (line := self._lines.get(node.name)) is None:
            connection = self._client.get_redis_connection(node).connection_pool.get_connection()
            line = self._lines[node.name] = _Line(node, connection, ReplyStream(connection))
        return line

    @contextmanager
    def _unbroken(self, node: ClusterNode) -> Iterator[None]:
        """Ends all connections where one is in doubt, since replies of others are still to come."""
        try:
            yield
        except BaseException as error:
            self.disconnect()
            if isinstance(error, FAILURES):
                raise translated(node.name, error) from error
            raise


def stream_to(client: redis.Redis, dataset: str) -> Stream:
    """The stream of an attempt.

    Args:
        client: of a server or of a whole Cluster, with RESP2.
        dataset: for messages.

    Raises:
        UnreachableError, AccessDeniedError: it cannot connect.
    """
    if is_spread(client):
        return NodeStreams(client, dataset)
    return ServerStream(client, dataset)
