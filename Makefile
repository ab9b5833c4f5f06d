# make run   everything that is stale, on all cores
# make test  every check but the slow ones
# The first call sets up .venv from requirements.lock: make PYTHON=python3.12 run

PYTHON ?= python3
READY := .venv/.ready
UNFINISHED := .venv/.unfinished
# Scripts in .venv/bin name the folder they were installed in; modules survive a move.
PYTHON_HERE := .venv/bin/python
NEW_ENOUGH = $(shell $(PYTHON) -c 'import sys; print(sys.version_info >= (3, 11))' 2>/dev/null || true)

# snakefmt looks for shfmt on the PATH.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONPATH := $(CURDIR)/src
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test
.DEFAULT_GOAL := run

run: $(READY)
	@$(PYTHON_HERE) -m snakemake --cores all --resources gpu=2

# Two processes of one thread each: torch's threads wait for each other on busy cores.
test: $(READY)
	$(PYTHON_HERE) -m ruff check
	$(PYTHON_HERE) -m ruff format --check
	$(PYTHON_HERE) -m snakefmt --check Snakefile workflow
	$(PYTHON_HERE) -m mypy
	OMP_NUM_THREADS=1 $(PYTHON_HERE) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

# What an interrupted installation left behind may look whole to pip: begin again then.
$(READY): requirements.lock pyproject.toml
	$(if $(filter True,$(NEW_ENOUGH)),,$(error segtune needs Python 3.11 or newer and "$(PYTHON)" is not: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)))
	@if [ -e $(UNFINISHED) ]; then rm -rf .venv; fi
	$(PYTHON) -m venv .venv
	@touch $(UNFINISHED)
	.venv/bin/python -m pip install -r requirements.lock
	.venv/bin/python -m pip install --no-build-isolation --no-deps -e .
	@rm $(UNFINISHED)
	@touch $@
