# `make repro`, `make test` and `make test-slow` do all set-up first; everything they install goes into .venv.
PYTHON ?= python3.11
PROFILE ?= default
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup repro test test-slow lint ui

setup: .venv/ready

# Compiled on all cores, which pip does on one; a few templates in the packages are not Python.
.venv/ready: pyproject.toml constraints.txt
	@echo "installing the packages of constraints.txt into .venv, a minute or more"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 .venv || true
	touch $@

repro: setup
	@test -f profiles/$(PROFILE) || { echo "PROFILE=$(PROFILE): expected one of: $$(ls profiles)"; exit 1; }
	@git diff --quiet params.yaml || { echo "params.yaml differs from the commit:"; git --no-pager diff -U0 params.yaml; }
	@if [ -s profiles/$(PROFILE) ]; then \
	  dvc exp run $$(sed 's/^/-S /' profiles/$(PROFILE)) && \
	  echo "params.yaml now holds the $(PROFILE) profile; git restore params.yaml takes it back"; \
	else dvc repro; fi
	@echo "report: metrics/report.html; runs: make ui"

test: setup
	pytest -m 'not slow'

# The pipeline under DVC and MLflow on the real data, and the real teacher against its reference.
test-slow: setup
	pytest -m slow

lint: setup
	ruff check .
	ruff format --check .
	pyright

ui: setup
	store=$$(python -m fisher_ld.run.tracking) && \
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 --host 127.0.0.1 --backend-store-uri "$$store"
