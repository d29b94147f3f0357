"""A DAG per way to wait for a warm cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, get_current_context, task

from nexus_redis_provider.sensors.cache_warm import CacheWarmSensor

NAMESPACE = "{{ dag_run.conf['namespace'] }}"
KEYS = [f"{NAMESPACE}:a", f"{NAMESPACE}:b"]
MODES: dict[str, dict[str, Any]] = {
    "poke": {"deferrable": False},
    "reschedule": {"deferrable": False, "mode": "reschedule"},
    "deferrable": {"deferrable": True},
}
TARGETS: dict[str, dict[str, Any]] = {
    "keys": {"keys": KEYS, "timeout": 20},
    "pattern": {"pattern": f"{NAMESPACE}:*", "min_rows": 2, "timeout": 20},
    "briefly": {"keys": KEYS, "timeout": 0.3},
    "softly": {"keys": KEYS, "timeout": 0.3, "soft_fail": True},
    "dataset": {
        "dataset": "d",
        "namespace": NAMESPACE,
        "newer_than": "{{ dag_run.conf.get('newer_than') }}",
        "timeout": 0.3,
    },
}


def load(missing: list[str]) -> dict[str, Any]:
    conf = get_current_context()["dag_run"].conf
    with Path(conf["trail"]).open("a") as trail:
        trail.write(json.dumps({"missing": missing}) + "\n")
    return {key: {"filled": True} for key in missing}


@task
def report(found: dict[str, Any]) -> None:
    conf = get_current_context()["dag_run"].conf
    with Path(conf["trail"]).open("a") as trail:
        trail.write(json.dumps({"found": found}) + "\n")


for mode, how in MODES.items():
    for target, what in TARGETS.items():
        with DAG(f"warm_{target}_{mode}", schedule=None):
            report(CacheWarmSensor(task_id="warm", poke_interval=0.05, **how, **what).output)
    with DAG(f"warm_filled_{mode}", schedule=None):
        sensor = CacheWarmSensor(
            task_id="warm", keys=KEYS, fill=load, fill_ttl=60, poke_interval=0.05, **how
        )
        report(sensor.output)
