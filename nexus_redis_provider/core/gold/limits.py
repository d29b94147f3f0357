"""How much a publish may take of a server, and what of it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nexus_redis_provider.core.bounds import is_whole
from nexus_redis_provider.core.errors import ConfigurationError, ValueTooLargeError

if TYPE_CHECKING:
    import pyarrow as pa

MAX_VALUE_BYTES = 1_000_000
MEMORY_MARGIN = 0.05
LIMITS: Mapping[str, type[int | float]] = {
    "max_rows_per_second": int,
    "max_writers": int,
    "max_value_bytes": int,
    "expected_rows": int,
    "memory_margin": float,
}
"""The bounds by name, and what kind of number each is, for who has them as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on a publish; checked when they are made.

    Args:
        max_rows_per_second: of all tasks together; None for as fast as the server keeps up.
        max_writers: connections that write, however many tasks Spark runs; None for one each.
            Tasks take turns, a batch at a time, and compute meanwhile.
        max_value_bytes: a row with a larger value is refused; None takes any.
        expected_rows: how many will come: for the time left and, of a snapshot, for what memory it
            will take. Without it, as many as the live version has. Of no use to a delta.
        memory_margin: share of the server's `maxmemory` that must stay free; None looks at nothing.
    """

    max_rows_per_second: int | None = None
    max_writers: int | None = None
    max_value_bytes: int | None = MAX_VALUE_BYTES
    expected_rows: int | None = None
    memory_margin: float | None = MEMORY_MARGIN

    def __post_init__(self) -> None:
        for name in (name for name, kind in LIMITS.items() if kind is int):
            value: Any = getattr(self, name)
            if value is not None and not is_whole(value, 1):
                raise ConfigurationError(f"{name} is a positive whole number, not {value!r}.")
        margin: Any = self.memory_margin
        if margin is not None and not (type(margin) in (int, float) and 0 <= margin < 1):
            raise ConfigurationError(
                f"memory_margin is a share of maxmemory, such as {MEMORY_MARGIN}, not {margin!r}."
            )

    def check_values(self, dataset: str, keys: pa.StringArray, values: pa.StringArray) -> None:
        """Refuse a batch with too large a value.

        Raises:
            ValueTooLargeError: names the key of the largest.
        """
        if self.max_value_bytes is None:
            return
        # Here, since a scheduler that parses a DAG needs the bounds, and no pyarrow.
        import pyarrow.compute as pc

        sizes = pc.binary_length(values)
        largest: int | None = pc.max(sizes).as_py()
        if largest is not None and largest > self.max_value_bytes:
            key = keys[pc.index(sizes, largest).as_py()].as_py()
            raise ValueTooLargeError(dataset, key, largest, self.max_value_bytes)
