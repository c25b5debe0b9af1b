# What compare.sh and goals.sh both are: the Python script of the same name, on a machine that may
# not have a python3 yet. They source it.
cd "$(dirname "$0")/../.."
if [ ! -x /usr/bin/python3 ]; then bash deploy/packages.sh --tests; fi
export PYTHONDONTWRITEBYTECODE=1
exec /usr/bin/python3 "tests/bench/$(basename "$0" .sh).py" "$@"
