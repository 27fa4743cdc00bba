#!/bin/sh
# Run the test suite on SQLite and, beside it, on PostgreSQL where that is
# installed, and report the branch coverage of both together.
# With CI=true a missing PostgreSQL or Redis is an error, not a shorter run.
set -eu

cd "$(dirname "$0")/.."
python=${GHOST_TEST_PYTHON:-.venv/bin/python}

find_postgresql() {
    command -v initdb && return
    for folder in /usr/lib/postgresql/*/bin /usr/local/pgsql/bin /opt/homebrew/opt/postgresql*/bin \
        /usr/local/opt/postgresql*/bin /opt/local/lib/postgresql*/bin; do
        [ -x "$folder/initdb" ] && echo "$folder/initdb" && return
    done
    return 1
}

if [ "${CI:-}" = true ] && ! command -v redis-server >/dev/null && ! command -v valkey-server >/dev/null; then
    echo "CI=true asks for a real redis-server, and none is installed." >&2
    exit 1
fi

log=$(mktemp)
other=
stop() {
    [ -z "$other" ] || kill "$other" 2>/dev/null || true
    rm -f "$log"
}
trap stop EXIT
trap 'exit 130' INT TERM

# Coverage starts before pytest: pytest imports Ghost's plug-in early.
run_tests() {
    database=$1
    shift
    exec env GHOST_TEST_DATABASE="$database" "$python" -m coverage run -m pytest "$@"
}

"$python" -m coverage erase
# Both halves wait for servers, clocks and disks most of the time, so they run side by side.
if find_postgresql >/dev/null; then
    (run_tests postgresql "$@") >"$log" 2>&1 &
    other=$!
elif [ "${CI:-}" = true ]; then
    echo "CI=true asks for PostgreSQL, and its programs were not found." >&2
    exit 1
fi
code=0
echo "== Tests on SQLite"
(run_tests sqlite "$@") || code=$?
if [ -n "$other" ]; then
    echo "== Tests on PostgreSQL"
    wait "$other" || code=$?
    other=
    cat "$log"
else
    echo "== PostgreSQL is not installed: its half of the tests was left out."
fi
[ "$code" -eq 0 ] || exit "$code"
"$python" -m coverage combine --quiet
"$python" -m coverage report
