#!/bin/sh
# Write requirements.lock from pyproject.toml: the run-time packages and those
# of the extra "dev", for every system and Python from 3.11 on, with hashes.
# Versions already locked are kept; UPGRADE=1 takes the newest of everything.
set -eu

cd "$(dirname "$0")/.."
.venv/bin/python -m pip install --quiet "uv>=0.13"
.venv/bin/python -m uv pip compile pyproject.toml --extra dev \
    --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
    ${UPGRADE:+--upgrade} --quiet --output-file requirements.lock
