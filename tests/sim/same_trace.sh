#!/usr/bin/env bash
# The same seed gives the same trace, to the byte: run again, in a process that ran others before, and
# by every other build that is named.
# usage: same_trace.sh A..B REPLOG-SIM [REPLOG-SIM OF ANOTHER BUILD]...
set -euo pipefail

range=$1
shift
first=${range%..*} last=${range#*..}

hashes() { grep -oE '^seed [0-9]+:|trace [0-9a-f]{16}$' | paste -d' ' - - | sort -n -k2; }

alone=$(for ((seed = first; seed <= last; seed++)); do "$1" --seed "$seed"; done | hashes)
[ "$(wc -l <<<"$alone")" = $((last - first + 1)) ] || { echo "no trace: $alone"; exit 1; }
[ "$(sort -u -k3 <<<"$alone" | wc -l)" = $((last - first + 1)) ] || {
    echo "different seeds, the same trace: $alone"
    exit 1
}

failed=0
compare() {
    if [ "$1" = "$alone" ]; then
        echo "the same: $2"
    else
        diff <(echo "$alone") <(echo "$1") || true
        echo "not the same: $2"
        failed=1
    fi
}
for sim in "$@"; do
    compare "$("$sim" --seeds "$range" --results --jobs 1 | grep '^seed' | hashes)" "$sim, in one process"
    compare "$("$sim" --seeds "$range" --results --jobs 2 | grep '^seed' | hashes)" "$sim, in two"
done
# printing it changes nothing
compare "$(for ((seed = first; seed <= last; seed++)); do
    "$1" --seed "$seed" --trace | tail -n 1
done | hashes)" "with --trace"
exit $failed
