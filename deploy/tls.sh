#!/bin/sh
# Makes what is missing of: a certificate authority, and certificates of the servers and of clients.
#
#   tls.sh FOLDER NAME...    names and IP addresses by which servers are reached
#   tls.sh FOLDER            renews the certificates of servers and clients: of the same keys, for
#                            the same names
#
# ca.crt is for everybody, server.* for the servers, client.* for clients where TLS=mutual. Keep
# ca.key away from all of them. Certificates are valid for DAYS (825), the authority for ten years:
# remove ca.crt, and it is made anew of the same key, so that what it has signed stays valid.
set -eu
umask 077
folder=$1
shift
days=${DAYS:-825}
mkdir -p "$folder"

renewed=
if [ $# = 0 ]; then
    [ -s "$folder/server.crt" ] || {
        echo "There is no $folder/server.crt to renew: say the names that servers are reached by." >&2
        exit 1
    }
    renewed=yes
fi

key() { [ -s "$1" ] || openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

need_authority() { # what for
    [ -s "$folder/ca.key" ] || {
        echo "$1, and $folder/ca.key is not there: bring it back for that." >&2
        exit 1
    }
}

# Others read a certificate, and never half of one.
published() {
    chmod 644 "$1.new"
    mv "$1.new" "$1"
}

signed() { # NAME EXTENSION...
    name=$1
    shift
    [ -n "$renewed" ] || [ ! -s "$folder/$name.crt" ] || return 0
    need_authority "$name.crt is to be signed"
    key "$folder/$name.key"
    printf '%s\n' "basicConstraints=critical,CA:false" "keyUsage=critical,digitalSignature" \
        "subjectKeyIdentifier=hash" "authorityKeyIdentifier=keyid" "$@" |
        {
            openssl req -new -key "$folder/$name.key" -subj "/O=nexus-redis/CN=$name" |
                openssl x509 -req -days "$days" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" \
                    -set_serial "0x$(openssl rand -hex 16)" -extfile /dev/fd/3 -out "$folder/$name.crt.new"
        } 3<&0
    published "$folder/$name.crt"
}

authority() {
    # Where there is a certificate, its key may be kept elsewhere; another one would not fit.
    [ ! -s "$folder/ca.crt" ] || return 0
    [ ! -s "$folder/server.crt" ] || need_authority "ca.crt is to be made anew"
    key "$folder/ca.key"
    # All that Python verifies from 3.13 on, whatever this machine's openssl.cnf says.
    openssl req -x509 -new -key "$folder/ca.key" -days 3650 -config /dev/fd/3 \
        -extensions authority -out "$folder/ca.crt.new" 3<<'CONFIG'
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
    published "$folder/ca.crt"
}

# As an extension writes them, separated by commas.
names() {
    if [ -n "$renewed" ]; then
        openssl x509 -in "$folder/server.crt" -noout -text |
            sed -n '/Subject Alternative Name/{n;s/IP Address:/IP:/g;s/ //g;p;}'
    else
        for name in "$@"; do
            case "$name" in
            *:*) echo "IP:$name" ;;
            *[!0-9.]*) echo "DNS:$name" ;;
            *) echo "IP:$name" ;;
            esac
        done | paste -sd , -
    fi
}

authority
alternatives=$(names "$@")
# A server is a client of other servers.
signed server "extendedKeyUsage=serverAuth,clientAuth" "subjectAltName=$alternatives"
signed client "extendedKeyUsage=clientAuth"
