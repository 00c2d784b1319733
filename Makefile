# `make help` lists the targets. PYTHON names another interpreter: `make PYTHON=python3.12 test`.

PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Five workers side by side in one session, with one total and one report of coverage: what touches the database and what
# looks from outside, each on SQLite and on PostgreSQL, and the rest. They wait much, so five are quicker on two cores.
BOTH_DATABASES := --dist each --max-worker-restart 0 \
	--tx popen//env:KABAR_TEST_DATABASE=postgresql//env:KABAR_TEST_PART=database \
	--tx popen//env:KABAR_TEST_DATABASE=postgresql//env:KABAR_TEST_PART=e2e \
	--tx popen//env:KABAR_TEST_DATABASE=sqlite//env:KABAR_TEST_PART=database \
	--tx popen//env:KABAR_TEST_DATABASE=sqlite//env:KABAR_TEST_PART=e2e \
	--tx popen//env:KABAR_TEST_DATABASE=sqlite//env:KABAR_TEST_PART=rest

.DEFAULT_GOAL := help
.PHONY: help demo run test test-fast lint format constraints clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "make %-12s %s\n", $$1, $$2 }'

demo: .venv/installed ## one real job through all four doors, with what each door received
	@$(BIN)/python -m config.demo

run: .venv/installed ## serve until Ctrl-C
	@$(BIN)/python -m config.run

test: .venv/installed-dev ## all tests, on SQLite and on PostgreSQL, with coverage
	@$(BIN)/python -m pytest --cov $(BOTH_DATABASES)

test-fast: .venv/installed-dev ## the tests on SQLite alone
	@$(BIN)/python -m pytest

# Django wants a data folder, also to look at the models: not the one that `make run` fills.
lint: export KABAR_DATA := .venv/lint
lint: .venv/installed-dev ## style, types, import directions, missing migrations
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "not formatted; make format does it" >&2; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@PATH=$(BIN):$$PATH $(BIN)/lint-imports --no-logo --no-cache > .venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }
	@$(BIN)/python manage.py makemigrations --check --dry-run --verbosity 1

format: .venv/installed-dev ## format the code, and mend what ruff can mend
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .

constraints: ## resolve the dependencies anew and pin them; with the oldest Python that Kabar runs on
	@rm -rf .venv/fresh
	@$(PYTHON) -m venv .venv/fresh
	@.venv/fresh/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@{ grep '^#' constraints.txt; .venv/fresh/bin/python -m pip freeze --exclude-editable; } > .venv/constraints.txt
	@mv .venv/constraints.txt constraints.txt
	@rm -rf .venv/fresh

clean: ## remove the environment and all caches; the data in var/ stays
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage .coverage.* *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment, made anew whenever what it is made of has changed.
.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing what Kabar needs into .venv ..."
	@$(PIP_INSTALL) --constraint constraints.txt --editable .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing what Kabar and its tests need into .venv ..."
	@$(PIP_INSTALL) --constraint constraints.txt --editable '.[dev]'
	@touch .venv/installed $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
		{ echo "Kabar needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
		{ echo "$(PYTHON) can't make virtual environments; on Debian: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
