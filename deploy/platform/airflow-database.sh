#!/bin/sh
# What must be there before Airflow's parts start: its tables, and the password of its user.
set -eu
umask 077
printf '{"admin": "%s"}\n' "$(cat /run/secrets/airflow_admin)" >"$AIRFLOW_HOME/passwords.json"
airflow db migrate
