#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test. The last line is
#   N passed, N failed[, N skipped]
# and the exit status is 0 only if none failed. Nothing is left running.
# usage: tests/run.sh [--fast] [--no-install]
#   --fast        the unit tests only, one build (AddressSanitizer and UBSan)
#   --no-install  take the machine as it is
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 2
root=$PWD

fast=0
install=1
for arg in "$@"; do
    case $arg in
    --fast) fast=1 ;;
    --no-install) install=0 ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "run.sh: unknown option $arg (see --help)" >&2; exit 2 ;;
    esac
done

passed=0 failed=0 skipped=0
failures=()
logs=$(mktemp -d "${TMPDIR:-/var/tmp}/replog-tests.XXXXXX")
child=
export PYTHONDONTWRITEBYTECODE=1
unset REPLOG_ENDPOINTS

# Ends the step that is under way, with all that it started (each step leads its own group).
finish() {
    [ -z "$child" ] || kill -TERM -- "-$child" 2>/dev/null
    [ "$failed" != 0 ] || rm -rf "$logs"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

pass() { passed=$((passed + 1)); echo "ok $1"; }
skip() { skipped=$((skipped + 1)); echo "skipped $1"; }
fail() {
    failed=$((failed + 1))
    failures+=("$1")
    echo "FAILED $1"
}

# step SECONDS LOG COMMAND...: runs it in a group of its own, with a limit on its time.
step() {
    local limit=$1 log=$2
    shift 2
    setsid timeout -k 10 "$limit" "$@" >"$log" 2>&1 </dev/null &
    child=$!
    wait "$child"
    local status=$?
    # What a step left behind is ended here (its group is its own).
    kill -KILL -- "-$child" 2>/dev/null
    child=
    [ "$status" != 124 ] || echo "no end after $limit s" >>"$log"
    return "$status"
}

section() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

# build PRESET [TARGET...]: one test: it builds without a warning.
build() {
    local preset=$1 log=$logs/build-$1.log
    shift
    if step 60 "$log" cmake --preset "$preset" &&
        step 600 "$log.ninja" cmake --build --preset "$preset" -j 2 ${1:+--target "$@"}; then
        pass "build $preset"
    else
        fail "build $preset"
        tail -n 30 "$log.ninja" 2>/dev/null || tail -n 30 "$log"
        return 1
    fi
}

# Counts the lines "ok NAME", "FAILED NAME" and "skipped NAME: why" of a suite, and shows them.
count() {
    local log=$1 line seen=0
    while IFS= read -r line; do
        case $line in
        "ok "*) passed=$((passed + 1)); seen=$((seen + 1)) ;;
        "skipped "*) skipped=$((skipped + 1)); seen=$((seen + 1)) ;;
        "FAILED "*) failed=$((failed + 1)); failures+=("${line#FAILED }"); seen=$((seen + 1)) ;;
        esac
        printf '%s\n' "$line"
    done <"$log"
    return $((seen == 0))
}

# suite NAME SECONDS COMMAND...: a command that prints such lines; it must print at least one, and
# must not end badly without a FAILED among them.
suite() {
    local name=$1 limit=$2 before=$failed status
    shift 2
    local log=$logs/$name.log
    step "$limit" "$log" "$@"
    status=$?
    if ! count "$log" || { [ "$status" != 0 ] && [ "$failed" = "$before" ]; }; then
        fail "$name (status $status)"
        tail -n 20 "$log"
    fi
}

# The programs that ctest knows, one at a time, as lines that count() reads.
unit_tests() {
    local dir=$1 labels=${2:--LE cluster|bench|sim} log
    log=$(mktemp)
    ctest --test-dir "$dir" ${labels% *} "${labels#* }" -j 2 --timeout 300 --no-tests=error \
        --output-on-failure >"$log" 2>&1
    local status=$?
    sed -nE \
        -e 's/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: ([^ ]+) \.+ *Passed +([0-9.]+) sec.*/ok unit \1 (\2 s)/p' \
        -e 's/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: ([^ ]+) \.+\**(Skipped|Not Run).*/skipped unit \1: \2/p' \
        -e 's/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: ([^ ]+) \.+\**(Failed|Timeout|Exception).*/FAILED unit \1/p' \
        "$log"
    if [ "$status" != 0 ]; then
        echo "-- ends of what failed:"
        grep -vE '^ *[0-9]+/[0-9]+ Test .*Passed|^ +Start ' "$log" | grep -v '\[ *\(RUN\|OK\) *\]' |
            tail -n 80
    fi
    rm -f "$log"
    return "$status"
}
export -f unit_tests

