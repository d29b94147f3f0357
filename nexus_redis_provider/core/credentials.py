"""Passwords, and references to where a password can be found.

A reference (environment variable, file) travels to other processes; the password behind it is
looked up there, for each connection anew. A literal never leaves the process it was given to.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from nexus_redis_provider.core.errors import ConfigurationError


class SecretSource(StrEnum):
    """Where the secret is."""

    LITERAL = "literal"
    ENV = "env"
    ENV_URL = "env_url"
    FILE = "file"


class SecretError(AuthenticationError, ConfigurationError):
    """A reference leads to no password; no server was asked.

    It is one of redis-py's errors, too, so that clients deal with it while they connect.
    """


@dataclass(frozen=True, slots=True)
class Secret:
    """A password or a reference to one; its repr never shows a password.

    Args:
        source: how to read `value`.
        value: the password itself (`literal`), the name of an environment variable that holds the
            password (`env`) or a Redis URL with the password in it (`env_url`), or the path of a
            file whose first line it is (`file`).
    """

    source: SecretSource
    value: str = field(repr=False)

    def reveal(self) -> str:
        """The password.

        Raises:
            SecretError: the environment variable or the file is not there, or what is in it
                is no password.
        """
        match self.source:
            case SecretSource.LITERAL:
                return self.value
            case SecretSource.FILE:
                return self._read_file()
            case SecretSource.ENV:
                return self._refuse_none(self._read_env())
            case SecretSource.ENV_URL:
                return self._refuse_none(_password_in(self._read_env()))

    @property
    def is_reference(self) -> bool:
        """Whether it may travel to another process."""
        return self.source is not SecretSource.LITERAL

    def _read_env(self) -> str:
        try:
            found = os.environ[self.value]
        except KeyError:
            raise SecretError(
                f"The Redis password is to come from the environment variable {self.value}, which "
                "is not set in this process. Set it here too; where only Spark's configuration "
                "reaches the executors, name the variable ...PASSWORD, which Spark keeps out of "
                "its UI, or use ?password_file=PATH."
            ) from None
        try:
            found.encode()
        except UnicodeEncodeError:
            raise SecretError(
                f"The Redis password in the environment variable {self.value} is not UTF-8 text."
            ) from None
        return found

    def _refuse_none(self, found: str) -> str:
        # No password at all would be another user's rights, or an error of the server.
        if not found:
            raise SecretError(
                f"The Redis password is to come from the environment variable {self.value}, which "
                "has none in this process. Give it there, or leave out the reference to it."
            )
        return found

    def _read_file(self) -> str:
        wrong = f"The Redis password is to come from the file {self.value}, which"
        try:
            # An editor of Windows may have put a mark of the encoding before it.
            first = Path(self.value).read_text(encoding="utf-8-sig").partition("\n")[0]
        except UnicodeDecodeError:
            raise SecretError(f"{wrong} is not UTF-8 text.") from None
        except (OSError, ValueError) as error:
            raise SecretError(f"{wrong} cannot be read: {error}.") from None
        if not first:
            raise SecretError(f"{wrong} is empty, or has an empty first line.")
        return first

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.is_reference:
            raise ConfigurationError(
                "A literal Redis password does not travel to other processes. Give a reference: "
                "the environment variable NEXUS_REDIS_URL, or ?password_env=NAME or "
                "?password_file=PATH in the URL."
            )
        return type(self), (self.source, self.value)


def _password_in(url: str) -> str:
    # Not by urlsplit: the URL may name several hosts.
    authority = re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0]
    return unquote(authority.rpartition("@")[0].partition(":")[2])


class LookedUp(CredentialProvider):
    """Tells redis-py a user, and the password behind a reference, whenever it connects.

    Args:
        username: or None for the default user.
        secret: a reference.
    """

    def __init__(self, username: str | None, secret: Secret) -> None:
        self._username = username
        self._secret = secret

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """As redis-py asks for them. Raises SecretError."""
        password = self._secret.reveal()
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """The asyncio twin of `get_credentials`: reading a line takes no time to speak of."""
        return self.get_credentials()


class ProviderError(AuthenticationError):
    """A provider does not tell, or tells what is no password; the server was not asked."""


def provider_of(name: str) -> CredentialProvider:
    """What tells user and password whenever a connection is made.

    Args:
        name: `package.module.Class`, of a subclass of redis-py's `CredentialProvider` that needs
            no arguments.

    Raises:
        ConfigurationError: there is no such class.
    """
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # Whatever a module does when it is imported.
        raise ConfigurationError(
            f"credential_provider={name!r} is not package.module.Class: {error}."
        ) from error
    # Whoever may write a connection is not thereby to call anything at all.
    if not (isinstance(found, type) and issubclass(found, CredentialProvider)):
        raise ConfigurationError(
            f"credential_provider={name!r} is no subclass of redis.credentials.CredentialProvider."
        )
    try:
        return _reporting(name, found)()
    except Exception as error:
        raise ConfigurationError(
            f"credential_provider={name!r} cannot be made without arguments: {error}."
        ) from error


def _reporting(name: str, kind: type[CredentialProvider]) -> type[CredentialProvider]:
    """The same, but what goes wrong when it is asked is denied access, which names it.

    It stays what it is, since redis-py renews the tokens of those that are streaming.
    """

    class Reporting(kind):  # type: ignore[misc, valid-type]
        def get_credentials(self) -> Any:
            with _denied_by(name):
                return _checked(super().get_credentials())

        async def get_credentials_async(self) -> Any:
            with _denied_by(name):
                return _checked(await super().get_credentials_async())

    return Reporting


@contextmanager
def _denied_by(name: str) -> Iterator[None]:
    try:
        yield
    except AuthenticationError:
        raise
    except Exception as error:
        raise ProviderError(
            f"credential_provider={name!r} failed: {type(error).__name__}: {error}"
        ) from error


def _checked(found: Any) -> Any:
    """What was told, where that is a password, or user and password."""
    texts = isinstance(found, tuple | list) and all(isinstance(one, str | bytes) for one in found)
    if not texts or len(found) not in (1, 2):
        raise TypeError("it tells neither (password,) nor (user, password)")
    return found


def credentials_of(
    username: str | None, password: Secret | None, provider: str | None
) -> dict[str, Any]:
    """What redis-py's clients are given, as options, to say who they are.

    Args:
        username, password: one or both may be None.
        provider: in place of those; see `provider_of`.

    Raises:
        ConfigurationError: there is no such class.
        SecretError: the reference leads to no password, so nobody has to connect to find out.
    """
    if provider:
        return {"credential_provider": provider_of(provider)}
    found = password.reveal() if password else None
    if password and password.is_reference:
        return {"credential_provider": LookedUp(username, password)}
    return {"username": username, "password": found}
