"""How far a publish is, and how long it will take."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from nexus_redis_provider.core.durations import in_words
from nexus_redis_provider.core.gold.memory import Expectation

_WINDOW = 15.0
_WIDTH = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a publish is, at one moment.

    Attributes:
        rows: written so far.
        seconds: since the beginning.
        rows_per_second: of late.
        expected: how many will come, or None.
    """

    rows: int
    seconds: float
    rows_per_second: float
    expected: Expectation | None = None

    @property
    def share(self) -> float | None:
        """Of the rows, how much is written, 0 to 1; None if nobody knows how many will come."""
        if self.expected is None:
            return None
        return min(1.0, self.rows / self.expected.rows)

    @property
    def eta(self) -> float | None:
        """Seconds until all rows are written, at the speed of late; None if that is not known."""
        if self.expected is None or not self.rows_per_second:
            return None
        return max(0, self.expected.rows - self.rows) / self.rows_per_second

    def __str__(self) -> str:
        words = [f"{self.rows:,} rows written", f"{self.rows_per_second:,.0f} rows/s"]
        if self.expected is not None:
            about = "about " if self.expected.is_estimate else ""
            words.insert(1, f"{self.share:.0%} of {about}{self.expected.rows:,}")
            if self.eta is not None:
                words.append(f"{about}{in_words(self.eta)} left")
        return ", ".join(words)

    def bar(self) -> str:
        """The same behind a bar, where there is a share, for a terminal."""
        if self.share is None:
            return str(self)
        done = int(self.share * _WIDTH)
        return f"[{'#' * done}{'.' * (_WIDTH - done)}] {self}"


class Meter:
    """Makes progress out of counts of rows."""

    def __init__(self, expected: Expectation | None = None) -> None:
        """Begin at no rows."""
        self.expected = expected
        self._seen: deque[tuple[float, int]] = deque([(0.0, 0)])

    def note(self, rows: int, seconds: float) -> Progress:
        """The progress with so many rows, so many seconds after the beginning."""
        if not rows:
            # What is spent before the first row says nothing of how fast rows are written.
            self._seen.clear()
        self._seen.append((seconds, rows))
        while len(self._seen) > 2 and seconds - self._seen[1][0] > _WINDOW:
            self._seen.popleft()
        since, before = self._seen[0]
        speed = (rows - before) / (seconds - since) if seconds > since else 0.0
        return Progress(rows=rows, seconds=seconds, rows_per_second=speed, expected=self.expected)


class ProgressLine:
    """Shows progress where people look: a line that changes on a terminal, else one after another.

    Nothing is shown before the first row.
    """

    def __init__(self, title: str, log: Callable[[str], None]) -> None:
        """Take what stands before the progress, and who writes a line down.

        Args:
            log: called where the error stream is no terminal.
        """
        self._title = title
        self._log = log
        self._drawn = False

    def __call__(self, progress: Progress) -> None:
        if not progress.rows:
            return
        if not sys.stderr.isatty():
            self._log(f"{self._title}: {progress}")
            return
        # The end of a longer line before it is erased.
        sys.stderr.write(f"\r{self._title} {progress.bar()}\x1b[K")
        sys.stderr.flush()
        self._drawn = True

    def close(self) -> None:
        """Leave the line as it is."""
        if self._drawn:
            sys.stderr.write("\n")
            sys.stderr.flush()
        self._drawn = False
