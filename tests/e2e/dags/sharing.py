"""Who shares a lock: DAGs, permits, kinds of runs, tasks."""

from datetime import UTC, datetime

from airflow.sdk import DAG, task
from locked_work import exclusive, work

ONE_BY_ONE = {
    "start_date": datetime(2020, 1, 1, tzinfo=UTC),
    "catchup": False,
    "max_active_runs": 1,
    "is_paused_upon_creation": True,
}

exclusive("north", "warehouse")
exclusive("south", "warehouse")
exclusive("crowded", permits=2)
exclusive("yearly", schedule="@yearly", of_dag=ONE_BY_ONE)

with DAG("yearly_without_lock", schedule="@yearly", **ONE_BY_ONE):
    work()

with DAG("parallel", schedule=None):

    @task.locked(lock="table", poll_interval=1)
    def load(part: int, lock=None) -> None:
        work.function(lock.token)

    load.expand(part=[1, 2])
