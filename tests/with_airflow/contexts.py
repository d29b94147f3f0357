"""The little of a task's context that a lock looks at."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def context_of(dag_id: str, run_id: str) -> Any:
    dag_run = SimpleNamespace(dag_id=dag_id, run_id=run_id, run_type="manual")
    instance = SimpleNamespace(task_id="lock", map_index=-1, log_url="http://a/b")
    return {"dag_run": dag_run, "ti": instance}
