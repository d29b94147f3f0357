"""Lua scripts as typed calls: built once, whoever sends them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Argument = str | bytes | int


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua source and its SHA-1, the name under which a server caches it."""

    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script `lua/<name>.lua` of this package (also when it was shipped as a zip).

    A line `-- Uses: X` in it is followed by the file `lua/include/X.lua`.
    """
    source = _USES.sub(lambda uses: f"{uses[0]}\n{_lua('include', uses[1])}", _lua(name))
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


_USES = re.compile(r"^-- Uses: (\w+)$", re.MULTILINE)


def _lua(*name: str) -> str:
    path = resources.files(__package__).joinpath("lua", *name[:-1], f"{name[-1]}.lua")
    return path.read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A script with its keys and arguments, and how to read its reply.

    Every script is idempotent for its owner, so that a call whose reply was lost is simply sent
    again by the client's retry.

    Attributes:
        missed: of keys that the script makes itself, those which were not there, as a reply says.
        has_part: whether the script has something to do with its first key alone, too, while no
            node runs it with all of them.
    """

    script: str
    keys: tuple[str, ...]
    args: tuple[Argument, ...]
    decode: Callable[[Any], T]
    missed: Callable[[Any], Iterable[str]] = lambda _: ()
    has_part: bool = False

    @property
    def part(self) -> Call[T] | None:
        """The same with the first key alone."""
        return replace(self, keys=self.keys[:1]) if self.has_part else None
