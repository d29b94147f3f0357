"""Bugs to be planted into the scripts, by which the judge is judged."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from nexus_redis_provider.core import scripts
from nexus_redis_provider.core.scripts import Script


@dataclass(frozen=True, slots=True)
class Bug:
    """Replacements in Lua sources, and the rules one of which the judge must find broken.

    Attributes:
        edits: what is replaced by what, in whichever script has it.
        rules: of `checks`.
        crew: workers by kind that are likely to show it soon.
        weights: faults by kind, as well.
        faults: how many it takes.
    """

    edits: tuple[tuple[str, str], ...]
    rules: frozenset[str]
    crew: dict[str, int] = field(
        default_factory=lambda: {"plain": 2, "async": 1, "run": 3, "sleepy": 3, "thief": 1}
    )
    weights: dict[str, float] = field(
        default_factory=lambda: {"pause_worker": 3, "kill_worker": 1, "drop_reply": 1}
    )
    faults: int = 15


_TOKENS = (
    "whole(math.max(newest_token() + 1, now_us))",
    "whole(math.max(stored + 1, now_us))",
)
_FREE_IT = """
  for _, one in ipairs(redis.call('HKEYS', LOCK)) do
    if one ~= '' then redis.call('HDEL', LOCK, one) end
  end
"""
_WAKES = "ipairs(admitted(held)) do\n"
_STAYS_ANEW = "redis.call('ZADD', HEARD, 'GT', whole(now_ms + one.stay), one.owner)"

BUGS = {
    "release takes the lock from whoever holds it": Bug(
        (("  return {0, 0}\n", f"{_FREE_IT}  return {{0, 0}}\n"),),
        frozenset({"two at once", "refused a holder"}),
        crew={"plain": 1, "sleepy": 7},
    ),
    "all tokens are equal": Bug(
        tuple((rising, "'7'") for rising in _TOKENS),
        frozenset({"a token for two"}),
    ),
    "tokens fall": Bug(
        tuple((rising, "whole(9e15 - now_us)") for rising in _TOKENS),
        frozenset({"tokens do not rise"}),
    ),
    "a lease protects nobody": Bug(
        (("one.expires > now_ms or ", ""),),
        frozenset({"two at once"}),
    ),
    "one more than permitted": Bug(
        (("fits = count + 1 <= least", "fits = count <= least"),),
        frozenset({"two at once", "more than permitted"}),
    ),
    "who asks overtakes the line": Bug(
        (("if fits then\n  for one in living()", "if false then\n  for one in living()"),),
        frozenset({"overtaken"}),
    ),
    "a thief takes what came back to life": Bug(
        ((" or (ARGV[3] ~= '0' and entries ~= ARGV[3])", ""),),
        frozenset({"two at once", "a living run lost its lock"}),
        crew={"run": 5, "thief": 4},
    ),
    "who never comes lives on what others ask": Bug(
        ((_WAKES, f"{_WAKES}    {_STAYS_ANEW}\n"),),
        frozenset({"nobody gets it"}),
        crew={"plain": 4, "sleepy": 3, "run": 3, "thief": 1},
        weights={"kill_worker": 1},
        faults=50,
    ),
}


def plant(bug: str) -> None:
    """Let all scripts of this process have the bug."""
    right = scripts.script

    def wrong(name: str) -> Script:
        source = right(name).source
        for old, new in BUGS[bug].edits:
            source = source.replace(old, new)
        return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())

    scripts.script = wrong


def is_plantable(bug: str, names: tuple[str, ...]) -> bool:
    """Whether every edit of a bug finds its place in one of the scripts."""
    sources = [scripts.script(name).source for name in names]
    return all(any(old in source for source in sources) for old, _ in BUGS[bug].edits)
