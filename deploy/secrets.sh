#!/bin/sh
# Makes what docker-compose.yml needs and no repository may have, where it is missing: a password of
# each role, the servers' files of users, certificates.
#
#   secrets.sh [FOLDER]      default: secrets/ beside docker-compose.yml
#
# Users are written anew each time, so a change of redis/users.acl arrives. A password that is
# removed gets a successor, but not everybody hears of it: docs/deploy.md, "Another password".
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/../secrets}
mkdir -p "$folder"
# The folder keeps others out; the files must be readable to the users of containers.
chmod 700 "$folder"

roles="admin airflow api backup exporter replication sentinel spark"
for name in $roles postgres clickhouse grafana airflow_admin airflow_jwt; do
    [ -s "$folder/$name" ] || openssl rand -hex 24 >"$folder/$name"
done
# What Fernet asks for: 32 bytes, URL-safe.
[ -s "$folder/airflow_fernet" ] || openssl rand -base64 32 | tr '+/' '-_' >"$folder/airflow_fernet"

for users in users.acl sentinel_users.acl; do
    grep '^user ' "$here/redis/$users" | while read -r word role rules; do
        if [ "$role" != default ]; then
            rules="$rules #$(tr -d '\n' <"$folder/$role" | openssl dgst -sha256 -r | cut -c1-64)"
        fi
        echo "$word $role $rules"
    done >"$folder/$users"
done

"$here/tls.sh" "$folder" localhost 127.0.0.1 redis redis-1 redis-2 redis-3 redis-cache \
    sentinel-1 sentinel-2 sentinel-3 node-1 node-2 node-3 node-4 node-5 node-6
chmod 644 "$folder"/*
[ ! -e "$folder/ca.key" ] || chmod 600 "$folder/ca.key"
