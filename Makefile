# `make repro`, `make test` and `make test-slow` do all set-up first; what they install goes into .venv.
PYTHON ?= python3.11
PROFILE ?= default
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup sasrec clone profile repro test test-slow faults realdata lint ui server demo

setup: .venv/ready

# Compiled on all cores, which pip does on one; a few templates in the packages are not Python.
.venv/ready: pyproject.toml constraints.txt
	@echo "installing the packages of constraints.txt into .venv, a minute or more"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 .venv || true
	touch $@

# For `rivals.sasrec: true`: RecBole with what it runs on, which does not go with ours.
sasrec: .venv-recbole/ready

.venv-recbole/ready: Makefile
	@echo "installing RecBole into .venv-recbole, a minute or more"
	$(PYTHON) -m venv --clear .venv-recbole
	.venv-recbole/bin/pip install --quiet recbole==1.2.1 torch==2.13.0 ray==2.6.3 numpy==1.26.4 pandas==2.3.3 \
	  pyarrow==25.0.1 scipy==1.17.1 scikit-learn==1.9.1
	touch $@

# Before all set-up, for DVC works in a clone only.
clone:
	@git rev-parse --verify --quiet HEAD >/dev/null || { echo "this folder has no commit of git, which DVC needs: \
	clone the project with git, or run here: git init && git add -A && git commit -m start"; exit 1; }

profile:
	@case " $(notdir $(wildcard profiles/*)) " in *" $(PROFILE) "*) ;; \
	*) echo "PROFILE=$(PROFILE): expected one of: $(notdir $(wildcard profiles/*))"; exit 1;; esac

repro: clone profile setup
	@git diff --quiet params.yaml || { echo "params.yaml differs from the commit:"; git --no-pager diff -U0 params.yaml; }
	python -m fisher_ld.run.cells --profile "profiles/$(PROFILE)"
	@test ! -s profiles/$(PROFILE) || echo "params.yaml now holds the $(PROFILE) profile; git restore params.yaml takes it back"
	@echo "report: metrics/report.html; runs: make ui"

test: setup
	pytest -m 'not slow and not faults and not realdata'

# The pipeline under DVC and MLflow on the real data, with the first layers of the real teacher. As root it installs SLURM
# by apt-get, where there is none.
test-slow: setup
	pytest -m slow

# Tables of shops below FISHER_LD_DATA, each to its report with a tiny random teacher.
realdata: setup
	pytest -m realdata -rs

# What a machine, a file or a person may do wrong, one by one: tests/faults/table.py.
faults: setup
	pytest tests/faults

lint: setup
	ruff check .
	ruff format --check .
	pyright

ui: setup
	store=$$(python -m fisher_ld.run.tracking) && \
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 --host 127.0.0.1 --backend-store-uri "$$store"

# For cells that run on several machines. It answers to the names and addresses of this machine, and to HOST.
HOST ?= $(shell hostname -f 2>/dev/null || hostname)
server: setup
	@echo "in params.yaml, under tracking:  uri: http://$(HOST):5000"
	hosts=$$(printf '%s:5000,' $(HOST) $$(hostname) localhost 127.0.0.1 $$(hostname -I)) && \
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --workers 1 --host 0.0.0.0 --port 5000 \
	  --backend-store-uri sqlite:///mlflow.db --artifacts-destination mlruns --allowed-hosts "$${hosts%,}"

# Of the first student there is, beside its teacher; MODEL=data/DATA/students/... names another.
MODEL ?= $(firstword $(wildcard data/*/students/*/fisher-ld/[0-9]* data/*/students/*/*/[0-9]*))
demo: setup
	@test -n "$(MODEL)" || { echo "no student below data/: run make repro first"; exit 1; }
	fisher-ld serve --open $(MODEL) --teacher $(firstword $(wildcard $(word 1,$(subst /students/, ,$(MODEL)))/teacher/[0-9]*))
