"""`tags`: cached entries are made stale by what they depend on."""

from __future__ import annotations

import redis

from nexus_redis_provider.core.keys import generation_key
from nexus_redis_provider.core.tags import stamp
from tests.cli.conftest import ODD_NAMES, Call


def test_invalidate(call: Call, client: redis.Redis, namespace: str) -> None:
    names = ["prices", *ODD_NAMES]
    before = {tag: stamp(client, [tag], namespace=namespace) for tag in [*names, "other"]}
    found = call("tags", "invalidate", *names, "--json").json
    assert found == [
        {"tag": tag, "generation": int(client.get(generation_key(tag, namespace)))} for tag in names
    ]
    after = {tag: stamp(client, [tag], namespace=namespace) for tag in before}
    assert [tag for tag in before if before[tag] == after[tag]] == ["other"]

    ran = call("tags", "invalidate", "line\nbreak", "prices")
    assert ran.out.splitlines()[0].startswith("line\\nbreak invalidated at ")
    assert ran.out.splitlines()[1].startswith("prices invalidated at ")
    assert stamp(client, ["prices"], namespace=namespace) != after["prices"]


def test_bad_names(call: Call, client: redis.Redis, namespace: str) -> None:
    ran = call("tags", "invalidate", "prices", "")
    assert ran.code == 2
    assert "1 to 512 bytes in UTF-8, not 0" in ran.err
    assert not client.keys(f"{namespace}*")
