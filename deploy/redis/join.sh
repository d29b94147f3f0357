#!/bin/sh
# Makes a Cluster of servers that have none yet: half primaries, half replicas of them. Those that
# have slots already, of a Cluster before or of a backup, are introduced to each other.
#
#   join.sh NAME[:PORT]...   environment: SECRETS, TLS; see start.sh
set -eu
secrets=${SECRETS:-/run/secrets}
REDISCLI_AUTH=$(cat "$secrets/admin")
export REDISCLI_AUTH

cli() {
    [ -z "${TLS:-}" ] || set -- --tls --cacert "$secrets/ca.crt" "$@"
    [ "${TLS:-}" != mutual ] || set -- --cert "$secrets/server.crt" --key "$secrets/server.key" "$@"
    redis-cli -e --user admin "$@"
}

port_of() { case "$1" in *:*) echo "${1#*:}" ;; *) echo 6379 ;; esac; }

ask_first() { cli -h "${first%:*}" -p "$(port_of "$first")" "$@"; }

first=$1
nodes=
for name in "$@"; do
    # Servers are introduced to each other by address.
    address=$(getent hosts "${name%:*}" | cut -d ' ' -f 1)
    nodes="$nodes $address:$(port_of "$name")"
done
# The list is words.
# shellcheck disable=SC2086
set -- $nodes

info=$(ask_first cluster info)
case "$info" in
*cluster_slots_assigned:0*) cli --cluster create "$@" --cluster-replicas 1 --cluster-yes ;;
*)
    # A container that was made anew has another address, and where all were, nobody finds anybody.
    echo "It is one already: its nodes are told where the others are."
    shift
    for node in "$@"; do ask_first cluster meet "${node%:*}" "${node##*:}"; done
    ;;
esac
