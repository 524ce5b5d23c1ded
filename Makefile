# Everything a contributor types. `make` alone lists it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
SETUP := $(VENV)/.set-up

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench results-align docs starter locks clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 20

setup: $(SETUP) ## make .venv with everything in it (once: some minutes, most of it llama.cpp)

$(SETUP): setup.cfg pyproject.toml packaging/locks/dev.txt packaging/make_venv.sh packaging/install_converter.py
	PYTHON=$(PYTHON) bash packaging/make_venv.sh $(VENV)
	@touch $@

demo: $(SETUP) ## the whole main job on real images; ARGS="--fast" for a quick look
	$(BIN)/cloche demo $(ARGS)

test: $(SETUP) ## all tests but the GPU's; ARGS="tests/audit -k seal" for some
	$(BIN)/python -m pytest $(ARGS)

lint: $(SETUP) ## style, types and the four floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy audit train synth appliance packaging/install_converter.py
	$(BIN)/lint-imports

bench: $(SETUP) ## benchmarks, each a ratio against a peer
	@set -e; for file in tests/benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file; done

results-align: $(SETUP) ## the alignment experiment of docs/results.md (hours; QUICK=1: an hour); ARGS="--seeds 3"
	$(BIN)/python -m appliance.results.align $(if $(QUICK),--quick) $(ARGS)

docs: $(SETUP) ## write docs/commands.md from the commands' own help, docs/events.md from the catalogue
	$(BIN)/python -m appliance.cli.reference > docs/commands.md.new
	mv docs/commands.md.new docs/commands.md
	$(BIN)/python -m audit.kinds_page > docs/events.md.new
	mv docs/events.md.new docs/events.md

starter: $(SETUP) ## train the starter model again (hours on two cores)
	$(BIN)/python -m appliance.starter.recipe $(ARGS)

locks: ## write packaging/locks again from setup.cfg (needs uv)
	bash packaging/lock.sh

clean: ## remove what was made here, but .venv (rm -r .venv takes that too)
	rm -rf demo-output results-output build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find appliance synth train audit packaging tests -name __pycache__ -type d -prune -exec rm -rf {} +
