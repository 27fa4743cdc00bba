# Everything that is done with this repository; `make help` tells what.
# It needs Python 3.11 or newer (with venv) and make, nothing else.

.DEFAULT_GOAL := help
.PHONY: help setup run test lint format typecheck faults check lock

VENV := .venv
PYTHON := $(VENV)/bin/python
# Written last by scripts/setup.sh, so an installation that was cut short is begun again.
INSTALLED := $(VENV)/.installed

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Make .venv and install what requirements.lock names

run: $(INSTALLED) ## Run the API, the worker, the scheduler and what they need; Ctrl-C stops it all
	@exec $(PYTHON) -m flask dev

test: $(INSTALLED) ## Run the tests on SQLite, and on PostgreSQL where it is installed
	@exec sh scripts/test.sh

lint: $(INSTALLED) ## Look for mistakes and untidy code
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: $(INSTALLED) ## Tidy the code
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

typecheck: $(INSTALLED) ## Check the type annotations
	$(PYTHON) -m mypy

faults: $(INSTALLED) ## Kill workers, schedulers and Redis at random, fill a disk: nothing may be lost
	$(PYTHON) scripts/faults/jobs.py --jobs 10000 --kills 50
	$(PYTHON) scripts/faults/schedules.py --minutes 5
	$(PYTHON) scripts/faults/mail.py --messages 1000 --kills 5
	$(PYTHON) scripts/faults/uploads.py --megabytes 200 --cuts 3 --kills 2
	$(PYTHON) scripts/faults/files.py --uploads 500 --kills 50
	$(PYTHON) scripts/faults/files.py --uploads 20 --full

check: lint typecheck test ## Everything that must be green before a commit

lock: $(INSTALLED) ## Write requirements.lock anew from pyproject.toml
	@exec sh scripts/lock.sh

$(INSTALLED): requirements.lock pyproject.toml scripts/setup.sh
	@exec sh scripts/setup.sh $(VENV) $@
