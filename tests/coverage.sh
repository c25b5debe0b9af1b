#!/usr/bin/env bash
# Builds with line counts (preset coverage), runs the tests that end within minutes, and prints how
# many lines of src/, server/ and client/ were reached, file by file, and which were not.
# usage: tests/coverage.sh [--no-run] [--lines FILE]
#   --no-run      only count what earlier runs left in build-coverage
#   --lines FILE  print the lines of one file that were not reached
set -euo pipefail
cd "$(dirname "$0")/.."

run=1 lines=
while [ $# -gt 0 ]; do
    case $1 in
    --no-run) run=0 ;;
    --lines) lines=${2:?--lines needs a file}; shift ;;
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "coverage.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
    esac
    shift
done

dir=build-coverage
if [ "$run" = 1 ]; then
    cmake --preset coverage >/dev/null
    cmake --build --preset coverage -j 2 | tail -n 1
    find "$dir" -name '*.gcda' -delete
    # A test that fails fails elsewhere, too; here only its lines count.
    ctest --test-dir "$dir" -LE 'cluster|bench' -j 2 --timeout 600 >"$dir/ctest.log" 2>&1 ||
        echo "coverage.sh: some unit tests failed, see $dir/ctest.log" >&2
    /usr/bin/python3 tests/cluster/run.py --bin "$dir/bin" -j 2 >"$dir/cluster.log" 2>&1 ||
        echo "coverage.sh: some cluster tests failed, see $dir/cluster.log" >&2
    "$dir/bin/replog-sim" --seeds 1..100 --jobs 2 >"$dir/sim.log" 2>&1 ||
        echo "coverage.sh: some seeds failed, see $dir/sim.log" >&2
fi
exec /usr/bin/python3 tests/coverage.py "$dir" ${lines:+"$lines"}
