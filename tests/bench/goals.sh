#!/usr/bin/env bash
# Measures what replog is to reach beside the throughput that compare.sh compares: catch-up, reading,
# opening a long log, failover, memory (docs/performance.md says how). Builds the release preset.
# usage: tests/bench/goals.sh [OPTION...]      (--help lists the options)
set -eu
cd "$(dirname "$0")/../.."
export PYTHONDONTWRITEBYTECODE=1
exec /usr/bin/python3 tests/bench/goals.py "$@"
