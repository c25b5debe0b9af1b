#!/usr/bin/env bash
# Shows that the seeds made of real runs get past the door: each target that says what it lets in (fuzz_accepted of
# fuzz.h) must let in all of its tests/fuzz/corpus/TARGET/seed-*. What is turned away there begins nowhere near the code
# that it was made for. corpus.py asks this of what it made, run.sh of what it fuzzes.
# usage: tests/fuzz/accepted.sh [--build DIR] [--corpus DIR] TARGET...
#   --build DIR   where the targets were built; default build-fuzz
#   --corpus DIR  default tests/fuzz/corpus
# Prints one line for each seed that is turned away; exit status 1 when there is one.
set -euo pipefail
cd "$(dirname "$0")/../.."

build=build-fuzz
corpus=tests/fuzz/corpus
targets=()
while [ $# -gt 0 ]; do
    case $1 in
    --build) build=${2:?}; shift ;;
    --corpus) corpus=${2:?}; shift ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "accepted.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
    *) targets+=("$1") ;;
    esac
    shift
done

failed=0
for target in "${targets[@]}"; do
    grep -q 'fuzz_accepted(' "tests/fuzz/fuzz_$target.c" || continue
    said=$(REPLOG_FUZZ_ACCEPTED=1 "$build/fuzz/fuzz_$target" -timeout=25 "$corpus/$target"/seed-* 2>&1 </dev/null) ||
        { tail -n 20 <<<"$said"; failed=1; }
    away=$(awk '/^Running: / { seed = $2 } /^turned away$/ { print seed }' <<<"$said" | sort -u)
    [ -z "$away" ] || { sed "s/^/fuzz_$target turns away /" <<<"$away"; failed=1; }
done
exit "$failed"
