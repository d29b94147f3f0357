"""Days and microseconds since 1970, as Arrow and Spark count them, to dates and timestamps.

Spark's years go on beyond 1 to 9999, where Python's end. Those become text, the same that Spark
writes: `+12345-01-01`, `-0004-01-01`.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta

FIRST_DAY, LAST_DAY = -719_162, 2_932_896
"""Those of the years 1 and 9999."""
DAY = 86_400_000_000
"""Microseconds."""

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - the zone is added
_TEXT = re.compile(r"(?P<year>[+-]?\d{4,})-(?P<month>\d\d)-(?P<day>\d\d)$")
_CYCLE_YEARS = 400
_CYCLE_DAYS = 146_097


def date_of(days: int) -> date | str:
    """The day, or its text."""
    if FIRST_DAY <= days <= LAST_DAY:
        return date.fromordinal(days + _EPOCH_DAY)
    # The calendar repeats itself.
    cycles, rest = divmod(days, _CYCLE_DAYS)
    day = date.fromordinal(rest + _EPOCH_DAY)
    year = day.year + cycles * _CYCLE_YEARS
    return f"{'+' if year > 0 else '-' if year < 0 else ''}{abs(year):04}{day:-%m-%d}"


def timestamp_of(microseconds: int, *, utc: bool) -> datetime | str:
    """The moment, in UTC or without zone, or its text."""
    days, rest = divmod(microseconds, DAY)
    passed = timedelta(microseconds=rest)
    if FIRST_DAY <= days <= LAST_DAY:
        moment = _EPOCH + timedelta(days) + passed
        return moment.replace(tzinfo=UTC) if utc else moment
    return f"{date_of(days)}{_EPOCH + passed:T%H:%M:%S.%f}{'Z' if utc else ''}"


def days_of(text: str) -> int:
    """The day that `date_of` gives as this text.

    Raises:
        ValueError: it is no such text.
    """
    found = _TEXT.match(text)
    if found is None:
        raise ValueError(f"No date: {text!r}.")
    cycles, year = divmod(int(found["year"]), _CYCLE_YEARS)
    # In a cycle whose years Python knows.
    day = date(year + _CYCLE_YEARS, int(found["month"]), int(found["day"]))
    return day.toordinal() - _EPOCH_DAY + (cycles - 1) * _CYCLE_DAYS


def microseconds_of(text: str) -> int:
    """The moment that `timestamp_of` gives as this text.

    Raises:
        ValueError: it is no such text.
    """
    day, _, clock = text.partition("T")
    passed = datetime.combine(_EPOCH, time.fromisoformat(clock.removesuffix("Z"))) - _EPOCH
    return days_of(day) * DAY + passed // timedelta(microseconds=1)
