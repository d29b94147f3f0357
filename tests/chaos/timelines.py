"""What callers did and when, and what that tells: for how long nothing worked, and what failed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Op:
    """One thing that a caller did.

    Attributes:
        kind: of caller.
        began, ended: seconds of `time.monotonic()`.
        value: that was acknowledged or read, if it did not fail.
        error: by which it failed.
    """

    kind: str
    began: float
    ended: float
    value: int = 0
    error: BaseException | None = None


@dataclass
class Timeline:
    """The ops of all callers; each adds its own at its end."""

    ops: list[Op] = field(default_factory=list)

    def done(self, kind: str, since: float = 0.0) -> list[Op]:
        """Those of a kind that succeeded, and ended later than that."""
        return [op for op in self.ops if op.kind == kind and op.error is None and op.ended > since]

    def without(self, kind: str, begin: float, end: float) -> float:
        """The longest time, in seconds, in which none of a kind succeeded."""
        ends = sorted(op.ended for op in self.done(kind) if begin < op.ended < end)
        moments = [begin, *ends, end]
        return max(later - earlier for earlier, later in pairwise(moments))

    def errors(self, since: float = 0.0) -> list[BaseException]:
        """What met callers in calls that ended later than that."""
        return [op.error for op in self.ops if op.error is not None and op.ended > since]

    def stale_reads(self) -> int:
        """Reads of an older version than one that was acknowledged before the read began."""
        return sum(1 for _ in self._stale())

    def _stale(self) -> Iterator[Op]:
        newest, published = 0, sorted(self.done("publish"), key=lambda op: op.ended, reverse=True)
        for read in sorted(self.done("read"), key=lambda op: op.began):
            while published and published[-1].ended < read.began:
                newest = max(newest, published.pop().value)
            if read.value < newest:
                yield read
