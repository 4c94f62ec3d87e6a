# Two commands: `make report` and `make test`. PYTHON chooses the interpreter, VENV the environment's folder.

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
LAB_OPTIONS ?=
TEST_PROCESSES ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.privlib-ready

.PHONY: help env data report test soak lab lint lock environment.yml clean
.DEFAULT_GOAL := help

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z.]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

env: $(STAMP)  ## the environment, from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@tools/setup_env.sh "$(PYTHON)" "$(VENV)" "$(STAMP)"

data: env  ## CIFAR-10 into the cache
	@start=$$(date +%s); $(BIN)/privlib data fetch && echo "data ready in $$(( $$(date +%s) - start )) s"

report: data  ## the notebooks in the quick profile, then results/report/index.html
	@start=$$(date +%s); code=0; \
	$(BIN)/privlib run --profile quick || code=$$?; \
	$(BIN)/privlib report || code=$$?; \
	echo "notebooks and report took $$(( $$(date +%s) - start )) s"; exit $$code

test: lint  ## lint, types and every test but the long counts
	@$(BIN)/python -m pytest -m "not soak" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

soak: env  ## the long counts: fuzzing, kills, launches, whole downloads; they leave a record
	@$(BIN)/python -m pytest -m soak --record

lab: env  ## JupyterLab on the notebooks, with this environment's kernel
	@$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)/notebooks" $(LAB_OPTIONS)

lint: env  ## ruff (notebooks too) and mypy
	@$(BIN)/ruff check .
	@$(BIN)/mypy

lock: environment.yml  ## resolve pyproject.toml again and pin what came out
	@"$(PYTHON)" tools/lock.py

environment.yml:  ## the conda way in, from pyproject.toml
	@"$(PYTHON)" tools/environment_yml.py

clean:  ## remove the environment and what tools left; results and the data cache stay
	rm -rf "$(VENV)" build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
