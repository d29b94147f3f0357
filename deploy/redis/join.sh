#!/bin/sh
# Makes a Cluster of servers that have none yet: half primaries, half replicas of them.
#
#   join.sh NAME[:PORT]...   environment: SECRETS, TLS; see start.sh
set -eu
secrets=${SECRETS:-/run/secrets}
REDISCLI_AUTH=$(cat "$secrets/admin")
export REDISCLI_AUTH

cli() {
    [ -z "${TLS:-}" ] || set -- --tls --cacert "$secrets/ca.crt" "$@"
    redis-cli --user admin "$@"
}

port_of() { case "$1" in *:*) echo "${1#*:}" ;; *) echo 6379 ;; esac; }

if cli -h "${1%:*}" -p "$(port_of "$1")" cluster info | grep -q '^cluster_slots_assigned:16384'; then
    echo "It is one already."
    exit
fi
for name in "$@"; do
    # Servers are introduced to each other by address.
    address=$(getent hosts "${name%:*}" | cut -d ' ' -f 1)
    nodes="${nodes:-} $address:$(port_of "$name")"
done
# The list is words.
# shellcheck disable=SC2086
cli --cluster create $nodes --cluster-replicas 1 --cluster-yes
