#!/usr/bin/env bash
# Builds the fuzz targets and runs each on its corpus (tests/fuzz/corpus/TARGET) for some seconds. One line a target:
#   ok fuzz NAME (N runs, C edges)
#   FAILED fuzz NAME: path of the input that did it, or "its seeds" (accepted.sh)
# Exit status 1 when one failed. Without clang and its libFuzzer: "skipped fuzz: why", and 0.
# usage: tests/fuzz/run.sh [--seconds N] [--build DIR] [--work DIR] [--jobs N] [--no-build] [TARGET...]
#   --seconds N  per target; default 5
#   --build DIR  where to build; default build-fuzz
#   --work DIR   keeps what the fuzzer finds worth keeping there, for the next run; default: nowhere
#   --jobs N     so many targets at a time; default 1
# A failing input is copied to DIR/failed/TARGET-... (DIR of --build). Make it a regression input: give it a name that
# says what it was and move it to tests/fuzz/corpus/TARGET/.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=5
build=build-fuzz
work=
jobs=1
compile=1
targets=()
while [ $# -gt 0 ]; do
    case $1 in
    --seconds) seconds=${2:?}; shift ;;
    --build) build=${2:?}; shift ;;
    --work) work=${2:?}; shift ;;
    --jobs) jobs=${2:?}; shift ;;
    --no-build) compile=0 ;;
    -h | --help) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "run.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
    *) targets+=("$1") ;;
    esac
    shift
done
case $seconds$jobs in *[!0-9]*) echo "run.sh: --seconds and --jobs take whole numbers" >&2; exit 2 ;; esac

known=()
for source in tests/fuzz/fuzz_*.c; do
    name=${source##*/fuzz_}
    known+=("${name%.c}")
done
[ "${#targets[@]}" != 0 ] || targets=("${known[@]}")
for target in "${targets[@]}"; do
    [ -f "tests/fuzz/fuzz_$target.c" ] || { echo "run.sh: no target $target; there are: ${known[*]}" >&2; exit 2; }
done

temporary=$(mktemp -d "${TMPDIR:-/var/tmp}/replog-fuzz.XXXXXX")
trap 'rm -rf "$temporary"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ "$compile" = 1 ]; then
    probe='int LLVMFuzzerTestOneInput(const unsigned char *d, unsigned long n) { return d && n ? 0 : 0; }'
    if ! clang -fsanitize=fuzzer,address -x c - -o "$temporary/probe" <<<"$probe" 2>/dev/null; then
        echo "skipped fuzz: no clang with libFuzzer and AddressSanitizer"
        exit 0
    fi
    if ! { cmake --preset fuzz -B "$build" && cmake --build "$build" -j 2 --target "${targets[@]/#/fuzz_}"; } \
        >"$temporary/build.log" 2>&1; then
        tail -n 30 "$temporary/build.log"
        echo "FAILED fuzz build"
        exit 1
    fi
fi

export ASAN_OPTIONS=quarantine_size_mb=8:malloc_context_size=12:detect_leaks=1:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1

# The longest input that is worth its time.
max_len() {
    case $1 in
    wal_image) echo 24000 ;;
    wal_damage | node_lies) echo 512 ;;
    options) echo 8000 ;;
    *) echo 4096 ;;
    esac
}

run_one() {
    local target=$1 log=$temporary/$1.log status=0 corpus=tests/fuzz/corpus/$1
    local found=${work:-$temporary/found}/$target
    mkdir -p "$found" "$build/failed"
    if ! tests/fuzz/accepted.sh --build "$build" "$target" >"$log" 2>&1; then
        sed 's/^/    /' "$log"
        echo "FAILED fuzz $target: its seeds"
        return 1
    fi
    local dirs=("$found") dictionary=()
    [ ! -d "$corpus" ] || dirs+=("$corpus")
    [ ! -f "tests/fuzz/$target.dict" ] || dictionary=(-dict="tests/fuzz/$target.dict")
    timeout -k 10 $((seconds + 120)) "$build/fuzz/fuzz_$target" "${dictionary[@]}" -max_total_time="$seconds" \
        -max_len="$(max_len "$target")" -len_control=0 -timeout=25 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$build/failed/$target-" "${dirs[@]}" >"$log" 2>&1 </dev/null || status=$?
    local runs edges
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
    edges=$(grep -oE 'cov: [0-9]+' "$log" | tail -n 1 | cut -c6- || true)
    if [ "$status" = 0 ] && [ -n "$runs" ] && [ "$runs" -gt 0 ]; then
        echo "ok fuzz $target ($runs runs, ${edges:-0} edges)"
        return 0
    fi
    local artefact
    artefact=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
    # a failing seed is not written again
    [ -n "$artefact" ] || artefact=$(sed -n 's/^Running: //p' "$log" | tail -n 1)
    grep -vE '^#[0-9]+[[:space:]]' "$log" | tail -n 40 | sed 's/^/    /'
    echo "FAILED fuzz $target: ${artefact:-status $status}"
    return 1
}

failed=0
running=0
for target in "${targets[@]}"; do
    run_one "$target" >"$temporary/$target.out" &
    running=$((running + 1))
    if [ "$running" -ge "$jobs" ]; then
        wait -n || failed=1
        running=$((running - 1))
    fi
    # what has ended, in order
    [ "$jobs" != 1 ] || { cat "$temporary/$target.out"; : >"$temporary/$target.out"; }
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
done
for target in "${targets[@]}"; do cat "$temporary/$target.out"; done
exit "$failed"
