"""What becomes of a run while another one holds the lock."""

from locked_work import exclusive

exclusive("waiting")
exclusive("skipping", on_held="skip")
exclusive("hurried", wait_timeout="{{ dag_run.conf.get('wait_timeout', 600) }}")
exclusive("unfinished")
