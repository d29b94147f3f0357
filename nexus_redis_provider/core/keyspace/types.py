"""The types that a key's value can have."""

from __future__ import annotations

from nexus_redis_provider.core.errors import ConfigurationError

# By which command the server says how long a value is.
LENGTHS = {
    "string": "STRLEN",
    "list": "LLEN",
    "set": "SCARD",
    "zset": "ZCARD",
    "hash": "HLEN",
    "stream": "XLEN",
}
# https://redis.io/docs/latest/develop/reference/modules/modules-native-types/
_LETTERS_OF_A_MODULE = 9


def type_named(name: str) -> str:
    """The name as SCAN gets it, which would find nothing of a type that it does not know.

    Raises:
        ConfigurationError: neither the server nor a module can have a type of this name.
    """
    if name.lower() not in LENGTHS and len(name) != _LETTERS_OF_A_MODULE:
        raise ConfigurationError(
            f"No keys have the type {name!r}; the types are {', '.join(LENGTHS)}, and those of "
            f"modules, whose names have {_LETTERS_OF_A_MODULE} letters, such as ReJSON-RL."
        )
    return name
