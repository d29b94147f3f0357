"""Which values options may have; others are refused before anything is tried."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, get_args

from nexus_redis_provider.core.errors import ConfigurationError

if TYPE_CHECKING:
    from nexus_redis_provider.core.endpoint import Endpoint

ReadFrom = Literal["primary", "replica"]
# A day is far beyond any use. Much longer times the system does not take.
_MOST_SECONDS = 86_400


def is_whole(value: object, least: int) -> bool:
    """Whether it is a whole number, at least so large."""
    return type(value) is int and value >= least


def check_values(endpoint: Endpoint) -> None:
    """Refuse values of an endpoint that mean nothing, each by itself.

    Raises:
        ConfigurationError: names the option and its value.
    """
    for name in ("connect_timeout", "read_timeout"):
        _check_seconds(name, getattr(endpoint, name))
    for name in ("pool_timeout", "health_check_interval"):
        _check_seconds(name, getattr(endpoint, name), may_be_zero=True)
    for name, least in (("retries", 0), ("db", 0), ("max_connections", 1)):
        if not is_whole(value := getattr(endpoint, name), least):
            raise ConfigurationError(
                f"{name} must be a whole number of at least {least}, not {value!r}."
            )
    if endpoint.read_from not in get_args(ReadFrom):
        known = " or ".join(get_args(ReadFrom))
        raise ConfigurationError(f"read_from must be {known}, not {endpoint.read_from!r}.")
    if endpoint.protocol not in (2, 3):
        raise ConfigurationError(f"protocol must be 2 or 3, not {endpoint.protocol!r}.")
    # As servers have it.
    if endpoint.client_name is not None and not re.fullmatch("[!-~]+", endpoint.client_name):
        raise ConfigurationError(
            "client_name must have printable ASCII signs only, and no spaces, not "
            f"{endpoint.client_name!r}."
        )


def _check_seconds(name: str, seconds: Any, *, may_be_zero: bool = False) -> None:
    is_number = isinstance(seconds, float) or is_whole(seconds, 0)
    if not is_number or not 0 <= seconds <= _MOST_SECONDS or (seconds == 0 and not may_be_zero):
        least = "0 or positive" if may_be_zero else "positive"
        raise ConfigurationError(
            f"{name} must be {least}, and at most {_MOST_SECONDS:,} seconds, not {seconds!r}."
        )
