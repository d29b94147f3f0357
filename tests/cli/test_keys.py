"""`keys`: what keys there are, what they take, and removal by pattern."""

from __future__ import annotations

import base64

import pytest
import redis

from tests.cli.conftest import ODD_NAMES, Call


@pytest.fixture
def keys(client: redis.Redis, namespace: str) -> list[bytes]:
    names = [f"{namespace}:{name}".encode() for name in ODD_NAMES] + [
        f"{namespace}:".encode() + b"\xff"
    ]
    for number, name in enumerate(names):
        client.set(name, b"x" * 10**4 * number, ex=60)
    return names


def test_scan(call: Call, namespace: str, keys: list[bytes]) -> None:
    found = call("keys", "scan", f"{namespace}:*", "--json").json
    assert {
        base64.b64decode(one["key_base64"]) if "key_base64" in one else one["key"].encode()
        for one in found
    } == set(keys)
    assert {"key": f"{namespace}:\\xff", "key_base64": base64.b64encode(keys[-1]).decode()} in found
    ran = call("keys", "scan", f"{namespace}:*")
    assert sorted(ran.out.splitlines()) == sorted(
        f"{namespace}:{name}"
        for name in (
            "with spaces  two",
            "a{b}c",
            "ünïcødé 日本",
            "[red]x[/] [link=http://x]y[/link] :smile:",
            "100% \\ * ? [a-z]",
            "line\\nbreak\\ttab",
            "\\x1b[31mred\\u202e",
            "\\xff",
        )
    )
    assert len(call("keys", "scan", f"{namespace}:*", "--limit", "3", "--json").json) == 3
    assert call("keys", "scan", f"{namespace}:*", "--type", "hash", "--json").json == []
    assert call("keys", "scan", f"{namespace}:none").out.startswith("No keys like ")


def test_a_pattern_may_have_any_bytes(
    call: Call, client: redis.Redis, namespace: str, keys: list[bytes]
) -> None:
    """As Python gives those of a command line that are no UTF-8."""
    pattern = f"{namespace}:*\udcff"
    assert [one["key"] for one in call("keys", "scan", pattern, "--json").json] == [
        f"{namespace}:\\xff"
    ]
    assert call("keys", "scan", f"{pattern}a").out.startswith(
        f"No keys like {namespace}:*\\xffa at "
    )
    assert call("keys", "memory", pattern, "--json").json["keys"] == 1
    assert call("keys", "big", pattern, "--json").json[0]["key"] == f"{namespace}:\\xff"
    document = call("keys", "delete", pattern, "--force", "--json").json
    assert document["pattern"] == f"{namespace}:*\\xff"
    assert document["deleted"] == 1
    assert client.exists(*keys) == len(keys) - 1


def test_delete(call: Call, client: redis.Redis, namespace: str, keys: list[bytes]) -> None:
    pattern = f"{namespace}:*"
    for words in ((), ("--dry-run", "--force")):
        ran = call("keys", "delete", pattern, *words)
        assert ran.code == 2
        assert "Nothing was removed" in ran.err
    ran = call("keys", "delete", pattern, "--dry-run")
    assert ran.out.startswith(f"{len(keys)} keys would be removed at ")
    assert client.exists(*keys) == len(keys)
    document = {"pattern": pattern, "dry_run": False, "found": len(keys), "deleted": len(keys)}
    assert call("keys", "delete", pattern, "--force", "--json").json == document
    assert not client.exists(*keys)
    assert call("keys", "delete", pattern, "--force").out.startswith("0 keys removed at ")


def test_big(call: Call, client: redis.Redis, namespace: str, keys: list[bytes]) -> None:
    client.hset(f"{namespace}:h", "f", "x" * 10**6)
    found = call("keys", "big", f"{namespace}:*", "--top", "2", "--json").json
    assert [one["key"] for one in found] == [f"{namespace}:h", f"{namespace}:\\xff"]
    assert found[0] == {
        "key": f"{namespace}:h",
        "bytes": client.memory_usage(f"{namespace}:h"),
        "type": "hash",
        "length": 1,
    }
    heading, _, first, second = call("keys", "big", f"{namespace}:*", "--top", "2").out.splitlines()
    assert heading.split() == ["KEY", "BYTES", "TYPE", "LENGTH"]
    assert first.split()[::3] == [f"{namespace}:h", "1"]
    assert second.split()[::3] == [f"{namespace}:\\xff", f"{10**4 * (len(keys) - 1):,}"]
    client.unlink(f"{namespace}:h")


def test_memory(call: Call, client: redis.Redis, namespace: str, keys: list[bytes]) -> None:
    sizes = [client.memory_usage(key) for key in keys]
    assert call("keys", "memory", f"{namespace}:*", "--json").json == {
        "pattern": f"{namespace}:*",
        "keys": len(keys),
        "bytes": sum(sizes),
        "largest": max(sizes),
        "mean": sum(sizes) / len(keys),
    }
    out = call("keys", "memory", f"{namespace}:*").out
    assert out.startswith(f"{len(keys)} keys take {sum(sizes):,} bytes: ")
    assert call("keys", "memory", f"{namespace}:none").out.startswith("No keys like ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("scan", "--limit", "0"), "--limit must be at least 1"),
        (("scan", "--type", "hsh"), "No keys have the type 'hsh'"),
        (("scan", ""), "A pattern must not be empty"),
        (("big", "--top", "0"), "top must be at least 1"),
        (("memory", "--samples", "-1"), "samples must be 0"),
    ],
)
def test_bad_options(call: Call, client: redis.Redis, namespace: str, words, said) -> None:
    client.set(f"{namespace}:a", 1, ex=60)
    ran = call("keys", *words)
    assert ran.code == 2
    assert said in ran.err
