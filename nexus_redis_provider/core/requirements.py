"""What must be there for a cache to be warm."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Self

from nexus_redis_provider.core.durations import Duration, to_ms
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE

_NAMED = 5
_CONDITIONS = (
    *("min_rows", "min_coverage", "max_age", "min_ttl", "newer_than"),
    *("min_version", "after_version"),
)
_FITTING = {
    "dataset": {
        *("min_rows", "max_age", "min_ttl", "newer_than"),
        *("min_version", "after_version"),
    },
    "keys": {"min_rows", "min_coverage", "min_ttl"},
    "pattern": {"min_rows", "min_ttl"},
}
_WHY_NOT = {
    "min_coverage": "only of `keys` it is known how many there should be; use min_rows",
    "max_age": "Redis does not keep when a plain key was written; use min_ttl",
    "newer_than": "Redis does not keep when a plain key was written; use min_ttl",
    "min_version": "only a dataset has versions",
    "after_version": "only a dataset has versions",
}
_VERSION = re.compile(r"[0-9a-z]{1,12}")


def check_combination(given: Collection[str]) -> str:
    """The one target among the names of the given arguments.

    Raises:
        ConfigurationError: there is no target or several, or a condition that does not fit it.
    """
    targets = [name for name in _FITTING if name in given]
    if len(targets) != 1:
        found = " and ".join(targets) or "none"
        raise ConfigurationError(f"Give one of dataset, keys and pattern, not {found}.")
    for name in _CONDITIONS:
        if name in given and name not in _FITTING[targets[0]]:
            raise ConfigurationError(f"{name} does not go with {targets[0]}: {_WHY_NOT[name]}.")
    if {"min_rows", "min_coverage"} <= set(given):
        raise ConfigurationError("Give min_rows or min_coverage, not both.")
    return targets[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """What must be there for a cache to be warm: exactly one target, and how much of it.

    Args:
        dataset: a published Gold dataset.
        keys: these keys; all of them, unless `min_rows` or `min_coverage` asks for fewer.
        pattern: keys that match a glob, such as `analytics:delay:*`; at least `min_rows`, else one.
        min_rows: rows of the dataset (of an upserted one, of its last publish), or keys.
        min_coverage: share of `keys`, above 0 up to 1.
        max_age: seconds since the dataset was published, at most.
        min_ttl: seconds that what is counted must still live, at least. What never expires does.
        newer_than: when the dataset must have been published after, by the clock of the Redis
            server; with a time zone.
        min_version: the version that must be live, or one begun after it: the one that a publish
            returned.
        after_version: a version after which the live one must have been begun: the last one that
            was worked on.
        namespace: first part of the dataset's keys.

    Raises:
        ConfigurationError: no target or several, or a condition that does not fit the target.
    """

    dataset: str | None = None
    keys: tuple[str, ...] | None = None
    pattern: str | None = None
    min_rows: int | None = None
    min_coverage: float | None = None
    max_age: Duration | None = None
    min_ttl: Duration | None = None
    newer_than: datetime | None = None
    min_version: str | None = None
    after_version: str | None = None
    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        given = {field.name for field in fields(self) if getattr(self, field.name) is not None}
        target = check_combination(given)
        if not getattr(self, target):
            raise ConfigurationError(f"{target} must not be empty.")
        if isinstance(self.keys, str):
            raise ConfigurationError("keys must be a list of keys, not one text.")
        self._check_amounts()

    def _check_amounts(self) -> None:
        if self.min_rows is not None and self.min_rows < 1:
            raise ConfigurationError(f"min_rows must be at least 1, not {self.min_rows}.")
        if self.keys is not None and self.min_rows is not None and self.min_rows > len(self.keys):
            raise ConfigurationError(
                f"min_rows is {self.min_rows}, more than the {len(self.keys)} keys."
            )
        if self.min_coverage is not None and not 0 < self.min_coverage <= 1:
            raise ConfigurationError(
                f"min_coverage must be above 0 and at most 1, not {self.min_coverage!r}."
            )
        for name in ("max_age", "min_ttl"):
            if (duration := getattr(self, name)) is not None:
                to_ms(duration, name)
        if self.newer_than is not None and self.newer_than.tzinfo is None:
            raise ConfigurationError("newer_than must have a time zone.")
        for name in ("min_version", "after_version"):
            version = getattr(self, name)
            if version is not None and not (
                isinstance(version, str) and _VERSION.fullmatch(version)
            ):
                raise ConfigurationError(
                    f"{name} must be a version, as a publish returns it, not {version!r}."
                )

    @classmethod
    def from_dict(cls, arguments: Mapping[str, Any]) -> Self:
        """The requirement of these arguments; `newer_than` may be ISO 8601 text, `keys` a list."""
        plain = {name: value for name, value in arguments.items() if value is not None}
        if isinstance(plain.get("newer_than"), str):
            try:
                plain["newer_than"] = datetime.fromisoformat(plain["newer_than"])
            except ValueError as error:
                raise ConfigurationError(f"newer_than is not ISO 8601: {error}.") from None
        if "keys" in plain and not isinstance(plain["keys"], str):
            plain["keys"] = tuple(plain["keys"])
        return cls(**plain)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads, of JSON types alone."""
        plain: dict[str, Any] = {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        for name in ("max_age", "min_ttl"):
            if name in plain:
                plain[name] = to_ms(plain[name], name) / 1000
        if self.newer_than is not None:
            plain["newer_than"] = self.newer_than.isoformat()
        if self.keys is not None:
            plain["keys"] = list(self.keys)
        return plain

    def __str__(self) -> str:
        if self.keys is not None:
            return f"{len(self.keys)} keys ({sample(self.keys)})"
        return f"dataset {self.dataset!r}" if self.dataset else f"keys like {self.pattern!r}"


def sample(keys: Sequence[str]) -> str:
    """The first of many keys, for messages."""
    more = f", and {len(keys) - _NAMED:,} more" if len(keys) > _NAMED else ""
    return ", ".join(keys[:_NAMED]) + more
