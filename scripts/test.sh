#!/bin/sh
# Run the test suite on SQLite and then on PostgreSQL where that is
# installed, and report the branch coverage of the run on SQLite.
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

# Coverage starts before pytest: pytest imports Ghost's plug-in early.
run_counted() {
    database=$1
    shift
    echo "== Tests on $database: ${*:-all}"
    exec env GHOST_TEST_DATABASE="$database" "$python" -m coverage run -m pytest "$@"
}

# The second time over the same lines are reached: to count them takes half as long again as the
# tests themselves.
run_uncounted() {
    database=$1
    shift
    echo "== Tests on $database: ${*:-all}"
    exec env GHOST_TEST_DATABASE="$database" "$python" -m pytest "$@"
}

# The same on each database, one after the other.
run_on_each() {
    failed=0
    for database in $databases; do
        run=run_counted
        [ "$database" = sqlite ] || run=run_uncounted
        ($run "$database" "$@") &
        trap "kill $!; exit 143" TERM
        wait $! || failed=$?
        # pytest's 5: none of these tests is about a database, and all ran with SQLite.
        [ "$database$failed" != postgresql5 ] || failed=0
    done
    return "$failed"
}

logs=$(mktemp -d)
running=
finish() {
    [ -z "$running" ] || kill $running 2>/dev/null || true # some may have ended
    cat "$logs"/* 2>/dev/null || true # whole, or as far as they came; there may be none
    rm -rf "$logs"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

begin() {
    name=$1
    shift
    ("$@") >"$logs/$name" 2>&1 &
    running="$running $!"
}

"$python" -m coverage erase
# All of it waits for servers, clocks and disks much of the time, jobs most of all. So three parts
# run side by side on two processors: one here, and the others' output follows at the end.
code=0
if [ $# -eq 0 ]; then
    begin jobs run_on_each tests/jobs
    begin rooms run_on_each tests/files tests/mail
    (run_on_each tests --ignore=tests/jobs --ignore=tests/files --ignore=tests/mail) || code=$?
else
    (run_on_each "$@") || code=$?
fi
for process in $running; do
    wait "$process" || code=$?
done
running=
finish
trap - EXIT
[ "$code" -eq 0 ] || exit "$code"
"$python" -m coverage combine --quiet
"$python" -m coverage report
