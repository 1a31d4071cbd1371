#!/bin/sh
# Asks the memsensor of each web server how much traffic it can take, and writes that as the servers of an
# nginx upstream; reloads nginx when it changed. Runs on the balancer, as a service:
#
#     nginx-upstream.sh /etc/nginx/memsensor-web.conf 192.0.2.11:8080 192.0.2.12:8080
#
# A server is HOST:PORT, or HOST:PORT@URL if its memsensor is not at http://HOST:9817; a scope is set by
# MEMSENSOR_SCOPE. RELOAD is what to do after a change (default: nginx -t -q && nginx -s reload), EVERY how
# many seconds to wait between questions (default: 1).
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

# The weight in percent that memsensor says, or nothing if nobody answers: then nginx must find out itself.
weight() {
    said=$(check "$1") || true
    said=${said##*weight=}
    case $said in [0-9]*%*) echo "${said%%%*}" ;; esac
}

equal() {
    echo "server ${1%@*} max_fails=2 fail_timeout=5s;"
}

servers() {
    left=0
    for server; do
        percent=$(weight "$server")
        case $percent in
            '') percent=100 ;;
            0) echo "server ${server%@*} down;"; continue ;;
        esac
        left=1
        # In steps of a quarter: each change is a reload.
        echo "server ${server%@*} weight=$(((percent + 24) / 25)) max_fails=2 fail_timeout=5s;"
    done
    [ $left = 1 ] || return 1
}

# A spike of memory may hit every host at once, and a slow answer is better than none; but nobody is to
# get what an operator has drained, as long as there is another.
last_resort() {
    left=0
    for server; do
        if check "$server" --fail-on maintenance >/dev/null; then
            left=1
            equal "$server"
        else
            echo "server ${server%@*} down;"
        fi
    done
    [ $left = 1 ] || return 1
}

all() {
    for server; do equal "$server"; done
}

while :; do
    now=$(servers "$@") || now=$(last_resort "$@") || now=$(all "$@")
    if [ "$now" != "$(cat "$file" 2>/dev/null)" ]; then
        printf '%s\n' "$now" >"$file.new"
        mv "$file.new" "$file"
        sh -c "${RELOAD:-nginx -t -q && nginx -s reload}" || echo "$0: the reload failed" >&2
    fi
    sleep "${EVERY:-1}"
done
