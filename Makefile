# One entry for each chore. Every target shares .venv, which the first one makes.
BIN := .venv/bin
READY := .venv/.ready
SEED ?= 1
SEEDS ?= 200
DEVICE ?= cpu
PYTEST := $(BIN)/python -m pytest

.PHONY: help setup demo train test test-slow test-fault test-gpu bench check format lock clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv, once; PYTHON=... chooses the interpreter
	@:

$(READY): requirements.txt pyproject.toml
	@PYTHON="$(PYTHON)" infra/setup/venv.sh
	@touch $@

demo: $(READY) ## a model learns from a Kafka stream, cites, is restored, corrected and told to forget; SEED=1
	@$(BIN)/python -m jobs.demo --seed $(SEED)

train: $(READY) ## train the embedded model's memory; run again to go on; ARGS="--hours 6 --threads 4"
	@$(BIN)/python -m jobs.train $(ARGS)

test: $(READY) ## unit, integration, load and fault tests; ARGS="-k source", or side by side ARGS="-n auto --no-loadscope-reorder"
	$(PYTEST) -m "not slow and not gpu" $(ARGS)

test-slow: $(READY) ## the tests that take minutes
	$(PYTEST) -m "slow and not gpu" $(ARGS)

test-fault: $(READY) ## seeded faults on Apache Kafka and an S3 server, JSON of each; SEEDS=200, or SEED=7 alone; ARGS="--out seeds.json"
	$(BIN)/python -m tests.faults $(if $(filter command line,$(origin SEED)),--seed $(SEED),--seeds $(SEEDS)) $(ARGS)

test-gpu: $(READY) ## the tests that need a CUDA device
	$(PYTEST) -m gpu $(ARGS)

bench: $(READY) ## what an answer costs: by blocks remembered, together, under load; a restore; followers; the way from Kafka; 100,000 updates; DEVICE=cuda
	$(BIN)/python -m benchmarks.bench_blocks --device $(DEVICE) $(ARGS)
	$(BIN)/python -m benchmarks.bench_batch --device $(DEVICE)
	$(BIN)/python -m benchmarks.bench_load --device $(DEVICE)
	$(BIN)/python -m benchmarks.bench_http
	$(BIN)/python -m benchmarks.bench_restore
	$(BIN)/python -m benchmarks.bench_followers
	$(BIN)/python -m benchmarks.bench_stream
	$(BIN)/python -m benchmarks.bench_updates

check: $(READY) ## lint, format, types, layers, known vulnerabilities of what is locked
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python infra/setup/audit.py requirements.txt

format: $(READY) ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(READY) ## bring requirements.txt up to date with pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --generate-hashes --python-version 3.11 --no-header -o requirements.txt

clean: ## remove everything made here, .venv included; runs/ stays
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache demo.json demo-data
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
