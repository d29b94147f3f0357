"""Rows that are written in one step with questions about what is there, by WATCH and MULTI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nexus_redis_provider.core.gold.row_commands import Commands
from nexus_redis_provider.core.gold.wire import OK, QUEUED, Replies, ReplyStream, command, slices

if TYPE_CHECKING:
    import redis


@dataclass(frozen=True, slots=True)
class Condition:
    """What permits a write.

    Attributes:
        key: if it is touched after the question, nothing is written.
        question: a command about it, in words.
        check: raises if the reply permits no write.
    """

    key: str
    question: tuple[str | int, ...]
    check: Callable[[bytes | None], None]


class Transactions:
    """Those of one connection."""

    def __init__(
        self,
        connection: redis.Connection,
        replies: ReplyStream,
        refuse_errors: Callable[[Replies], None],
    ) -> None:
        """Use a connection whose replies are read elsewhere, too.

        Args:
            refuse_errors: raises if the server refused a command.
        """
        self._connection = connection
        self._replies = replies
        self._refuse_errors = refuse_errors

    def watch(self, conditions: Sequence[Condition]) -> None:
        """Begin a step, which the next `execute` ends."""
        watch = command("WATCH", *(condition.key for condition in conditions))
        questions = [command(*condition.question) for condition in conditions]
        self._connection.send_packed_command([watch, *questions], check_health=False)
        self._refuse_errors(self._replies.differing(OK))
        answers = [self._replies.bulk() for _ in conditions]
        for condition, answer in zip(conditions, answers, strict=True):
            condition.check(answer)

    def ask(self, questions: Commands) -> Replies:
        """Replies that were not due, in the midst of a step."""
        self._connection.send_packed_command(slices(questions.stream), check_health=False)
        unusual = self._replies.differing(questions.due)
        self._refuse_errors(unusual)
        return unusual

    def execute(self, commands: Commands) -> Replies | None:
        """What was not due, or None: a key was touched, so that nothing was written."""
        self._connection.send_packed_command(
            [command("MULTI"), *slices(commands.stream), command("EXEC")], check_health=False
        )
        self._refuse_errors(self._replies.differing(OK))
        refused = self._replies.differing(QUEUED * commands.count)
        header = self._replies.line()
        self._refuse_errors(refused or [(0, header)])
        if header == b"*-1":
            return None
        unusual = self._replies.differing(commands.due)
        self._refuse_errors(unusual)
        return unusual

    def perform(self, commands: Commands, conditions: Sequence[Condition]) -> None:
        """Execute commands under conditions, however often a key is touched meanwhile."""
        self.watch(conditions)
        while self.execute(commands) is None:
            self.watch(conditions)
