#!/bin/sh
# Run the test suite on SQLite and then, where PostgreSQL is installed, on
# PostgreSQL, and report the branch coverage of both together.
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

"$python" -m coverage erase
# Coverage starts before pytest: pytest imports Ghost's plug-in early.
echo "== Tests on SQLite"
GHOST_TEST_DATABASE=sqlite "$python" -m coverage run -m pytest "$@"
if find_postgresql >/dev/null; then
    echo "== Tests on PostgreSQL"
    GHOST_TEST_DATABASE=postgresql "$python" -m coverage run -m pytest "$@"
elif [ "${CI:-}" = true ]; then
    echo "CI=true asks for PostgreSQL, and its programs were not found." >&2
    exit 1
else
    echo "== PostgreSQL is not installed: its half of the tests was left out."
fi
"$python" -m coverage combine --quiet
"$python" -m coverage report
