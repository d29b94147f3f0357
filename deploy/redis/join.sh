#!/bin/sh
# Makes a Cluster of the nodes that are named, and mends it. It takes one step, the first that is due,
# and succeeds when none is: it is to be run again and again. Names must be those of all nodes.
#
#   create      no node has slots: half become primaries, half replicas of them
#   take over   where a primary came back empty, and its replica has not copied that yet
#   introduce   nodes that have other addresses than before, are empty, or come from a backup
#   replicate   an empty node follows the primary that has fewest replicas
#   forget      ids that failed, and that none of the nodes has any more
#
#   join.sh NAME[:PORT]...   environment: SECRETS, TLS; see start.sh
set -eu
secrets=${SECRETS:-/run/secrets}
REDISCLI_AUTH=$(cat "$secrets/admin")
export REDISCLI_AUTH
patience=5

cli() {
    [ -z "${TLS:-}" ] || set -- --tls --cacert "$secrets/ca.crt" "$@"
    [ "${TLS:-}" != mutual ] || set -- --cert "$secrets/server.crt" --key "$secrets/server.key" "$@"
    # One that is frozen would hold up the others.
    timeout "$patience" redis-cli -e --user admin "$@"
}

ask() {
    asked=$1
    shift
    cli -h "${asked%:*}" -p "$(port_of "$asked")" "$@"
}

port_of() { case "$1" in *:*) echo "${1#*:}" ;; *) echo 6379 ;; esac; }

# Nodes know each other by address.
address_of() { echo "$(getent hosts "${1%:*}" | cut -d ' ' -f 1):$(port_of "$1")"; }

later() {
    echo "$*" >&2
    exit 1
}

# By awk, lines of CLUSTER NODES after the name of who says so: NAME ID ADDRESS FLAGS PRIMARY PING PONG
# EPOCH LINK SLOTS... An id is nobody's if none of the nodes has it.
look() {
    echo "$seen" | awk -v ids="$ids" '
        function own() { return $4 ~ /myself/ }
        function primary() { return $4 ~ /master/ }
        function failed() { return $4 ~ /(fail|noaddr)(,|$)/ }
        function nobodys(id) { return !index(ids, id) }
        '"$1"
}

seen= silent= ids=
for name in "$@"; do
    if said=$(ask "$name" cluster nodes); then
        seen="$seen
$(echo "$said" | sed "s/^/$name /")"
    else silent="$silent $name"; fi
done
ids=$(look 'own() { print $2 }')

# Nobody knows of a slot.
if [ -z "$(look 'NF > 9')" ]; then
    [ -z "$silent" ] || later "There is no Cluster yet, and these nodes do not answer:$silent"
    addresses=$(for name in "$@"; do address_of "$name"; done)
    patience=60
    # It refuses nodes that have keys, or know others. The list is words.
    # shellcheck disable=SC2086
    cli --cluster create $addresses --cluster-replicas 1 --cluster-yes
    later "The Cluster is made."
fi

# What nobody says of itself that it serves; a third node may not have heard of that yet.
unserved=$(look '
    own() {
        for (i = 10; i <= NF; i++) if ($i !~ /^\[/) {
            split($i "-" $i, ends, "-")
            for (slot = ends[1] + 0; slot <= ends[2] + 0; slot++) served[slot]
        }
    }
    END {
        for (slot = 0; slot <= 16384; slot++) {
            gap = slot < 16384 && !(slot in served)
            if (gap && from == "") from = slot
            if (!gap && from != "") { printf " %d-%d", from, slot - 1; from = "" }
        }
    }')

# Others do not elect it by themselves: where another id answers at an address, they leave the id that
# was there undecided (valkey-io/valkey#1191). One without keys has nothing to save, and may have
# copied them from the primary that has none.
heir= most=0
if [ -z "$silent" ] && [ -n "$unserved" ]; then
    for name in $(look '
        failed() || $9 == "disconnected" { gone[$1, $2] }
        own() && !primary() && nobodys($5) { primary_of[$1] = $5 }
        END { for (name in primary_of) if ((name, primary_of[name]) in gone) print name }'); do
        keys=$(ask "$name" dbsize)
        [ "${keys:-0}" -le "$most" ] || heir=$name most=$keys
    done
fi
if [ -n "$heir" ]; then
    # Those who would vote may not have been introduced yet.
    ask "$heir" cluster failover takeover >/dev/null
    later "$heir takes over; no node serves slots:$unserved"
fi

met=
answered=$(look 'own() { print $1 }')
for pair in $(look 'own() { print $1 "=" $2 }'); do
    name=${pair%=*} address=$(address_of "${pair%=*}")
    for other in $answered; do
        case "$other $seen" in
        "$name "* | *"
$other ${pair#*=} $address@"*) ;;
        *)
            ask "$other" cluster meet "${address%:*}" "${address##*:}" >/dev/null
            met="$met $other+$name"
            ;;
        esac
    done
done
[ -z "$met" ] || later "Introduced:$met"
[ -z "$silent" ] || later "These nodes do not answer:$silent"

if [ -n "$unserved" ]; then
    later "No node serves slots:$unserved. Unless a node comes back that has their data, it is lost:" \
        "restore a backup (docs/backup.md), or if none was stored yet, remove the volumes of all nodes."
fi

empty=$(look 'own() && primary() && NF == 9 { print $1; exit }')
if [ -n "$empty" ]; then
    poorest=$(look '
        own() && primary() && NF > 9 { serves[$2] }
        own() && !primary() { replicas[$5]++ }
        END { for (id in serves) print replicas[id] + 0, id }' | sort -n | head -n 1)
    ask "$empty" cluster replicate "${poorest#* }" >/dev/null ||
        later "$empty has no slots, and cannot become a replica."
    later "$empty becomes a replica."
fi

for pair in $(look 'failed() && NF == 9 && nobodys($2) { print $1 "=" $2 }'); do
    ask "${pair%=*}" cluster forget "${pair#*=}" >/dev/null
done
ghosts=$(look 'nobodys($2) { print $2 }' | sort -u)
# shellcheck disable=SC2086
[ -z "$ghosts" ] || later "Ids of none of the nodes, forgotten once they count as failed:" $ghosts

# Who hears of its primary's other address from a third node goes on asking at the old one.
follow() {
    name=$1 primary=$2
    # Its words: slave, host, port, state.
    # shellcheck disable=SC2046
    set -- $(ask "$name" role)
    [ "$1" = slave ] || later "$name has just become a primary."
    case "$seen" in
    *"$name $primary $2:$3@"*) ;;
    *) ask "$name" cluster replicate "$primary" >/dev/null ;;
    esac
    [ "$4" = connected ] || later "$name does not follow its primary yet."
}
for pair in $(look 'own() && !primary() { print $1 "=" $5 }'); do
    follow "${pair%=*}" "${pair#*=}"
done

for name in "$@"; do
    case "$(ask "$name" cluster info)" in
    *cluster_state:ok*) ;;
    *) later "$name does not see the Cluster up." ;;
    esac
done
echo "The Cluster is complete."
