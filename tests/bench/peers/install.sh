#!/usr/bin/env bash
# Installs the distribution's packages that the named peers of the comparison need, and says why
# where that fails: STATE/NAME.why. Needs root or sudo when something is missing.
# usage: tests/bench/peers/install.sh STATE NAME...
set -u -o pipefail

state=${1:?}
shift
as_root=()
if [ "$(id -u)" != 0 ]; then
    as_root=(sudo)
    # Without a terminal there is nobody to type a password: fail and say so.
    [ -t 0 ] || as_root=(sudo -n)
fi
log=$(mktemp)
policy=/usr/sbin/policy-rc.d
our_policy=0

# shellcheck disable=SC2317 # the trap runs it
clean_up() {
    rm -f "$log"
    [ "$our_policy" = 0 ] || "${as_root[@]}" rm -f "$policy"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

packages_of() {
    case $1 in
    etcd) echo etcd-server golang-go golang-etcd-server-dev ;;
    nats) echo nats-server libnats-dev ;;
    redis) echo redis-server libhiredis-dev ;;
    libraft) echo libraft-dev libuv1-dev ;;
    zookeeper) echo zookeeper libzookeeper-mt-dev default-jre-headless ;;
    picture) echo gnuplot-nox ;;
    esac
}

missing() {
    local name
    for name in "$@"; do
        case $(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null) in
        installed*) ;;
        *) echo "$name" ;;
        esac
    done
}

apt_get() {
    timeout 900 "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
        -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \
        "$@" >"$log" 2>&1 </dev/null
}

# The packages' own services must not start: the comparison starts what it needs, elsewhere.
hold_services() {
    [ ! -e "$policy" ] || return 0
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null || return 1
    our_policy=1
    "${as_root[@]}" chmod 755 "$policy"
}

updated=0
install() { # PACKAGE...: first as things are; the lists of a fresh machine may be missing or old
    hold_services && apt_get install --no-install-recommends "$@" && return 0
    [ "$updated" = 1 ] || { apt_get update && updated=1; }
    apt_get install --no-install-recommends "$@"
}

for name in "$@"; do
    mapfile -t wanted < <(packages_of "$name" | tr ' ' '\n')
    mapfile -t need < <(missing "${wanted[@]}")
    [ "${#need[@]}" != 0 ] || continue
    if ! command -v apt-get >/dev/null; then
        echo "not installed: no apt-get here; it needs ${need[*]}" >"$state/$name.why"
        continue
    fi
    echo "compare.sh: installing for $name: ${need[*]}"
    if ! install "${need[@]}"; then
        tail -n 20 "$log" >&2
        why=$(grep -m 1 '^E: ' "$log" || tail -n 1 "$log")
        echo "not installed: apt-get install ${need[*]}: $why" >"$state/$name.why"
    fi
done
exit 0
