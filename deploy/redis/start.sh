#!/bin/sh
# Starts a server from the files beside this one.
#
#   start.sh ROLE [PART]     state or cache, and what is added to it: replicated, cluster
#   start.sh sentinel
#
# From the environment:
#   SECRETS  folder that secrets.sh has filled (default /run/secrets)
#   DATA     folder to write to (default /data)
#   PORT     (default 6379; of a Sentinel 26379)
#   NAME     how others reach this server; needed with Sentinels and in a Cluster
#   PRIMARY  "name port" of whom to follow, or to watch, at the very first start
#   BIND     addresses to listen at (default all: a container has its own)
#   TLS      "yes": encrypted connections only, between servers, too; "mutual": clients must show
#            a certificate
set -eu
umask 077
here=$(dirname "$0")
secrets=${SECRETS:-/run/secrets}
data=${DATA:-/data}
me="${NAME:-} ${PORT:-6379}"

tls() {
    [ -n "${TLS:-}" ] || return 0
    [ "$TLS" = mutual ] && clients=yes || clients=no
    cat <<END
port 0
tls-port $1
tls-cert-file $secrets/server.crt
tls-key-file $secrets/server.key
tls-ca-cert-file $secrets/ca.crt
tls-auth-clients $clients
tls-replication yes
END
}

# Redis 7.0 knows no CLIENT SETINFO, and no user of a file that names it.
users() {
    case $(redis-server --version) in
    *v=7.0.*) sed 's/ +client|setinfo//' "$secrets/$1" ;;
    *) cat "$secrets/$1" ;;
    esac >"$data/users.acl"
}

# A server writes to its file whom it follows, when the Sentinels tell it to. That alone is kept over
# a restart: a new primary must not follow the old one. An old one that was not told comes back as a
# primary, and takes no writes, for want of replicas, until the Sentinels tell it.
follows() {
    if [ -f "$data/redis.conf" ]; then
        grep '^replicaof ' "$data/redis.conf" || true
    elif [ -n "${PRIMARY:-}" ] && [ "$PRIMARY" != "$me" ]; then
        echo "replicaof $PRIMARY"
    fi
}

server() {
    replicaof=$(follows)
    users users.acl
    {
        cat "$here/common.conf"
        for part in "$@"; do cat "$here/$part.conf"; done
        echo "bind ${BIND:-* -::*}"
        echo "port ${PORT:-6379}"
        tls "${PORT:-6379}"
        echo "dir \"$data\""
        echo "aclfile \"$data/users.acl\""
        echo "masteruser replication"
        echo "masterauth $(cat "$secrets/replication")"
        echo "$replicaof"
        case "$*" in
        *cluster*)
            echo "cluster-announce-hostname $NAME"
            [ -z "${TLS:-}" ] || echo "tls-cluster yes"
            ;;
        *) [ -z "${NAME:-}" ] || echo "replica-announce-ip $NAME" ;;
        esac
    } >"$data/redis.conf.new"
    mv "$data/redis.conf.new" "$data/redis.conf"
    exec redis-server "$data/redis.conf"
}

# A Sentinel writes what it learns to its file: who it is, whom it watches by now, who else is there.
# That is kept over a restart; passwords and settings are as they are now.
learnt() {
    [ ! -f "$data/sentinel.conf" ] ||
        grep -E '^sentinel (myid|monitor|[a-z]+-epoch|known-[a-z]+) ' "$data/sentinel.conf" || true
}

sentinel() {
    password=$(cat "$secrets/sentinel")
    known=$(learnt)
    users sentinel_users.acl
    {
        echo "bind ${BIND:-* -::*}"
        echo "port ${PORT:-26379}"
        tls "${PORT:-26379}"
        echo "dir \"$data\""
        echo "aclfile \"$data/users.acl\""
        case "$known" in
        *"sentinel monitor "*) grep -v '^sentinel monitor ' "$here/sentinel.conf" ;;
        *) sed "s/PRIMARY/$PRIMARY/" "$here/sentinel.conf" ;;
        esac
        echo "sentinel auth-pass state $password"
        echo "sentinel sentinel-pass $password"
        echo "sentinel announce-ip $NAME"
        echo "$known"
    } >"$data/sentinel.conf.new"
    mv "$data/sentinel.conf.new" "$data/sentinel.conf"
    exec redis-server "$data/sentinel.conf" --sentinel
}

case "$1" in
sentinel) sentinel ;;
*) server "$@" ;;
esac
