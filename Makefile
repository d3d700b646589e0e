# Every target makes what it needs: a private .venv, filled from pyproject.toml and filled again when that changes.
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMPS := $(VENV)/stamps
PARALLEL := -n auto --maxprocesses 4 --dist loadgroup
# COVERAGE=1 make test measures lines and branches, too, and fails under 90 %.
MEASURED := $(if $(COVERAGE),-m coverage run)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install cli demo demo-audio quickstart test test-slow test-all sim-full lint format types docs bench bench-growth bench-realtime fuzz clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMPS)/dev ## the .venv with every tool, to work on EchoStream itself

cli: $(STAMPS)/cli ## the .venv with EchoStream and its command line, and no more

demo: $(STAMPS)/demo ## a server and a client that find each other, call, emit and move a file; then ten seconds of audio in step
	$(PYTHON) examples/demo.py
	$(PYTHON) -m examples.audio_sync --seconds 10

demo-audio: $(STAMPS)/demo ## a minute of audio on three receivers in step, measured and drawn; ARGS="--seconds 30 FILE"
	$(PYTHON) -m examples.audio_sync $(ARGS)

quickstart: | $(VENV)/bin/pip ## the quick start, exactly as its pages print it, on a clean clone; checks what comes out
	$(PYTHON) tests/quickstart.py

test: $(STAMPS)/test ## the tests, without those that take over a second
	$(if $(COVERAGE),$(PYTHON) -m coverage erase)
	$(PYTHON) $(MEASURED) -m pytest $(PARALLEL) -m "not slow"
	$(if $(COVERAGE),@$(PYTHON) -m coverage combine --quiet)
	$(if $(COVERAGE),$(PYTHON) -m coverage report)

test-slow: $(STAMPS)/test ## only the tests that take over a second
	$(PYTHON) -m pytest $(PARALLEL) -m slow

test-all: $(STAMPS)/test ## every test, with line and branch coverage of at least 90 %
	$(PYTHON) -m coverage erase
	$(PYTHON) -m coverage run -m pytest $(PARALLEL)
	@$(PYTHON) -m coverage combine --quiet
	$(PYTHON) -m coverage report

sim-full: $(STAMPS)/test ## large seeded storms in virtual time, with their figures as JSON; SEEDS=3 of them on each engine
	$(PYTHON) -m tests.testing.sim_full --seeds $(or $(SEEDS),3)

lint: $(STAMPS)/dev ## formatting and style
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .

format: $(STAMPS)/dev ## format and mend what can be mended by itself
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

types: $(STAMPS)/dev ## mypy --strict and pyright
	$(PYTHON) -m mypy --strict
	$(PYTHON) -m pyright --pythonpath $(PYTHON)

docs: $(STAMPS)/dev ## the documentation, in build/site
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet --config-file docs/mkdocs/mkdocs.yml

bench: $(STAMPS)/bench ## the benchmarks; ARGS="--quick --only P1,P6 --json FILE", see benches/README.md
	$(PYTHON) benches/run.py $(ARGS)

bench-growth: $(STAMPS)/bench ## half an hour of curves that must be flat or linear, drawn in build/plots
	$(PYTHON) benches/run.py --growth --plots build/plots --json build/growth.json $(ARGS)

bench-realtime: $(STAMPS)/bench ## clocks, jitter and playout in simulated networks, beside others on the same samples; ARGS="--quick --only G1"
	$(PYTHON) -m benches.realtime $(ARGS)

fuzz: $(STAMPS)/fuzz ## the fuzz targets, 1,000,000 executions of each; see tests/fuzz/run.py
	$(PYTHON) tests/fuzz/run.py --runs 1000000 --json build/fuzz.json

clean: ## remove what was made, the .venv included
	rm -rf $(VENV) build dist .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamped after it is filled, and pip comes last into a new .venv: what was interrupted is tried again.
$(STAMPS)/cli $(STAMPS)/demo $(STAMPS)/test $(STAMPS)/dev $(STAMPS)/bench $(STAMPS)/fuzz: pyproject.toml | $(VENV)/bin/pip
	$(PYTHON) -m pip install --quiet --editable '.[$(@F)]'
	@mkdir -p $(@D) && touch $@

$(VENV)/bin/pip:
	@for python in $${ECHOSTREAM_PYTHON:-python3} python3.14 python3.13 python3.12 python3.11; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "making $(VENV) with $$("$$python" --version)"; \
	        "$$python" -m venv $(VENV) && exit 0; \
	        rm -rf $(VENV); exit 1; \
	    fi; \
	done; \
	echo "EchoStream needs Python 3.11 or newer: none found as python3, python3.14 ... python3.11." >&2; \
	echo "Install one, or name it: make ECHOSTREAM_PYTHON=/path/to/python3 ..." >&2; exit 1