# The smallest set of cluster tests with the programs of DIR, whose lines name the build.
smoke_tests() {
    local dir=$1 name=$2
    set -o pipefail
    /usr/bin/python3 tests/cluster/run.py --bin "$dir" --smoke -j 2 |
        sed -u -E "s/^(ok|FAILED|skipped) cluster /\1 cluster ($name) /"
}
export -f smoke_tests

# Seeds that nobody has run before, drawn by the commit's hash: fresh with each commit, the same when
# it is run again. Without git, drawn here. The number of the first makes them come again.
fresh_seeds() {
    local first count=$1
    first=$(git rev-parse --short=8 HEAD 2>/dev/null | cut -c 1-8)
    [ -n "$first" ] || first=$(od -An -N4 -tx4 /dev/urandom | tr -d ' ')
    first=$((16#$first))
    echo "fresh seeds $first..$((first + count - 1))"
    if build/bin/replog-sim --seeds "$first..$((first + count - 1))" --jobs 2 2>&1; then
        echo "ok sim $count fresh seeds from $first"
    fi
}
export -f fresh_seeds

if [ "$install" = 1 ]; then
    section "packages"
    if ! step 600 "$logs/packages.log" bash deploy/packages.sh --tests; then
        cat "$logs/packages.log"
        fail "packages"
        echo "0 passed, 1 failed"
        exit 1
    fi
fi

# What the tests talk to is on this machine.
unset http_proxy https_proxy grpc_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY

section "unit tests under AddressSanitizer and UBSan"
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:exitcode=99
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
if build asan; then
    suite unit 1200 bash -c "unit_tests '$root/build-asan'"
fi

if [ "$fast" = 0 ]; then
    python=/usr/bin/python3
    section "release build, cluster tests"
    if build release; then
        suite cluster 1500 "$python" tests/cluster/run.py --bin build/bin -j 2
        section "quickstart"
        if step 600 "$logs/quickstart.log" bash deploy/quickstart.sh --no-install; then
            pass "quickstart"
        else
            fail "quickstart"
            tail -n 40 "$logs/quickstart.log"
        fi

        section "simulator"
        suite sim 900 bash -c "unit_tests '$root/build' '-L sim'"
        suite sim-fresh 900 bash -c "fresh_seeds 300"
        section "deliberate bugs, which the simulator must find"
        suite mutants 1200 "$python" tests/sim/mutants.py --build build-mutants --jobs 2
        section "torture"
        suite torture 1500 "$python" tests/torture/run.py --bin build/bin -j 2
    fi

    section "the same with clang"
    build clang

    section "fuzzers"
    suite fuzz 900 bash tests/fuzz/run.sh --seconds 2 --jobs 2

    section "cluster tests under the sanitizers"
    for preset in asan tsan; do
        [ "$preset" = asan ] || build tsan replogd replog || continue
        [ -x "build-$preset/bin/replogd" ] || continue
        export TSAN_OPTIONS="suppressions='$root/tests/tsan.supp' halt_on_error=0 exitcode=98"
        REPLOG_TEST_SLOW=4 ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0 \
            suite "smoke-$preset" 900 bash -c "smoke_tests '$root/build-$preset/bin' $preset"
    done

    section "lint"
    suite lint 600 bash tests/lint.sh --build build
fi

printf '\n'
if [ "$failed" != 0 ]; then
    echo "failed:"
    printf '  %s\n' "${failures[@]}"
    echo "logs: $logs"
fi
echo "took $SECONDS s"
if [ "$skipped" != 0 ]; then
    echo "$passed passed, $failed failed, $skipped skipped"
else
    echo "$passed passed, $failed failed"
fi
[ "$failed" = 0 ]
