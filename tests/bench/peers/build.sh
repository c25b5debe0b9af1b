#!/usr/bin/env bash
# Compiles the load generators against the distribution's packages. A peer whose generator does not
# compile is named with the reason in STATE/NAME.why.
# usage: tests/bench/peers/build.sh STATE NAME...   (programs go to STATE; limits, floor and store too)
set -u -o pipefail
state=$(cd "${1:?}" && pwd) || exit 1
shift
cd "$(dirname "$0")/../../.." || exit 1
peers=tests/bench/peers
flags=(-O2 -std=c11 -D_GNU_SOURCE -Wall -Wextra -Wconversion -Wshadow
    -I. -Isrc -Iinclude "-I$peers")

compile() { # NAME ARGUMENT...
    local name=$1
    shift
    timeout 120 cc "${flags[@]}" "$peers/$name.c" "$@" -o "$state/$name"
}

# The client of etcd 3.5 has another path than that of 3.4.
compile_etcd() {
    local source=/usr/share/gocode/src path=go.etcd.io/etcd/clientv3
    [ -d "$source/$path" ] || path=go.etcd.io/etcd/client/v3
    sed "s|go.etcd.io/etcd/clientv3|$path|" "$peers/etcd.go" >"$state/etcd_bench.go" &&
        GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE="$state/go-cache" \
            timeout 400 go build -o "$state/etcd" "$state/etcd_bench.go"
}

build() {
    case $1 in
    nats) compile nats -lnats ;;
    redis) compile redis -lhiredis ;;
    libraft) compile libraft -lraft -luv ;;
    zookeeper) compile zookeeper -lzookeeper_mt -lpthread ;;
    etcd) compile_etcd ;;
    limits) compile limits -lxxhash -lpthread ;;
    floor) compile floor ;;
    store) compile store src/store/store_rocksdb.c src/base/*.c -lrocksdb -lxxhash -lpthread ;;
    esac
}

bad=0
for name in limits floor store "$@"; do
    [ ! -e "$state/$name.why" ] || continue
    if ! build "$name" >"$state/$name.log" 2>&1; then
        tail -n 20 "$state/$name.log" >&2
        why=$(grep -m 1 -E 'error:|undefined reference|cannot' "$state/$name.log")
        echo "its load generator does not build: ${why:-$(tail -n 1 "$state/$name.log")}" \
            >"$state/$name.why"
        case $name in limits | floor | store) bad=1 ;; esac
    fi
done
exit $bad
