# Two commands: `make demo` and `make test`. Both set everything up first, in .venv and .cache.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench clean

help:  ## Say what there is.
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 10

.venv/.complete: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ptc_stream needs Python 3.11 or newer; set PYTHON=python3.x")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

.cache/msfc_ccd/.complete: tests/data/msfc_ccd.lock .venv/.complete
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
		--upgrade --target .cache/msfc_ccd -r tests/data/msfc_ccd.lock
	touch $@

setup: .venv/.complete .cache/msfc_ccd/.complete  ## Make the environment (.venv) and fetch the real frames of the tests.

demo: .venv/.complete  ## Simulate a camera run, process it live, compare with the truth.
	$(BIN)/ptc-stream demo

check: .venv/.complete  ## Format, lint and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: setup check  ## Everything that the gate runs.
	$(BIN)/python -m pytest

bench: setup  ## Speed, as ratios within one run.
	$(BIN)/python -m pytest tests/bench -m bench -o addopts=

clean:  ## Remove what the other targets made.
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis ptc-demo
