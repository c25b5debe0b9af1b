#!/usr/bin/env bash
# Measures what replog is to reach beside the throughput that compare.sh compares: catch-up,
# reading, opening a long log, failover, memory (docs/performance.md says how). Installs and builds
# what it needs.
# usage: tests/bench/goals.sh [OPTION...]      (--help lists the options)
set -eu
. "$(dirname "$0")/start.sh"
