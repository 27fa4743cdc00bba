#!/bin/sh
# Run the test suite on SQLite and, beside it, on PostgreSQL where that is
# installed, and report the branch coverage of both together.
# With CI=true a missing PostgreSQL or Redis is an error, not a shorter run.
# Arguments are pytest's.
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
databases=sqlite
if find_postgresql >/dev/null; then
    databases="sqlite postgresql"
elif [ "${CI:-}" = true ]; then
    echo "CI=true asks for PostgreSQL, and its programs were not found." >&2
    exit 1
else
    echo "== PostgreSQL is not installed: its half of the tests is left out."
fi

logs=$(mktemp -d)
running=
stop() {
    [ -z "$running" ] || kill $running 2>/dev/null || true
    rm -rf "$logs"
}
trap stop EXIT
trap 'exit 130' INT TERM

# Coverage starts before pytest: pytest imports Ghost's plug-in early.
run_tests() {
    database=$1
    shift
    echo "== Tests on $database: ${*:-all}"
    env GHOST_TEST_DATABASE="$database" "$python" -m coverage run -m pytest "$@"
}

# Jobs wait for clocks and processes most of the time: on both databases, one after the other.
run_jobs() {
    failed=0
    for database in $databases; do
        run_tests "$database" tests/jobs || failed=$?
    done
    return "$failed"
}

begin() {
    name=$1
    shift
    ("$@") >"$logs/$name" 2>&1 &
    running="$running $!"
}

"$python" -m coverage erase
# All of it waits for servers and disks much of the time, so the parts run side by side.
if [ $# -gt 0 ]; then
    for database in $databases; do
        begin "$database" run_tests "$database" "$@"
    done
else
    for database in $databases; do
        begin "$database" run_tests "$database" --ignore=tests/jobs
    done
    begin jobs run_jobs
fi
code=0
for process in $running; do
    wait "$process" || code=$?
done
running=
cat "$logs"/*
[ "$code" -eq 0 ] || exit "$code"
"$python" -m coverage combine --quiet
"$python" -m coverage report
