#!/usr/bin/env bash
# Compares replog with etcd, NATS JetStream, Redis, libraft and ZooKeeper, one after the other on
# this machine, and measures what the machine can do at best in the same run (docs/performance.md
# says how). Installs and builds what it needs.
# usage: tests/bench/compare.sh [OPTION...]      (--help lists the options)
set -eu
. "$(dirname "$0")/start.sh"
