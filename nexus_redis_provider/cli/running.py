"""How a command runs: what it answers is printed, what goes wrong is one line and an exit code."""

from __future__ import annotations

import io
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nexus_redis_provider.cli.declaring import Command, Subject
from nexus_redis_provider.cli.endings import ended_properly
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import (
    AccessDeniedError,
    ConfigurationError,
    NexusRedisError,
    UnreachableError,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    Parts = Iterable[RenderableType]

FAILED = 1
MISUSED = 2
UNREACHABLE = 3
DENIED = 4
_CODES: tuple[tuple[type[NexusRedisError], int], ...] = (
    (ConfigurationError, MISUSED),
    (UnreachableError, UNREACHABLE),
    (AccessDeniedError, DENIED),
)
_INTERRUPTED = 130
# Wide enough for any row: what reads a pipe or a file wants lines whole.
_UNBOUNDED = 100_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command found out.

    Attributes:
        document: for JSON.
        view: for people; called only where they look, since it needs rich.
        complaints: what went wrong besides, one line each; the command counts as failed then.
        code: to exit with then.
    """

    document: Any
    view: Callable[[], Parts]
    complaints: tuple[str, ...] = ()
    code: int = FAILED


@dataclass(frozen=True, slots=True)
class Feed:
    """What a command goes on to find out.

    Attributes:
        answers: each is shown as it comes: a line of JSON, or, on a terminal, in place of the one
            before.
    """

    answers: Iterator[Answer]


def perform(command: Command, args: Namespace, endpoint: Callable[[], Endpoint]) -> int:
    """Run a command to its end, whatever happens; returns the exit code.

    Args:
        command: what to do.
        args: its options as they were given.
        endpoint: says which server; its errors are reported like those of the command.

    Returns:
        0 done, 1 failed, 2 wrong use or configuration, 3 server unreachable, 4 access denied.
    """
    try:
        _refuse_what_is_no_text(args)
        if not args.json:
            _need_rich()
        with ended_properly(), _subject(command, endpoint) as subject:
            answer: Answer | Feed = command.load()(subject, args)
            if isinstance(answer, Feed):
                with _written():
                    _print_feed(answer, as_json=args.json)
                return 0
        with _written():
            _print(answer, as_json=args.json)
    except NexusRedisError as error:
        _complain(str(error))
        return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)
    except BrokenPipeError:  # Whoever read has seen enough.
        return FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    for complaint in answer.complaints:
        _complain(complaint)
    return answer.code if answer.complaints else 0


def _subject(command: Command, endpoint: Callable[[], Endpoint]) -> AbstractContextManager[Any]:
    match command.subject:
        case Subject.CLIENT:
            return endpoint().client()
        case Subject.ENDPOINT:
            return nullcontext(endpoint())
        case Subject.ON_DEMAND:
            return nullcontext(endpoint)


def _refuse_what_is_no_text(args: Namespace) -> None:
    for name, value in vars(args).items():
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ConfigurationError(f"{name} is not UTF-8 text: {value!r}.") from None


def _need_rich() -> None:
    try:
        import rich  # noqa: F401  # an extra
    except ImportError:
        raise ConfigurationError(
            "Tables need rich: pip install 'nexus_redis_provider[cli]', or pass --json."
        ) from None


@contextmanager
def _written() -> Iterator[None]:
    """Within it, a stream that takes no more is an error that says so."""
    try:
        yield
    except OSError as error:
        # Python would complain again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise NexusRedisError(f"The answer cannot be written: {error.strerror}.") from error


def _print(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(answer.document, indent=2) + "\n")
    else:
        _print_for_people(answer.view())
    sys.stdout.flush()


def _print_feed(feed: Feed, *, as_json: bool) -> None:
    if as_json:
        for answer in feed.answers:
            sys.stdout.write(json.dumps(answer.document) + "\n")
            sys.stdout.flush()
    elif sys.stdout.isatty():
        from rich.console import Group
        from rich.live import Live

        with Live(console=_console(), auto_refresh=False) as live:
            for answer in feed.answers:
                live.update(Group(*answer.view()), refresh=True)
    else:
        for answer in feed.answers:
            _print(answer, as_json=False)


def _print_for_people(parts: Parts) -> None:
    from rich.text import Text

    console = _console()
    for part in parts:
        # The terminal breaks lines so that they can be copied whole, rich does not.
        console.print(part, soft_wrap=isinstance(part, str | Text))


def _console() -> Console:
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal's encoding lacks must not keep the others from being shown.
        sys.stdout.reconfigure(errors="backslashreplace")
    # Names are not markup, and nothing in them is to be guessed at.
    return Console(
        file=sys.stdout,
        width=None if sys.stdout.isatty() else _UNBOUNDED,
        markup=False,
        highlight=False,
        emoji=False,
    )


def _complain(message: str) -> None:
    sys.stderr.write(f"nexus-redis: {' '.join(message.split())}\n")
