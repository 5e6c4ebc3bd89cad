# `make run` and `make test` need nothing before them but Python 3.11 to 3.13. `make help` lists all targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
TORCH ?= cu130
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

# No library's telemetry, in anything that runs from here (scadm/__init__.py says the same to bare Python).
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true

# Two files of tests side by side, in the order that tests/conftest.py gives them.
PYTEST := python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help run ui test test-cluster test-faults test-unit lint two-nodes bench-model bench-quickstart ablation bench-scaling bench-data on-paper services image env env-dev clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

run: env ## the whole pipeline by `dvc repro`: about 3 min of set-up once, then about 11 min on two cores
	@echo "== dvc repro: ten stages, about 11 minutes on two cores; finished stages are skipped =="
	dvc repro
	@echo "== done. The report: reports/index.html. Runs and models: make ui =="

ui: env ## the MLflow UI on http://127.0.0.1:5000 (Ctrl-C ends it)
	mlflow ui --backend-store-uri sqlite:///$(CURDIR)/storage/mlflow.db --host 127.0.0.1 --port 5000

test: env-dev ## all tests but those of a cluster and of faults: about 4 min of set-up once, then about 20 min on two cores
	@echo "== pytest: unit tests, then real runs of the pipeline; about 20 minutes on two cores =="
	$(PYTEST) -m "not cluster and not faults"

test-cluster: env-dev ## stages as jobs of real Rays on this machine, one of two nodes: about 20 min on two cores
	python -m pytest -m cluster

test-unit: env-dev ## the tests without whole runs of the pipeline: under 3 min
	$(PYTEST) -m "not slow and not cluster and not faults"

test-faults: env-dev ## workers, drivers and nodes killed at every moment, and 20 random kills, which alone take about 20 min
	python -m pytest -m faults

lint: env-dev ## ruff and pyright
	ruff check . && ruff format --check . && pyright

bench-model: env ## the model against direct baselines at the published size: about 20 min on two cores, 12 GB of memory
	python -m benchmarks.model

bench-quickstart: env ## what each choice of the quickstart is worth, by `dvc exp run`: about an hour on two cores
	python -m benchmarks.quickstart

ablation: env ## three forms of mask attention and SDM, three trainings each, into the report: about an hour on two cores
	python -m benchmarks.ablation
	dvc repro report

bench-scaling: env ## two workers, Ray, tracking and checkpoints against bare trainers, after `make run`
	python -m benchmarks.scaling

bench-data: env ## data stages and loader against plain loops, after `make run`: about 40 min on two cores, 6 GB of disk
	python -m benchmarks.data

on-paper: env ## what the paper's training takes on 1, 8 and 64 GPUs, reckoned: printed, and put into infra/README.md
	python -m infra.on_paper --write

services: ## MLflow, PostgreSQL and an S3 store on this machine, by docker compose; needs infra/.env
	@test -f infra/.env || { echo "infra/.env is not there: cp infra/.env.example infra/.env, and put a value behind each ="; exit 1; }
	docker compose -f infra/compose.yaml up --build --detach --wait

image: ## the image of Ray nodes and jobs, scadm:$(TORCH); `make image TORCH=cpu` makes the one without CUDA
	docker build -f infra/Dockerfile --build-arg TORCH=$(TORCH) -t scadm:$(TORCH) .

two-nodes: env-dev ## the quickstart's training on two Ray nodes made here, with S3 and MLflow servers; SHORT=1: smoke, 3 min
	python -m infra.two_nodes $(if $(SHORT),--short)

env: $(VENV)/.core ## the environment of `make run`
env-dev: $(VENV)/.dev ## the environment of `make test`

$(VENV)/.core: pyproject.toml constraints.txt
	@echo "== making the environment in $(VENV): about 3 minutes, once =="
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed, $(PYTHON) is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "== adding what the tests need: about a minute, once =="
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# For whoever installs '.[faces]' or '.[metrics]' beside a CPU torch by hand: this mends what then fails.
	$(BIN)/python infra/torchvision_on_cpu.py
	@touch $@

clean: ## remove what the stages have written; runs, checkpoints and the MLflow store in storage/ stay
	rm -rf data models reports .work
