#!/bin/sh
# Make the virtual environment and install exactly what requirements.lock names.
# Usage: scripts/setup.sh [folder of the environment] [stamp file]
set -eu

cd "$(dirname "$0")/.."
venv=${1:-.venv}
stamp=${2:-$venv/.installed}

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    for candidate in ${GHOST_PYTHON:-} python3.11 python3 python3.12 python3.13 python3.14 python; do
        if is_new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "Ghost needs Python 3.11 or newer, and none was found." \
        "On Debian or Ubuntu: sudo apt install python3 python3-venv" \
        "On macOS: brew install python@3.11, or sudo port install python311" \
        "Or name one: GHOST_PYTHON=/path/to/python make setup"
}

# An environment of an older Python, or one whose Python is gone, is made anew.
if ! is_new_enough "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python) || exit 1
    # Debian's python3 has no ensurepip until python3-venv is installed.
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        fail "$python cannot make a virtual environment: its modules venv and ensurepip are missing." \
            "On Debian or Ubuntu: sudo apt install python3-venv   (or python$version-venv)" \
            "Then type the same command again."
    fi
    echo "Making $venv with $python"
    "$python" -m venv --clear "$venv"
fi

# The lock names everything, so nothing is resolved: an older pip takes a package that is asked for
# with an extra (`flask[async]`) for another one, of its newest release, and then misses its hash.
# Compiling all of it takes longer than compiling what is imported, when it is.
echo "Installing the packages of requirements.lock"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$venv/bin/python" -m pip install --quiet --no-compile --no-deps --require-hashes -r requirements.lock
# The build backend comes from the lock too, so nothing unpinned is fetched here.
"$venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation --editable .
touch "$stamp"
