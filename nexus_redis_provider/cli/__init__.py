"""The command line: `nexus-redis` by itself, and the same commands as `airflow nexus-redis`."""
