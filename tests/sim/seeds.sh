#!/usr/bin/env bash
# Runs the seeds of seeds.txt, which found something once, and a range.
# usage: seeds.sh REPLOG-SIM A..B [JOBS]
set -euo pipefail

sim=$1 range=$2 jobs=${3:-1}
failed=0
while read -r seed options; do
    [ -n "$seed" ] || continue
    # shellcheck disable=SC2086 # options are words
    "$sim" --seed "$seed" $options || failed=1
done < <(sed 's/#.*//' "$(dirname "$0")/seeds.txt")
"$sim" --seeds "$range" --jobs "$jobs" || failed=1
exit $failed
