"""What befalls runs that hold the lock or wait for it."""

from datetime import timedelta

from locked_work import exclusive


def fail_after(*_: object) -> None:
    raise RuntimeError("told to fail")


exclusive("retried", of_work={"retries": 1, "retry_delay": timedelta(seconds=1)})
exclusive("cleared")
exclusive("marked")
exclusive("marked_while_waiting", claim_timeout=5)
exclusive("deleted")
exclusive("limited", "time limit", of_dag={"dagrun_timeout": timedelta(seconds=45)})
exclusive("after_limited", "time limit")
exclusive("killed")
exclusive("taken_in_vain", "taken", post_execute=fail_after)
exclusive("after_taken_in_vain", "taken")
