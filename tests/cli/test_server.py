"""`server`: what the server says of itself."""

from __future__ import annotations

from datetime import datetime

import redis

from nexus_redis_provider.embedded import EmbeddedServer
from tests.cli.conftest import Call
from tests.kinds import single_server


@single_server
def test_info(call: Call, client: redis.Redis, server: EmbeddedServer, namespace: str) -> None:
    client.set(f"{namespace}:a", 1, ex=60)
    (found,) = call("server", "info", "--json").json
    assert found["address"] == f"127.0.0.1:{server.port}/0"
    assert found["run_id"] == client.info("server")["run_id"]
    assert found["memory"]["policy"] == "noeviction"
    assert found["memory"]["limit"] is None
    assert found["databases"]["0"]["keys"] >= 1
    assert datetime.fromisoformat(found["persistence"]["last_saved_at"]).tzinfo
    assert found["replication"]["is_primary"] is True
    out = call("server", "info").out
    assert f"{found['name']} {found['version']} at 127.0.0.1:{server.port}/0" in out
    assert "without a limit, noeviction" in out
    assert f"of {found['replication']['replid']}" in out


@single_server
def test_slowlog(call: Call, client: redis.Redis, namespace: str) -> None:
    client.config_set("slowlog-log-slower-than", 0)
    client.get(f"{namespace}:\x1b[31m".encode() + b"\xff")
    client.config_set("slowlog-log-slower-than", 10_000)
    (found,) = call("server", "slowlog", "--count", "1", "--json").json
    assert found["words"] == ["GET", f"{namespace}:\x1b[31m\\xff"]
    assert 0 <= found["duration"] < 1
    heading, _, row = call("server", "slowlog", "--count", "1").out.splitlines()
    assert heading.split()[-1] == "COMMAND"
    assert row.rstrip().endswith(f"GET {namespace}:\\x1b[31m\\xff")
    client.execute_command("SLOWLOG", "RESET")
    assert call("server", "slowlog").out.startswith("No slow commands at ")


@single_server
def test_latency(call: Call, client: redis.Redis, server: EmbeddedServer) -> None:
    client.execute_command("LATENCY", "RESET")
    ran = call("server", "latency", "--count", "5")
    assert "Nothing is noted that held a server up" in ran.out
    client.config_set("latency-monitor-threshold", 1)
    client.eval("local t = {} for i = 1, 1000000 do t[i % 1000] = i end", 0)
    client.config_set("latency-monitor-threshold", 0)
    found = call("server", "latency", "--count", "5", "--json").json
    (trips,) = found["round_trips"]
    assert (trips["server"], trips["count"]) == (f"127.0.0.1:{server.port}/0", 5)
    event = next(one for one in found["events"] if one["event"] == "command")
    assert event["longest"] == max(spike["duration"] for spike in event["spikes"]) > 0
    assert "Held up by" in call("server", "latency").out
    client.execute_command("LATENCY", "RESET")


def test_a_bad_count(call: Call) -> None:
    for word in ("slowlog", "latency"):
        assert call("server", word, "--count", "0").code == 2


def test_no_namespace_is_asked_for(call: Call) -> None:
    # It stands before the group in every call of these tests, and changes nothing there.
    assert call("server", "info", "--json").code == 0
