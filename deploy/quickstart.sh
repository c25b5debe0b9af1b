#!/usr/bin/env bash
# Shows on this machine what replog is for: builds it, runs three nodes, appends the machine's own
# package database, kills a follower and the leader, and checks that nothing is lost or doubled.
# Ends with 0 and leaves no process, or says what failed and where the logs are.
set -u -o pipefail

usage() {
    cat <<'END'
usage: deploy/quickstart.sh [--keep] [--dir DIR] [--base-port PORT] [--no-install] [--build DIR]
  --keep         leave the cluster running at the end, and print what to try next
  --dir DIR      keep the data there (default: a temporary directory, removed at the end)
  --base-port P  node i serves on 127.0.0.1:P+i (default: 7400, or the next hundred that is free)
  --no-install   do not install packages
  --build DIR    use the binaries of that build directory, and do not build
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
keep=0 install=1 dir="" base="" build=""
while [ $# -gt 0 ]; do
    case $1 in
    --keep) keep=1 ;;
    --no-install) install=0 ;;
    --dir | --base-port | --build)
        [ $# -ge 2 ] || { usage >&2; exit 2; }
        case $1 in
        --dir) dir=$2 ;;
        --base-port) base=$2 ;;
        --build) build=$2 ;;
        esac
        shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
    shift
done
case $base in *[!0-9]*) usage >&2; exit 2 ;; esac
unset REPLOG_ENDPOINTS

# ---- Saying what happens

if [ -t 1 ]; then green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'; else green="" red="" plain=""; fi
step_name="starting"
began=$(date +%s)
proved=()
step() { step_name=$1; printf '\n%s\n' "$1"; }
ok() { printf '  %sok%s  %s\n' "$green" "$plain" "$1"; }
prove() { ok "$1: $2"; proved+=("$1|$2"); }

