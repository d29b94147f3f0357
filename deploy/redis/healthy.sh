#!/bin/sh
# Whether the server of this container answers, with its data loaded. Environment: see start.sh.
secrets=${SECRETS:-/run/secrets}
[ -z "${TLS:-}" ] || set -- --tls --cacert "$secrets/ca.crt" "$@"
[ "${TLS:-}" != mutual ] || set -- --cert "$secrets/server.crt" --key "$secrets/server.key" "$@"
REDISCLI_AUTH=$(cat "$secrets/exporter") redis-cli -h "${NAME:-localhost}" -p "${PORT:-6379}" \
    --user exporter "$@" ping | grep -q PONG
