#!/bin/sh
# Polls memsensor on each web server, writes the servers of an nginx upstream with their weights, and reloads
# nginx after a change. Runs on the load balancer, as a service:
#
#     nginx-upstream.sh /etc/nginx/memsensor-web.conf 192.0.2.11:8080 192.0.2.12:8080
#
# A server is HOST:PORT, or HOST:PORT@URL if its memsensor is not at http://HOST:9817. Environment variables:
# MEMSENSOR_SCOPE selects a named scope, RELOAD is the command to run after a change (default:
# nginx -t -q && nginx -s reload), EVERY is the number of seconds between polls (default: 1).
set -eu
[ $# -ge 2 ] || { echo "usage: $0 FILE HOST:PORT[@URL]..." >&2; exit 2; }
file=$1
shift

check() {
    url=${1#*@}
    [ "$url" != "$1" ] || url=http://${1%:*}:9817
    shift
    memsensor check --url "$url" --scope "${MEMSENSOR_SCOPE:-}" --timeout 1s "$@"
}

# Prints the weight in percent that memsensor reports, or nothing if it does not respond: then only
# nginx's own max_fails decides about the server.
weight() {
    output=$(check "$1") || true
    output=${output##*weight=}
    case $output in [0-9]*%*) echo "${output%%%*}" ;; esac
}

# Prints a server with the default weight.
equal_weight() {
    echo "server ${1%@*} max_fails=2 fail_timeout=5s;"
}

# Prints the servers with their weights; fails if none of them takes traffic.
servers() {
    usable=0
    for server; do
        percent=$(weight "$server")
        case $percent in
            '') percent=100 ;;
            0) echo "server ${server%@*} down;"; continue ;;
        esac
        usable=1
        # Steps of 25 %, because each change is a reload.
        echo "server ${server%@*} weight=$(((percent + 24) / 25)) max_fails=2 fail_timeout=5s;"
    done
    [ $usable = 1 ] || return 1
}

# A memory spike can hit every host at once, and a slow response is better than none: uses all servers except
# those that an operator drained. Fails if all are drained.
last_resort() {
    usable=0
    for server; do
        if check "$server" --fail-on drained >/dev/null; then
            usable=1
            equal_weight "$server"
        else
            echo "server ${server%@*} down;"
        fi
    done
    [ $usable = 1 ] || return 1
}

all() {
    for server; do equal_weight "$server"; done
}

while :; do
    now=$(servers "$@") || now=$(last_resort "$@") || now=$(all "$@")
    if [ "$now" != "$(cat "$file" 2>/dev/null)" ]; then
        printf '%s\n' "$now" >"$file.new"
        mv "$file.new" "$file"
        sh -c "${RELOAD:-nginx -t -q && nginx -s reload}" || echo "$0: reload failed" >&2
    fi
    sleep "${EVERY:-1}"
done
