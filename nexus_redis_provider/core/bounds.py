"""Which values options may have; others are refused before anything is tried."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, get_args

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
        _check_timeout(name, getattr(endpoint, name))
    for name in ("pool_timeout", "health_check_interval"):
        if (seconds := getattr(endpoint, name)) != 0:
            _refuse_negative(name, seconds)
            _check_timeout(name, seconds)
    for name in ("retries", "db"):
        _refuse_negative(name, getattr(endpoint, name))
    if endpoint.max_connections <= 0:
        raise ConfigurationError(
            f"max_connections must be positive, not {endpoint.max_connections!r}."
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


def _check_timeout(name: str, seconds: float) -> None:
    if not 0 < seconds <= _MOST_SECONDS:
        raise ConfigurationError(
            f"{name} must be positive, and at most {_MOST_SECONDS:,} seconds, not {seconds!r}."
        )


def _refuse_negative(name: str, value: float) -> None:
    if value < 0:
        raise ConfigurationError(f"{name} must not be negative: {value!r}.")
