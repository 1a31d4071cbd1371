#!/bin/sh
# Polls memsensor on each web server, writes the servers of an nginx upstream with their weights, and reloads
# nginx after a change. Runs on the load balancer, as a service:
#
#     nginx-upstream.sh /etc/nginx/memsensor/web.conf 192.0.2.11:8080 192.0.2.12:8080
#
# A server is HOST:PORT, or HOST:PORT@URL if its memsensor is not at http://HOST:9817. Environment variables:
# MEMSENSOR_SCOPE selects a named scope, RELOAD is the command to run after a change (default:
# nginx -t -q && nginx -s reload), EVERY is the number of seconds between polls (default: 1).
#
# The script does not need root. Run it as a user who can only write the directory of the file and reload nginx,
# for example with RELOAD="sudo -n systemctl reload nginx".
#
# Without memsensor:
#  - on one host, or a host that sends no valid answer: it has the default weight, and nginx's max_fails decides.
#  - on all hosts, or on this load balancer: all servers have the same weight.
#  - all hosts overloaded: all servers except those that an operator drained. All drained: all servers.
# With memsensor stale on a host (it responds, but its last sample is too old) the host counts as overloaded. Flooded
# by one address, it still answers this script, unless the script runs at that address.
# The file never has zero usable servers.
set -u
# A reader of the log that ends must not end the script. In the C locale [0-9] matches ASCII digits only.
trap '' PIPE
LC_ALL=C
export LC_ALL
[ $# -ge 2 ] || { echo "usage: $0 FILE HOST:PORT[@URL]..." >&2; exit 2; }
file=$1
shift
# Hosts that are polled at the same time: a frozen host takes one second.
parallel=32

# Logs a failure once, until the next success.
failure=
fail() {
    [ "$failure" = "$*" ] || echo "$0: $*" >&2
    failure=$*
}

# Prints the weight in percent that memsensor on a server reports, or nothing.
weight() {
    url=${1#*@}
    [ "$url" != "$1" ] || url=http://${1%:*}:9817
    memsensor check --weight --fail-on "$2" --url "$url" --scope "${MEMSENSOR_SCOPE:-}" --timeout 1s 2>/dev/null
}

# Polls all servers; prints " N:WEIGHT " for each server N. The shell evaluates WEIGHT in arithmetic, where bash
# runs commands in an array index: only an integer from 0 to 100 passes. Anything else counts as no answer.
poll() {
    fail_on=$1
    shift
    n=0
    for server; do
        n=$((n + 1))
        (
            percent=$(weight "$server" "$fail_on") || :
            case $percent in
                [0-9] | [1-9][0-9] | 100) echo " $n:$percent " ;;
            esac
        ) &
        [ $((n % parallel)) != 0 ] || wait
    done
    wait
}

# The weight of server $1 in the answers $2, empty without an answer.
answer() {
    percent=${2##* "$1":}
    [ "$percent" != "$2" ] || percent=
    percent=${percent%% *}
}

# Prints the servers with their weights; fails if none of them takes traffic.
servers() {
    answers=$(poll overloaded "$@")
    usable=0
    n=0
    for server; do
        n=$((n + 1))
        answer $n "$answers"
        # Steps of 25 %, because each change is a reload.
        case $percent in
            0) echo "server ${server%@*} down;"; continue ;;
            '') steps=4 ;;
            *) steps=$(((percent + 24) / 25)) ;;
        esac
        usable=1
        echo "server ${server%@*} weight=$steps max_fails=2 fail_timeout=5s;"
    done
    [ $usable = 1 ]
}

# A memory spike can hit every host at once, and a slow response is better than none: uses all servers except
# those that an operator drained. Fails if all are drained.
last_resort() {
    answers=$(poll drained "$@")
    usable=0
    n=0
    for server; do
        n=$((n + 1))
        answer $n "$answers"
        if [ "$percent" = 0 ]; then
            echo "server ${server%@*} down;"
        else
            usable=1
            equal_weight "$server"
        fi
    done
    [ $usable = 1 ]
}

# Prints a server with the default weight.
equal_weight() {
    echo "server ${1%@*} max_fails=2 fail_timeout=5s;"
}

all() {
    for server; do equal_weight "$server"; done
}

# Writes the file. A failed write, for example on a full disk, leaves the old file, and the next round tries again.
write() {
    { printf '%s\n' "$1" >"$file.new" && mv -f "$file.new" "$file"; } 2>/dev/null
}

reload() { sh -c "${RELOAD:-nginx -t -q && nginx -s reload}"; }

command -v memsensor >/dev/null || echo "$0: no memsensor here: all servers get the same weight" >&2
reloaded=yes
while :; do
    now=$(servers "$@") || now=$(last_resort "$@") || now=$(all "$@")
    if [ "$now" != "$(cat "$file" 2>/dev/null)" ]; then
        if write "$now"; then reloaded=no; else fail "cannot write $file"; fi
    fi
    # A failed reload is tried again in the next round.
    if [ $reloaded = no ]; then
        if reload; then reloaded=yes failure=; else fail "reload failed"; fi
    fi
    sleep "${EVERY:-1}"
done