fail() {
    printf '\n%squickstart failed%s while %s:\n  %s\n' "$red" "$plain" "$step_name" "$1" >&2
    if [ -n "${logs:-}" ] && [ -d "$logs" ]; then
        local file
        for file in "$logs"/*.log; do
            [ -s "$file" ] || continue
            printf '  -- the end of %s\n' "$file" >&2
            tail -n 5 "$file" | cut -c1-300 | sed 's/^/  /' >&2
        done
        printf 'This is a bug. Please report it, with the files in %s\n' "$logs" >&2
    fi
    exit 1
}

now_ms() { date +%s%3N; }
seconds_since() { local d=$(($(now_ms) - $1)); printf '%d.%03d' $((d / 1000)) $((d % 1000)); }

# until_true SECONDS WHAT COMMAND...: repeats the command until it succeeds; up to four times as long,
# for a machine that is busy with other things.
until_true() {
    local deadline=$(($(now_ms) + $1 * 4000)) what=$2
    shift 2
    until "$@"; do
        [ "$(now_ms)" -lt "$deadline" ] || fail "not in time: $what"
        sleep 0.05
    done
}

# ---- Processes: only those that were started here are ever ended

declare -A node_pid=()   # of nodes, as their pid files and our own restarts say
dev_pid="" append_pid=""
logs="" kept=0 made_dir=0 finished=0

# False only once it is reaped, and then none of its threads holds a file or a lock any more.
running() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }
gone() { ! running "$1"; }
# Still the replogd that serves our directory, not another process with a reused number. What is
# ending says no before it has let go of its files: that it is gone, only running() tells.
is_ours() { running "$1" && tr '\0' '\n' <"/proc/$1/cmdline" 2>/dev/null | grep -qF -- "$dir/"; }

end_all() {
    local pid waited
    [ -z "$append_pid" ] || kill "$append_pid" 2>/dev/null
    # dev ends every node, also those started by hand; a second signal would cut a node's end short.
    if running "$dev_pid"; then
        kill -TERM "$dev_pid" 2>/dev/null
    else
        for pid in "${node_pid[@]}"; do is_ours "$pid" && kill -TERM "$pid" 2>/dev/null; done
    fi
    for ((waited = 0; waited < 600; waited++)); do
        local left=0
        for pid in $dev_pid "${node_pid[@]}"; do running "$pid" && left=1; done
        [ "$left" = 0 ] && break
        sleep 0.1
    done
    local forced=0
    for pid in $dev_pid "${node_pid[@]}"; do
        if [ "$pid" = "$dev_pid" ] && running "$pid" || is_ours "$pid"; then
            kill -KILL "$pid" 2>/dev/null
            forced=1
        fi
    done
    # dev itself ends by force what does not end in 10 s, and says so with its status.
    [ -z "$dev_pid" ] || wait "$dev_pid" 2>/dev/null || forced=1
    return $forced
}

on_exit() {
    local status=$?
    trap - EXIT INT TERM
    [ "$kept" = 1 ] && exit "$status"
    end_all
    # What failed stays to be looked at; what was interrupted is of no use.
    case $status/$finished in 0/1 | 130/* | 143/*) [ "$made_dir" = 0 ] || rm -rf "$dir" ;; esac
    exit "$status"
}
trap on_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- Asking the cluster

replog() { "$bin/replog" "$@"; }
# field NAME: the number of that name in a JSON object on stdin.
field() { sed -nE "s/.*\"$1\": ?([0-9]+).*/\1/p" | head -n 1; }
status() { replog -e "${1:-$endpoints}" --json --timeout 3000 status 2>/dev/null; }
# Top-level numbers stand before the members.
cluster_field() { status | sed 's/"members".*//' | field "$1"; }
# member ID: that member's object of the status.
member() { status | grep -oE '\{[^{}]*"address"[^{}]*\}' | grep -E "\"id\": ?$1,"; }
address() { echo "127.0.0.1:$((base + $1))"; }
leader() { cluster_field leader; }
# know NAME COMMAND...: sets NAME to the number that the command prints; false if there is none, or 0,
# as a member says that cannot tell just now.
know() {
    local name=$1 value
    shift
    value=$("$@") && [ -n "$value" ] && [ "$value" != 0 ] && printf -v "$name" %s "$value"
}
has_leader() { local l; l=$(leader); [ -n "$l" ] && [ "$l" != 0 ] && [ "$l" != "${1:-0}" ]; }
offline() { member "$1" | grep -qE '"online": ?false'; }
has_seq() { local m; m=$(member "$1" | field commit_seq); [ -n "$m" ] && [ "$m" -ge "$2" ]; }

# All three online, everything replicated, and one chain value for all.
alike() {
    local s last members
    s=$(status) || return 1
    last=$(echo "$s" | sed 's/"members".*//' | field last_seq)
    members=$(echo "$s" | grep -oE '\{[^{}]*"address"[^{}]*\}')
    [ "$(echo "$members" | grep -cE '"online": ?true')" = 3 ] &&
        [ "$(echo "$members" | grep -cE "\"match_seq\": ?$last,")" = 3 ] &&
        [ "$(echo "$members" | grep -cE "\"chain_seq\": ?$last,")" = 3 ] &&
        [ "$(echo "$members" | sed -nE 's/.*"chain": ?"?([0-9a-fA-Fx]+).*/\1/p' | sort -u | wc -l)" = 1 ]
}

# The records from seq $1 on, as KEY<TAB>VALUE lines; the rest of the arguments go to replog.
read_lines() {
    local from=$1
    shift
    replog "$@" --json --timeout 60000 read --from "$from" "${read_more[@]}" >"$dir/read.json" \
        2>"$logs/read.log" || return 1
    sed -nE 's/.*"key": ?"([^"]*)", ?"value": ?"([^"]*)".*/\1\t\2/p' "$dir/read.json"
}
read_more=()

# append_file FILE NAME: all of it, 100 lines a batch; sets first, last, batches, records and took.
append_file() {
    local start
    start=$(now_ms)
    "$bin/replog" -e "$endpoints" --json --timeout 60000 append --file "$1" --batch 100 \
        >"$dir/$2.json" 2>"$logs/$2.log" || fail "append of $1 ended with status $?"
    took=$(seconds_since "$start")
    first=$(head -n 1 "$dir/$2.json" | field first_seq)
    last=$(tail -n 1 "$dir/$2.json" | field last_seq)
    batches=$(wc -l <"$dir/$2.json")
    records=$(wc -l <"$1")
    [ "$batches" = $(((records + 99) / 100)) ] || fail "$records lines gave $batches batches"
}

same() { cmp -s "$1" "$2" || fail "$3: what came back differs ($1, $2: $(cmp "$1" "$2" 2>&1))"; }

# restart ID: the same replogd command that dev had run, started by hand.
restart() {
    until_true 20 "the killed process of node $1 is gone" gone "${node_pid[$1]}"
    mapfile -d '' -t command <"$dir/command.$1"
    (cd "$(cat "$dir/cwd.$1")" && exec setsid "${command[@]}") >>"$logs/node$1.log" 2>&1 </dev/null &
    node_pid[$1]=$!
    disown "$!" # so that bash does not tell of its end
}
# kill_node ID: SIGKILL; remembers its command first.
kill_node() {
    local pid=${node_pid[$1]}
    cp "/proc/$pid/cmdline" "$dir/command.$1" || fail "node $1 (process $pid) is not running"
    readlink "/proc/$pid/cwd" >"$dir/cwd.$1"
    kill -KILL "$pid" || fail "node $1 (process $pid) is not running"
}

# ---- 1. Build

printf 'replog quickstart\n'
if [ "$install" = 1 ]; then
    step "installing packages"
    bash "$root/deploy/packages.sh" || fail "deploy/packages.sh"
    ok "the distribution's packages are there"
fi

step "building with optimisation"
if [ -n "$build" ]; then
    bin=$(cd "$build" 2>/dev/null && pwd)/bin || fail "--build $build: no such directory"
else
    bin=$root/build/bin
    build_log=$(mktemp)
    start=$(now_ms)
    if ! (cd "$root" && cmake --preset release && cmake --build --preset release -j "$(nproc)") \
        >"$build_log" 2>&1 </dev/null; then
        tail -n 30 "$build_log" >&2
        fail "the build failed; all of its output is in $build_log"
    fi
    rm -f "$build_log"
    ok "built in $(seconds_since "$start") s"
fi
[ -x "$bin/replogd" ] && [ -x "$bin/replog" ] || fail "no replogd and replog in $bin"

# ---- 2. Three nodes

step "starting three nodes"
if [ -n "$dir" ]; then
    mkdir -p "$dir" || fail "cannot make $dir"
    dir=$(cd "$dir" && pwd)
else
    dir=$(mktemp -d /var/tmp/replog-quickstart.XXXXXX) || fail "no directory in /var/tmp"
    made_dir=1
fi
logs=$dir/logs
mkdir -p "$logs"
rm -f "$logs"/*.log

in_use() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
ports_free() { local i; for i in 1 2 3 51 52 53; do ! in_use $(($1 + i)) || return 1; done; }
if [ -n "$base" ]; then
    ports_free "$base" || fail "ports $base+1.. are in use: choose others with --base-port"
else
    for base in 7400 7500 7600 7700 7800 7900 ""; do
        [ -z "$base" ] || ! ports_free "$base" || break
    done
    [ -n "$base" ] || fail "ports 7401 to 7903 are in use: choose others with --base-port"
fi
endpoints="$(address 1),$(address 2),$(address 3)"

# A session of its own: Ctrl-C reaches this script, which then ends the nodes in order.
setsid "$bin/replog" dev --nodes 3 --dir "$dir/data" --base-port "$base" \
    >"$logs/dev.out" 2>"$logs/dev.log" </dev/null &
dev_pid=$!
is_ready() { running "$dev_pid" || fail "replog dev ended"; grep -q '^ready leader=' "$logs/dev.out"; }
until_true 60 "the cluster says that it is ready" is_ready
for i in 1 2 3; do
    node_pid[$i]=$(cat "$dir/data/$i/replogd.pid") || fail "no $dir/data/$i/replogd.pid"
done
ok "$(grep -m 1 '^ready leader=' "$logs/dev.out")"

# ---- 3. Append the package database, read it back through a follower

step "appending this machine's package database"
dpkg-query -W >"$dir/packages.tsv" || fail "dpkg-query -W"
append_file "$dir/packages.tsv" packages
packages_first=$first
prove "packages appended" "$records records in $batches atomic batches, $took s (seq $first to $last)"

step "reading it back through a follower"
until_true 20 "a leader" know lead leader
follower=$((lead % 3 + 1))
until_true 20 "follower $follower knows seq $last" has_seq "$follower" "$last"
read_more=(--to "$last" --node)
read_lines "$packages_first" -e "$(address "$follower")" >"$dir/packages.back" ||
    fail "reading from node $follower"
same "$dir/packages.tsv" "$dir/packages.back" "packages through node $follower"
prove "read through a follower" "node $follower (leader is $lead): $records records, byte for byte"

# ---- 4. Kill a follower, append, bring it back

step "killing follower $follower with SIGKILL, and appending more"
before=$last
kill_node "$follower"
until_true 20 "status says that $follower is away" offline "$follower"
seq -f 'counter%05g' 1 20000 | awk '{ print $1 "\tvalue " NR }' >"$dir/more.tsv"
append_file "$dir/more.tsv" more
prove "appended with one node dead" "$records records in $batches batches, $took s"

step "restarting it by the same command"
restart "$follower"
start=$(now_ms)
seen=-1
caught_up() {
    local m
    m=$(member "$follower" | field match_seq)
    if [ -n "$m" ] && [ "$m" != "$seen" ]; then
        seen=$m
        printf '      node %s: match_seq %s of %s\n' "$follower" "$m" "$last"
    fi
    alike
}
until_true 60 "node $follower catches up" caught_up
chain=$(member "$follower" | sed -nE 's/.*"chain": ?"?([0-9a-fA-Fx]+).*/\1/p')
prove "follower caught up" "from seq $before to $last in $(seconds_since "$start") s; all chains $chain"
read_more=(--to "$last" --node)
read_lines "$first" -e "$(address "$follower")" >"$dir/more.back" || fail "reading from $follower"
same "$dir/more.tsv" "$dir/more.back" "what was appended meanwhile, through node $follower"

# ---- 5. Kill the leader while an append is running

step "killing the leader in the middle of an append"
lines=200000
for attempt in 1 2 3; do
    seq 1 "$lines" | awk -v a="$attempt" '{ printf "run%d-%07d\tpayload %d of the run\n", a, $1, $1 }' \
        >"$dir/run.tsv"
    until_true 20 "a leader" know lead leader
    until_true 20 "a commit_seq" know before cluster_field commit_seq
    start=$(now_ms)
    replog -e "$endpoints" --json --timeout 60000 append --file "$dir/run.tsv" --batch 100 \
        >"$dir/run.json" 2>"$logs/run.log" </dev/null &
    append_pid=$!
    moved() { local c; c=$(cluster_field commit_seq); [ -n "$c" ] && [ "$c" -gt $((before + 5000)) ]; }
    until_true 60 "the append is under way" moved
    kill_node "$lead"
    killed=$(now_ms)
    until_true 30 "another leader" has_leader "$lead"
    elected=$(seconds_since "$killed")
    wait "$append_pid" || fail "the append ended with status $? when the leader was killed"
    append_pid=""
    took=$(seconds_since "$start")
    restart "$lead"
    until_true 60 "the killed leader is back and alike" alike
    # Hit in the middle: answers under the old leader's term, and under the new one's.
    terms=$(sed -nE 's/.*"term": ?([0-9]+).*/\1/p' "$dir/run.json" | uniq -c)
    [ "$(echo "$terms" | wc -l)" -lt 2 ] || break
    lines=$((lines * 3)) # it was over too soon: a longer one
done
[ "$(echo "$terms" | wc -l)" -ge 2 ] || fail "three appends were over before the leader could be killed"
acknowledged=$(wc -l <"$dir/run.json")
[ "$acknowledged" = $((lines / 100)) ] || fail "$acknowledged of $((lines / 100)) batches acknowledged"
read_more=()
read_lines $((before + 1)) -e "$endpoints" >"$dir/run.back" || fail "reading it all back"
same "$dir/run.tsv" "$dir/run.back" "the append that lost its leader"
prove "leader killed mid-append" "node $lead, after $(echo "$terms" | awk 'NR == 1 { print $1 }') batches; another led after $elected s"
prove "completed once and only once" "$lines records in $acknowledged batches, $took s, none lost or doubled"

# ---- 6. Checkpoint and truncate

step "checkpointing and truncating"
last=$(tail -n 1 "$dir/run.json" | field last_seq)
# A checkpoint does not wait for a member that is away, and one that stood still counts as away.
covered() {
    replog -e "$endpoints" --json --timeout 60000 checkpoint >"$dir/checkpoint.json" \
        2>"$logs/checkpoint.log" || fail "checkpoint: $(cat "$logs/checkpoint.log")"
    know safe field safe_seq <"$dir/checkpoint.json" && [ "$safe" -ge "$last" ]
}
until_true 20 "a checkpoint covers seq $last (safe_seq in $dir/checkpoint.json)" covered
prove "checkpoint" "every store durably holds everything up to seq $safe"
until_true 20 "a first_seq" know first_before cluster_field first_seq
not_held() {
    replog -e "$endpoints" --json --timeout 60000 truncate --upto "$safe" >"$dir/truncate.json" \
        2>"$logs/truncate.log" || fail "truncate: $(cat "$logs/truncate.log")"
    grep -qE '"held_by": ?\[\]' "$dir/truncate.json"
}
until_true 20 "nobody holds the truncation (held_by in $dir/truncate.json)" not_held
# Each node itself: a read at the old first seq is refused, with OUT_OF_RANGE.
dropped_on() {
    ! replog -e "$(address "$1")" --timeout 3000 read --from "$last" --to "$last" --node \
        >/dev/null 2>"$logs/below.log" && grep -q OUT_OF_RANGE "$logs/below.log"
}
for i in 1 2 3; do until_true 30 "node $i truncates" dropped_on "$i"; done
until_true 20 "a first_seq" know first_after cluster_field first_seq
[ "$first_after" -gt "$last" ] && [ "$first_after" -le $((safe + 1)) ] ||
    fail "first_seq is $first_after after truncating up to $safe"
prove "truncated on every node" "first_seq rose from $first_before to $first_after"

sample() { awk 'NR == 1 || NR % 97 == 0' "$dir/packages.tsv"; tail -n 1 "$dir/packages.tsv"; }
count=0
while IFS=$'\t' read -r key value; do
    got=$(replog -e "$endpoints" --json get "$key" 2>"$logs/get.log") || fail "get $key: $(cat "$logs/get.log")"
    case $got in
    *"\"value\":\"$value\""* | *"\"value\": \"$value\""*) count=$((count + 1)) ;;
    *) fail "get $key gave $got, not $value" ;;
    esac
