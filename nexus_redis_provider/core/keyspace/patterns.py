"""Globs of keys, from text that is meant as it stands."""

from __future__ import annotations

import re

from nexus_redis_provider.core.errors import ConfigurationError

_SPECIAL = re.compile(rb"[\\*?\[\]^-]")


def literal(text: str | bytes) -> bytes:
    """A glob that matches just this text, whatever bytes it has: `literal("a*") + b":*"`."""
    return _SPECIAL.sub(rb"\\\g<0>", _bytes(text))


def beginning_with(prefix: str | bytes) -> bytes:
    """A glob of all keys that begin so.

    Raises:
        ConfigurationError: the prefix is empty, and would mean every key.
    """
    if not prefix:
        raise ConfigurationError(
            "An empty prefix means every key of the database; if that is meant, give the pattern *."
        )
    return literal(prefix) + b"*"


def glob_of(pattern: str | bytes) -> bytes:
    """The pattern as the server gets it.

    Raises:
        ConfigurationError: it is empty, and would match no key but the one without a name.
    """
    if not pattern:
        raise ConfigurationError("A pattern must not be empty; of every key it is *.")
    return _bytes(pattern)


def _bytes(text: str | bytes) -> bytes:
    # As argparse gives bytes that are no UTF-8.
    return text.encode(errors="surrogateescape") if isinstance(text, str) else text
