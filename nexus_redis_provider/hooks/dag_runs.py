"""Which deployment this is, and whether a DAG run of it that holds a lock still lives.

Airflow is asked, no lifetime is guessed: tasks and triggers ask through their supervisor, which
needs neither a database nor further rights.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from airflow.sdk import Variable, conf
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from asgiref.sync import sync_to_async

if TYPE_CHECKING:
    from nexus_redis_provider.core.locks.states import Holder

DEPLOYMENT_VARIABLE = "nexus_redis_deployment_id"
_LIVING = ["queued", "running"]
_SETTLING_S = 1.0


def deployment_id() -> str:
    """The name of this Airflow deployment, equal in all its components and in no other one.

    It is what `[nexus_redis] deployment_id` says, else an Airflow variable that is made at the
    first call: the identity of a deployment is that of its metadata database.

    Raises:
        Exception: Airflow cannot say, for whatever reason.
    """
    configured = conf.get("nexus_redis", "deployment_id", fallback="")
    return configured or Variable.get(DEPLOYMENT_VARIABLE, default=None) or _new_deployment_id()


def _new_deployment_id() -> str:
    # Getting a variable hides an API server that fails, listing does not. A second name would make
    # every holder a stranger.
    if DEPLOYMENT_VARIABLE in Variable.keys(prefix=DEPLOYMENT_VARIABLE):
        return str(Variable.get(DEPLOYMENT_VARIABLE))
    Variable.set(
        DEPLOYMENT_VARIABLE,
        f"airflow-{uuid.uuid4().hex[:12]}",
        description="Names this deployment in locks. Change it only while no lock is held.",
    )
    # Others may be doing the same at this moment: the last one's stays, and all go by it.
    time.sleep(_SETTLING_S)
    return str(Variable.get(DEPLOYMENT_VARIABLE))


def is_dag_run_alive(holder: Holder) -> bool:
    """Whether the DAG run that holds a lock is queued or running; False once it is over or deleted.

    Args:
        holder: of this deployment.

    Raises:
        Exception: Airflow cannot say, for whatever reason; then the holder must count as alive.
    """
    count = RuntimeTaskInstance.get_dr_count(
        dag_id=str(holder.description["dag_id"]),
        run_ids=[str(holder.description["run_id"])],
        states=_LIVING,
    )
    return count > 0


async def ais_dag_run_alive(holder: Holder) -> bool:
    """The twin of `is_dag_run_alive` for triggers."""
    return await sync_to_async(is_dag_run_alive)(holder)