done < <(sample)
prove "keys outlive the log" "$count packages read by key after their log was dropped"

# ---- 7. The end

table() {
    printf '\nWhat was proved\n'
    local row
    for row in "${proved[@]}"; do printf '  %-30s %s\n' "${row%%|*}" "${row#*|}"; done
    printf '\nAll of it in %d s.\n' $(($(date +%s) - began))
}

if [ "$keep" = 1 ]; then
    kept=1 finished=1
    table
    cat <<END

The cluster is running. Try:
  export PATH="$bin:\$PATH" REPLOG_ENDPOINTS=$endpoints
  replog status
  replog append hello world
  replog get hello
  replog read --follow --markers
  replog bench --seconds 5 --batch 100
  kill -9 ${node_pid[1]}          # and watch: replog status
Pages: http://$(address 51)/ (52, 53); data and logs: $dir
Stop it: kill $dev_pid
END
    exit 0
fi

step "stopping"
end_all || fail "a process did not end on SIGTERM and had to be killed"
dev_pid=""
for i in 1 2 3; do
    replog --json wal verify "$dir/data/$i" >"$dir/verify.$i" 2>"$logs/verify$i.log" &&
        grep -qE '"ok": ?true' "$dir/verify.$i" || fail "wal verify of node $i: $(cat "$dir/verify.$i")"
    [ "$(field first_seq <"$dir/verify.$i")" = "$first_after" ] ||
        fail "node $i begins at $(field first_seq <"$dir/verify.$i") on disk, not at $first_after"
done
prove "logs verified on disk" "3 of 3, each from seq $first_after; no process is left"
node_pid=()
finished=1
table
