"""The options of a connection, read in the same way from a URL and from an Airflow connection.

How the servers stand together, where they are, the database and whether TLS is used have places of
their own there; all else is one of these.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nexus_redis_provider.core.addresses import Tls
from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.errors import ConfigurationError

# Says of an option what is wrong with it, and of which URL or connection.
Wrong = Callable[[str], ConfigurationError]


_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def flag(value: Any) -> bool:
    """True or false, or 1 or 0; or as a text."""
    return _FLAGS[str(value).lower()]


def whole(value: Any) -> int:
    """A whole number, or as a text."""
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(value)
    return int(value)


def number(value: Any) -> float:
    """A number, or as a text."""
    if isinstance(value, bool):
        raise TypeError(value)
    return float(value)


# How an option is read, and what is said of what cannot be.
Reader = tuple[Callable[[Any], Any], str]
FLAG: Reader = (flag, "must be true or false")
NUMBER: Reader = (number, "must be a number")
WHOLE: Reader = (whole, "must be a whole number")
_READERS: dict[str, Reader] = {
    "master": (str, ""),
    "sentinel_username": (str, ""),
    "credential_provider": (str, ""),
    "read_from": (str, ""),
    "connect_timeout": NUMBER,
    "read_timeout": NUMBER,
    "retries": WHOLE,
    "max_connections": WHOLE,
    "pool_timeout": NUMBER,
    "health_check_interval": NUMBER,
    "protocol": (whole, "must be 2 or 3"),
    "client_name": (str, ""),
}
TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_READERS: dict[str, Reader] = {
    **dict.fromkeys(TLS_FILES, (str, "")),
    "ssl_cert_reqs": (str, ""),
    "ssl_check_hostname": FLAG,
}
_SECRETS = ("password", "sentinel_password")
_REFERENCES = tuple(f"{secret}_{source}" for secret in _SECRETS for source in ("env", "file"))
OPTIONS = (*_READERS, *_TLS_READERS, *_REFERENCES)
# By the names that redis-py has for them.
_OF_REDIS_PY = {
    "socket_timeout": "read_timeout",
    "socket_connect_timeout": "connect_timeout",
    "service_name": "master",
}


def endpoint_settings(
    options: Mapping[str, Any], literals: Mapping[str, Any], *, encrypted: bool, wrong: Wrong
) -> dict[str, Any]:
    """The arguments of `Endpoint` that options stand for.

    Args:
        options: by name; texts, or as JSON has them. None and an empty text are as good as none.
        literals: passwords that were given themselves, by `password` and `sentinel_password`.
        encrypted: whether TLS is used; what is said of it counts only then.
        wrong: makes the error.

    Raises:
        ConfigurationError: an option is unknown or bad; never tells a password.
    """
    given = {name: value for name, value in options.items() if value not in (None, "")}
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise wrong(f"has unknown option(s): {', '.join(unknown)} ({_hint(unknown)})")
    settings = _read(given, _READERS, wrong)
    tls = _read(given, _TLS_READERS, wrong) if encrypted else {}
    settings["tls"] = (
        Tls(**{name.removeprefix("ssl_"): value for name, value in tls.items()})
        if encrypted
        else None
    )
    return settings | {name: _secret_of(name, given, literals, wrong) for name in _SECRETS}


def _hint(unknown: Iterable[str]) -> str:
    meant = [
        [_OF_REDIS_PY[name]]
        if name in _OF_REDIS_PY
        else difflib.get_close_matches(name.lower(), OPTIONS, 1)
        for name in unknown
    ]
    if all(meant):
        return f"did you mean {', '.join(name for (name,) in meant)}?"
    return f"known are {', '.join(sorted(OPTIONS))}"


def read_option(name: str, value: Any, reader: Reader, wrong: Wrong) -> Any:
    """What a value stands for; the error of `wrong` where it stands for nothing."""
    read, must = reader
    try:
        return read(value)
    except (TypeError, ValueError, LookupError, OverflowError):
        raise wrong(f"has {name}={value!r}, which {must}") from None


def _read(given: Mapping[str, Any], readers: Mapping[str, Reader], wrong: Wrong) -> dict[str, Any]:
    return {
        name: read_option(name, given[name], reader, wrong)
        for name, reader in readers.items()
        if name in given
    }


def _secret_of(
    name: str, given: Mapping[str, Any], literals: Mapping[str, Any], wrong: Wrong
) -> Secret | None:
    found = [
        Secret(source, str(given[option]))
        for option, source in (
            (f"{name}_env", SecretSource.ENV),
            (f"{name}_file", SecretSource.FILE),
        )
        if option in given
    ]
    if literal := literals.get(name):
        found.append(Secret(SecretSource.LITERAL, literal))
    if len(found) > 1:
        what = name.replace("_", " ")
        raise wrong(f"gives the {what} twice; give it once: itself, by {name}_env or {name}_file")
    return found[0] if found else None
