"""Locked publishing by a Spark job that outlives its task, as on a cluster of its own."""

import os
import subprocess
from pathlib import Path

from airflow.sdk import DAG, task
from locked_work import signals, this_run

from nexus_redis_provider.operators.dag_lock import dag_lock

JOB = Path(__file__).parents[1] / "spark_jobs" / "held_up_publish.py"
SUBMIT = (
    "spark-submit --master local[1] --conf spark.ui.enabled=false --conf spark.log.level=ERROR "
    # It is to survive a long pause.
    "--conf spark.network.timeout=1h --conf spark.driver.bindAddress=127.0.0.1"
)


@task
def publish(token: int) -> None:
    run = this_run()
    command = [*SUBMIT.split(), str(JOB), run, str(token)]
    with Path(os.environ["E2E_JOB_LOGS"], f"{token}.log").open("wb") as log:
        # A session of its own: who kills the task does not reach it.
        job = subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)
    with signals() as client:
        client.rpush(f"started {run.partition('/')[0]}", f"{run} {job.pid}")
    if job.wait():
        raise RuntimeError(f"the job ended with {job.returncode}")


with DAG("publishing", schedule=None), dag_lock(poll_interval=1) as lock:
    publish(lock.output)
