#!/usr/bin/env bash
# Installs the distribution's packages that building replog needs (Debian 12 and 13), and with
# --tests those that testing needs. Does nothing when all are there; needs root or sudo otherwise.
set -euo pipefail

usage() {
    echo "usage: deploy/packages.sh [--tests] [--list]"
    echo "  --tests   also what the tests need (cmocka, Python with grpcio, clang and its tools,"
    echo "            and for tests/torture file systems, nftables, iproute2 and strace)"
    echo "  --list    print the names and install nothing"
}

build=(build-essential cmake ninja-build pkg-config
    libnng-dev libnghttp2-dev libprotobuf-c-dev protobuf-c-compiler protobuf-compiler
    librocksdb-dev libxxhash-dev libmicrohttpd-dev libinih-dev)
# libclang-rt-dev (the sanitizers' runtime for clang) follows clang's version in both releases.
tests=(libcmocka-dev python3 python3-grpcio python3-protobuf
    clang clang-tidy clang-format libclang-rt-dev procps
    e2fsprogs xfsprogs mount util-linux nftables iproute2 strace binutils)

wanted=("${build[@]}")
list_only=0
for arg in "$@"; do
    case $arg in
    --tests) wanted+=("${tests[@]}") ;;
    --list) list_only=1 ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
done
if [ "$list_only" = 1 ]; then
    printf '%s\n' "${wanted[@]}"
    exit 0
fi

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "packages.sh: this needs Debian's dpkg and apt-get; elsewhere install the equivalents of:" >&2
    printf '  %s\n' "${wanted[@]}" >&2
    exit 1
fi

# What of the given names is not installed ("pkg-config" may be there as what pkgconf provides).
missing() {
    local name
    for name in "$@"; do
        case $(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null) in
        installed*) ;;
        *) [ "$name" = pkg-config ] && command -v pkg-config >/dev/null || echo "$name" ;;
        esac
    done
}

mapfile -t need < <(missing "${wanted[@]}")
if [ "${#need[@]}" = 0 ]; then
    exit 0
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "packages.sh: missing: ${need[*]}" >&2
        echo "packages.sh: run it as root, or install sudo" >&2
        exit 1
    fi
    as_root=(sudo)
    # Without a terminal there is nobody to type a password: fail and say so.
    [ -t 0 ] || as_root=(sudo -n)
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# apt_get TRIES ARGUMENT...: quietly, with a bounded wait for dpkg's lock.
apt_get() {
    local tries=$1 attempt
    shift
    for ((attempt = 1; attempt <= tries; attempt++)); do
        if "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
            -o DPkg::Lock::Timeout=60 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \
            "$@" >"$log" 2>&1 </dev/null; then
            return 0
        fi
        [ "$attempt" = "$tries" ] || sleep $((attempt * 5))
    done
    return 1
}

echo "packages.sh: installing ${#need[@]} packages: ${need[*]}"
# First as things are; the lists of a fresh machine may be missing or old.
install_all() { apt_get "$1" install --no-install-recommends "${need[@]}"; }
# An update that misses some lists is tried again; some may be of no use to us, and gone for good.
update() { apt_get 2 -o APT::Update::Error-Mode=any update || apt_get 1 update; }
if ! install_all 1 && ! { update && install_all 3; }; then
    echo "packages.sh: apt-get failed:" >&2
    tail -n 20 "$log" >&2
    exit 1
fi

mapfile -t still < <(missing "${need[@]}")
if [ "${#still[@]}" != 0 ]; then
    echo "packages.sh: still missing after the installation: ${still[*]}" >&2
    exit 1
fi
