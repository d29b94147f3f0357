"""Every Lua file opens with the contract that its callers rely on."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from nexus_redis_provider.core.gold.history import history, move_live
from nexus_redis_provider.core.gold.readers import live_manifest
from nexus_redis_provider.core.gold.unpublishing import retire
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.core.locks import protocol
from nexus_redis_provider.core.locks.evictions import show_eviction
from nexus_redis_provider.core.scripts import script
from nexus_redis_provider.core.tags import advance_generation, read_generation

NAMES = sorted(
    entry.name.removesuffix(".lua")
    for entry in resources.files("nexus_redis_provider.core").joinpath("lua").iterdir()
    if entry.is_file()
)


def header_and_code(name: str) -> tuple[str, str]:
    lines = script(name).source.removeprefix("#!lua flags=allow-oom\n").splitlines()
    end = next(index for index, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(lines[:end]), "\n".join(lines[end:])


def indexes(kind: str, text: str) -> set[int]:
    return {int(number) for number in re.findall(rf"{kind}\[(\d+)\]", text)}


@pytest.mark.parametrize("name", NAMES)
def test_header_names_every_key_and_argument(name):
    header, code = header_and_code(name)
    for kind in ("KEYS", "ARGV"):
        named = indexes(kind, header)
        assert named == set(range(1, len(named) + 1))
        assert named == indexes(kind, code)


@pytest.mark.parametrize("name", NAMES)
def test_no_key_is_made_of_another(name):
    _, code = header_and_code(name)
    assert not re.search(r"string\.\w+\(KEYS|KEYS\[\d+\]\s*\.\.|\.\.\s*KEYS", code)


@pytest.mark.parametrize("name", NAMES)
def test_header_tells_reply_clock_and_why(name):
    header, code = header_and_code(name)
    assert "-- Returns " in header
    clock = re.search(r"^-- Clock: (server TIME|none)", header, re.MULTILINE)
    assert clock
    assert (clock[1] == "server TIME") == ("'TIME'" in code)
    assert re.search(r"Atomic|[Aa] script because", header)


@pytest.mark.parametrize(
    "call",
    [
        protocol.acquire(protocol.Claim("name", "owner"), 1),
        show_eviction(protocol.Claim("name", "owner")),
        protocol.release("name", "owner", 1),
        protocol.renew("name", "owner", 1, 1),
        protocol.inspect("name"),
        protocol.leave("name", "owner"),
        protocol.attend("name", ["owner"]),
        protocol.break_lock("name", by="me", why="test"),
        live_manifest("dataset"),
        history("dataset"),
        move_live(GoldKeys("dataset"), "b", seen="a", fence=1),
        retire(GoldKeys("dataset"), "a", fence=1),
        read_generation("tag"),
        advance_generation("tag"),
    ],
    ids=lambda call: call.script,
)
def test_builders_pass_what_the_header_names(call):
    header, _ = header_and_code(call.script)
    assert len(call.keys) == len(indexes("KEYS", header))
    assert len(call.args) == len(indexes("ARGV", header))
