#!/bin/sh
# Makes what is missing of: a certificate authority, and certificates of the servers and of clients.
#
#   tls.sh FOLDER NAME...    names and IP addresses by which servers are reached
#
# ca.crt is for everybody, server.* for the servers, client.* for clients where TLS=mutual. Keep
# ca.key away from all of them. To renew, remove the .crt: certificates are valid for DAYS (825).
set -eu
umask 077
folder=$1
shift
days=${DAYS:-825}
mkdir -p "$folder"

key() { [ -s "$1" ] || openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

signed() { # NAME EXTENSION...
    name=$1
    shift
    [ -s "$folder/$name.crt" ] && return
    [ -s "$folder/ca.key" ] || {
        echo "$name.crt is to be signed, and $folder/ca.key is not there: bring it back for that." >&2
        exit 1
    }
    key "$folder/$name.key"
    printf '%s\n' "basicConstraints=critical,CA:false" "keyUsage=critical,digitalSignature" \
        "subjectKeyIdentifier=hash" "authorityKeyIdentifier=keyid" "$@" |
        {
            openssl req -new -key "$folder/$name.key" -subj "/O=nexus-redis/CN=$name" |
                openssl x509 -req -days "$days" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" \
                    -set_serial "0x$(openssl rand -hex 16)" -extfile /dev/fd/3 -out "$folder/$name.crt"
        } 3<&0
}

# Where there is a certificate, its key may be kept elsewhere; another one would not fit.
[ -s "$folder/ca.crt" ] || key "$folder/ca.key"
# All that Python verifies from 3.13 on, whatever this machine's openssl.cnf says.
[ -s "$folder/ca.crt" ] || openssl req -x509 -new -key "$folder/ca.key" -days 3650 \
    -config /dev/fd/3 -extensions authority -out "$folder/ca.crt" 3<<'CONFIG'
[req]
prompt = no
distinguished_name = name
[name]
O = nexus-redis
CN = nexus-redis CA
[authority]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
CONFIG

alternatives=
for name in "$@"; do
    case "$name" in
    *[!0-9.]*) kind=DNS ;;
    *) kind=IP ;;
    esac
    alternatives="$alternatives,$kind:$name"
done
# A server is a client of other servers.
signed server "extendedKeyUsage=serverAuth,clientAuth" "subjectAltName=${alternatives#,}"
signed client "extendedKeyUsage=clientAuth"
