#!/usr/bin/env bash
# Static checks, each one test: prints "ok NAME", "FAILED NAME" or "skipped NAME: why".
#   format    clang-format on every C file
#   tidy      clang-tidy on every C file of the compile database (or those that changed)
#   headers   every header compiles alone, with gcc and clang; public ones as C++ too
#   shell     bash -n on every script
#   paths     nothing in the tree depends on a place outside it
# usage: tests/lint.sh [--build DIR] [--changed] [CHECK...]
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 2

build=build
changed=0
checks=()
while [ $# -gt 0 ]; do
    case $1 in
    --build) build=${2:?}; shift ;;
    --changed) changed=1 ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) checks+=("$1") ;;
    esac
    shift
done
[ "${#checks[@]}" != 0 ] || checks=(format headers shell paths tidy)

# What clang-format lays out and clang-tidy finds differs between versions; the project's is 14.
tool_version=14
is_the_version() { # COMMAND
    command -v "$1" >/dev/null || { why="no $1"; return 1; }
    local version
    version=$("$1" --version | sed -n 's/.*version \([0-9]*\)\..*/\1/p')
    [ "$version" = "$tool_version" ] && return 0
    why="$1 is version $version, the project's is $tool_version"
    return 1
}

c_files() { find src include server client tests -name '*.[ch]' -type f | sort; }

check_format() {
    is_the_version clang-format || return 77
    c_files | xargs -r -d '\n' clang-format --dry-run -Werror
}

check_tidy() {
    is_the_version clang-tidy || return 77
    [ -f "$build/compile_commands.json" ] || { why="no $build/compile_commands.json"; return 77; }
    local files
    if [ "$changed" = 1 ]; then
        files=$(git diff --name-only --diff-filter=d HEAD -- '*.c'; git ls-files -o --exclude-standard '*.c')
    else
        files=$(find src server client -name '*.c' -type f | sort)
    fi
    [ -n "$files" ] || return 0
    # What the compiler of the database knows and clang does not is no finding.
    printf '%s\n' "$files" | xargs -d '\n' -P 2 -n 2 clang-tidy -p "$build" --quiet \
        --extra-arg=-Wno-unknown-warning-option 2>/dev/null
}

check_headers() {
    local flags header compiler bad=0
    [ -d "$build/proto/gen" ] || { why="no $build/proto/gen: build first"; return 77; }
    flags="-D_GNU_SOURCE -I. -Isrc -Iinclude -I$build/proto/gen $(pkg-config --cflags libprotobuf-c)"
    local c="-std=c11 -fsyntax-only -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -x c"
    for compiler in gcc clang; do
        command -v $compiler >/dev/null || continue
        while read -r header; do
            # shellcheck disable=SC2086
            echo "#include \"$header\"" | $compiler $flags $c - || { echo "$header ($compiler)"; bad=1; }
        done < <(c_files | grep '\.h$' | grep -v '^tests/')
    done
    for header in include/replog/*.h; do
        echo "#include \"$header\"" |
            g++ -std=c++11 -fsyntax-only -Wall -Wextra -Wpedantic -Werror -Iinclude -I. -x c++ - ||
            { echo "$header (as C++)"; bad=1; }
    done
    return $bad
}

check_shell() {
    local file bad=0
    while read -r file; do
        bash -n "$file" || bad=1
    done < <(find deploy tests .ci -type f \( -name '*.sh' -o -path .ci/run \))
    return $bad
}

# A clone must build and test anywhere: no absolute places of somebody's machine.
check_paths() {
    local files found
    mapfile -d '' -t files < <(find . \( -path ./.git -o -path './build*' -o -name __pycache__ \) \
        -prune -o -type f ! -path ./tests/lint.sh -print0)
    [ "${#files[@]}" -gt 100 ] || { echo "only ${#files[@]} files"; return 1; }
    found=$(printf '%s\0' "${files[@]}" |
        xargs -0 grep -HInE '(^|[^[:alnum:]_.-])(/home/[a-z]+|/root)/' 2>&1)
    [ -z "$found" ] || { echo "$found"; return 1; }
}

failed=0
for name in "${checks[@]}"; do
    declare -F "check_$name" >/dev/null || { echo "lint.sh: no check named $name" >&2; exit 2; }
    why=""
    log=$(mktemp)
    "check_$name" >"$log" 2>&1
    case $? in
    0) echo "ok lint $name" ;;
    77) echo "skipped lint $name: $why" ;;
    *) echo "FAILED lint $name"; tail -n 40 "$log"; failed=1 ;;
    esac
    rm -f "$log"
done
exit $failed
