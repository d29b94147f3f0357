"""Options of operators, which may be templates: what they come to is checked when it is there."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, get_args

from airflow.sdk import conf

from nexus_redis_provider.core.durations import to_ms
from nexus_redis_provider.core.errors import ConfigurationError


def refuse_lost_token(fence: Any, of: str = "") -> None:
    """Return only for a fencing token; of what, stands before the message.

    Raises:
        ConfigurationError: it is none, as a template renders an XCom that is not there.
    """
    if fence in (None, "", "None"):
        raise ConfigurationError(
            f"{of}fence is {fence!r}: the task that takes the lock has returned no token, or its "
            "XCom is gone."
        )


def is_deferrable(*, given: bool | None) -> bool:
    """Whether to wait in the triggerer; by default as `[operators] default_deferrable`."""
    if given is None:
        return bool(conf.getboolean("operators", "default_deferrable", fallback=False))
    return given


def is_literal(value: Any) -> bool:
    """Whether a value is what it will be when the task runs: neither template nor XComArg."""
    return isinstance(value, int | float | timedelta) or (
        isinstance(value, str) and "{" not in value
    )


def one_of(option: str, value: Any, choices: Any) -> None:
    """Return only for one of the texts of a `Literal`."""
    if value not in get_args(choices):
        raise ConfigurationError(
            f"{option} must be one of {', '.join(get_args(choices))}, not {value!r}."
        )


def whole(option: str, value: Any, *, least: int) -> int:
    """The number that an option, perhaps rendered from a template, is."""
    try:
        number = int(value) if isinstance(value, int | str) and value is not True else None
    except ValueError:
        number = None
    if number is None or number < least:
        raise ConfigurationError(f"{option} must be a whole number from {least}, not {value!r}.")
    return number


def seconds(option: str, value: Any) -> float:
    """The duration that an option, perhaps rendered from a template, is."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ConfigurationError(
                f"{option} must be seconds or a timedelta, not {value!r}."
            ) from None
    return to_ms(value, option) / 1000
