# make demo and make test do all the set-up they need; a second call installs nothing again.
#
#   make demo          the three stages on synthetic matches, then unseen matches: results in runs/demo
#   make demo-scratch  the same without stages 1 and 2: results in runs/demo-scratch
#   make test          every test (make quick: those under 2 minutes), make lint: ruff
#   make sanitize      the kernels' tests under the address and undefined-behaviour sanitizers
#   make clean-demo    forget runs/demo and runs/demo-scratch, so that the next make demo trains anew
SHELL  := /bin/bash
.DELETE_ON_ERROR:
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(VENV)/bin/pip --disable-pip-version-check

# ---------------------------------------------------------------- set-up
# A check each, so that what is missing is named before pip or the compiler talk about it at length.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: Python 3.10 or newer is needed, '$(PYTHON)' is not; try: make PYTHON=python3.11 demo" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' has no venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt | $(VENV)/bin/python
	$(PIP) install -q -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(PIP) install -q -r requirements-dev.txt
	$(PIP) install -q --no-deps SoccerNet==0.2.0   # the official evaluator; its own needs are not needed
	@touch $@

$(VENV)/.kernels: setup.py $(wildcard csrc/*) $(VENV)/.run
	$(PY) setup.py -q build_ext --inplace
	@touch $@

# ---------------------------------------------------------------- checks
.PHONY: test quick lint sanitize
test: $(VENV)/.dev $(VENV)/.kernels lint
	$(PY) -m pytest -q

quick: $(VENV)/.dev $(VENV)/.kernels
	$(PY) -m pytest -q -m "not slow"

lint: $(VENV)/.dev
	$(PY) -m ruff check -q .
