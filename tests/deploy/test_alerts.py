"""Each alert fires on what it is about, alone, and not before; Prometheus itself judges."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.programs import DEPLOY, need
from tests.deploy.test_compose import SERVERS, SERVICES, of_profile

FOLDER = DEPLOY / "prometheus"
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
# At which of the minutes a firing alert is looked for.
MINUTE = 40

Series = dict[str, str]
STATE, CACHE, SENTINEL = (
    f'{{tier="{tier}",instance="i"}}' for tier in ("state", "cache", "sentinel")
)

# Another server that is well; without one, there is an alert.
WATCHED = 'up{job="redis",instance="other"}'


def primaries(*roles: str) -> Series:
    return {
        f'redis_instance_info{{replicated="yes",instance="{number}",role="{role}"}}': "1x60"
        for number, role in enumerate(roles)
    } | {'redis_up{replicated="yes"}': "1x60"}


def replicas(count: int, kind: str, role: str = "master") -> Series:
    return {
        f'redis_connected_slaves{{{kind}="yes",instance="{role}"}}': f"{count}x60",
        f'redis_instance_info{{instance="{role}",role="{role}"}}': "1x60",
    }


def hits(per_minute: int, misses: int) -> Series:
    return {
        f"redis_keyspace_hits_total{CACHE}": f"0+{per_minute}x60",
        f"redis_keyspace_misses_total{CACHE}": f"0+{misses}x60",
    }


def of_primaries(first: str, second: str) -> Series:
    name = (
        'redis_sentinel_master_status{master_name="state",master_status="ok",master_address="%s"}'
    )
    if first == second:
        return {name % first: "1x60"}
    return {name % first: "1x35 _x25", name % second: "_x35 1x25"}


# By alert: series by the minute on which it fires, and on which it does not, but nearly.
CASES: dict[str, tuple[Series, Series]] = {
    "RedisDown": ({f"redis_up{STATE}": "1x35 0x25"}, {f"redis_up{STATE}": "1x35 0 1x24"}),
    "RedisExporterDown": ({'up{job="redis"}': "0x60"}, {'up{job="other"}': "0x60"}),
    "RedisUnwatched": (
        {WATCHED: "1x30 _x30", 'up{job="exporter"}': "1x60"},
        {WATCHED: "0 _x30 1x30", 'up{job="exporter"}': "1x60"},
    ),
    "RedisRestarted": (
        {f"redis_uptime_in_seconds{STATE}": "0+60x35 0+60x25"},
        {f"redis_uptime_in_seconds{STATE}": "0+60x60"},
    ),
    "RedisMemoryHigh": (
        {f"redis_memory_used_bytes{STATE}": "81x60", f"redis_memory_max_bytes{STATE}": "100x60"},
        {f"redis_memory_used_bytes{CACHE}": "99x60", f"redis_memory_max_bytes{CACHE}": "100x60"},
    ),
    "RedisMemoryUnlimited": (
        {f"redis_memory_max_bytes{STATE}": "0x60"},
        {f"redis_memory_max_bytes{SENTINEL}": "0x60"},
    ),
    "RedisStateEvicted": (
        {f"redis_evicted_keys_total{STATE}": "0x37 1x23"},
        {f"redis_evicted_keys_total{CACHE}": "0+60x60"},
    ),
    "RedisCacheEvictsMuch": (
        {f"redis_evicted_keys_total{CACHE}": "0+6060x60"},
        {f"redis_evicted_keys_total{CACHE}": "0+5940x60"},
    ),
    "RedisHitRatioLow": (hits(500, 600), hits(200, 210)),
    "RedisFragmented": (
        {
            f"redis_mem_fragmentation_ratio{STATE}": "3x60",
            f"redis_memory_used_bytes{STATE}": "2e8x60",
        },
        {
            f"redis_mem_fragmentation_ratio{STATE}": "9x60",
            f"redis_memory_used_bytes{STATE}": "1e6x60",
        },
    ),
    "RedisClientsMany": (
        {f"redis_connected_clients{STATE}": "8001x60"},
        {f"redis_connected_clients{STATE}": "8000x60"},
    ),
    "RedisConnectionsRejected": (
        {f"redis_rejected_connections_total{STATE}": "0x37 2x23"},
        {f"redis_rejected_connections_total{STATE}": "2x60"},
    ),
    "RedisSlowCommands": (
        {f"redis_slowlog_last_id{STATE}": "0+3x60"},
        {f"redis_slowlog_last_id{STATE}": "0+1x60"},
    ),
    "RedisSnapshotFailed": (
        {f"redis_rdb_last_bgsave_status{STATE}": "0x60"},
        {f"redis_rdb_last_bgsave_status{STATE}": "1x60"},
    ),
    "RedisLogWriteFailed": (
        {f"redis_aof_last_write_status{STATE}": "0x60"},
        {f"redis_aof_last_write_status{STATE}": "1x60"},
    ),
    "RedisLogRewriteFailed": (
        {f"redis_aof_last_bgrewrite_status{STATE}": "0x60"},
        {f"redis_aof_last_bgrewrite_status{STATE}": "1x60"},
    ),
    "RedisLogOff": (
        {f"redis_aof_enabled{STATE}": "0x60"},
        {f"redis_aof_enabled{CACHE}": "0x60"},
    ),
    "RedisReplicasMissing": (replicas(1, "replicated"), replicas(2, "replicated")),
    "RedisReplicaLinkDown": (
        {f"redis_master_link_up{STATE}": "0x60"},
        {f"redis_master_link_up{STATE}": "1x60"},
    ),
    "RedisPrimariesNotOne": (
        primaries("master", "master", "slave"),
        primaries("master", "slave", "slave"),
    ),
    "SentinelQuorumLost": (
        {f"redis_sentinel_master_ckquorum_status{SENTINEL}": "0x60"},
        {f"redis_sentinel_master_ckquorum_status{SENTINEL}": "1x60"},
    ),
    "SentinelsMissing": (
        {f"redis_sentinel_master_ok_sentinels{SENTINEL}": "2x60"},
        {f"redis_sentinel_master_ok_sentinels{SENTINEL}": "3x60"},
    ),
    "RedisFailover": (of_primaries("a", "b"), of_primaries("a", "a")),
    "RedisClusterBroken": (
        {'redis_cluster_state{cluster="yes"}': "0x60"},
        {'redis_cluster_state{cluster="yes"}': "1x60"},
    ),
    "RedisClusterSlotsFailing": (
        {'redis_cluster_slots_fail{cluster="yes"}': "5461x60"},
        {'redis_cluster_slots_fail{cluster="yes"}': "0x60"},
    ),
    "RedisClusterReplicaMissing": (
        replicas(0, "cluster"),
        replicas(1, "cluster") | replicas(0, "cluster", "slave"),
    ),
}


def promtool(*arguments: Any) -> None:
    ran = subprocess.run(
        [need("promtool"), *arguments], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_rules_are_sound() -> None:
    promtool("check", "rules", FOLDER / "alerts.yml")


def test_the_configuration_is_sound(tmp_path: Path) -> None:
    for file in ("prometheus.yml", "alerts.yml"):
        (tmp_path / file).write_text((FOLDER / file).read_text("utf-8"))
    for targets in (FOLDER / "targets").iterdir():
        (tmp_path / "targets.yml").write_text(targets.read_text("utf-8"))
        promtool("check", "config", tmp_path / "prometheus.yml")


def test_each_alert_has_a_case_and_says_what_to_know() -> None:
    assert list(CASES) == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


@pytest.mark.parametrize("fires", [True, False], ids=["fires", "is quiet"])
def test_each_alert(fires: bool, tmp_path: Path) -> None:
    tests = []
    for alert, (firing, quiet) in CASES.items():
        series = {WATCHED: "1x60"} | (firing if fires else quiet)
        name = f'{{alertname="{alert}"}}'
        tests.append(
            {
                "name": alert,
                "interval": "1m",
                "input_series": [{"series": s, "values": v} for s, v in series.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"}) > bool 0',
                        "eval_time": f"{MINUTE}m",
                        "exp_samples": [{"labels": name, "value": 1}] if fires else [],
                    }
                ],
            }
        )
    file = tmp_path / "alerts_test.yml"
    rules = [str(FOLDER / "alerts.yml")]
    file.write_text(
        yaml.safe_dump({"rule_files": rules, "evaluation_interval": "1m", "tests": tests})
    )
    promtool("test", "rules", file)


@pytest.mark.parametrize(
    ("targets", "profile"), [("single", None), ("ha", "ha"), ("cluster", "cluster")]
)
def test_what_is_watched_is_what_a_profile_starts(targets: str, profile: str | None) -> None:
    groups = yaml.safe_load((FOLDER / f"targets/{targets}.yml").read_text("utf-8"))
    watched = {}
    for group in groups:
        for target in group["targets"]:
            scheme, _, address = target.partition("://")
            watched[address.split(":")[0]] = (scheme, group["labels"]["tier"])
    assert set(watched) == of_profile(profile) & SERVERS
    for name, (scheme, tier) in watched.items():
        assert tier in SERVICES[name]["command"]
        encrypted = SERVICES[name].get("environment", {}).get("TLS") == "yes"
        assert scheme == ("rediss" if encrypted else "redis")
