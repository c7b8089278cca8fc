# Every target sets itself up: .venv is made from requirements.lock the first time, and only then.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export CLICKHOUSE_MODE ?= local
export DBT_PROJECT_DIR := $(CURDIR)/dbt_project
export DBT_PROFILES_DIR := $(CURDIR)/profiles
ARGS ?= build --target $(CLICKHOUSE_MODE)

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.lock pyproject.toml
	@PYTHON=$(PYTHON) .ci/install

.PHONY: install
install: $(STAMP) ## Make .venv from requirements.lock

.PHONY: demo
demo: $(STAMP) ## From nothing to candles: ClickHouse, a sandbox exchange, trades, models, the result
	@$(BIN)/tape demo

.PHONY: up
up: $(STAMP) ## Start the embedded ClickHouse; data stays in .tape/
	@$(BIN)/tape up

.PHONY: down
down: $(STAMP) ## Stop the embedded ClickHouse
	@$(BIN)/tape down

.PHONY: run
run: $(STAMP) ## Fetch what is new, then build the models of $CLICKHOUSE_MODE
	@$(BIN)/dlt pipeline run
	@$(BIN)/dbt build --target $(CLICKHOUSE_MODE)

.PHONY: dbt
dbt: $(STAMP) ## Run dbt: make dbt ARGS="build --target local"
	@$(BIN)/dbt $(ARGS)

.PHONY: docs
docs: $(STAMP) ## Build the models' documentation: .tape/docs/static_index.html
	@$(BIN)/dbt --quiet docs generate --static --target $(CLICKHOUSE_MODE) --target-path $(CURDIR)/.tape/docs
	@echo "The models' documentation: .tape/docs/static_index.html"

.PHONY: test
test: lint ## Lint and run every test
	$(BIN)/pytest -n 2 --dist loadscope $(PYTEST_ARGS)

.PHONY: test-slow
test-slow: $(STAMP) ## The proofs that take minutes, for example 30 kills of a backfill
	$(BIN)/pytest -m slow $(PYTEST_ARGS)

.PHONY: bench
bench: bench-storage bench-models bench-extract ## Measure what is promised, one after the other; each by itself: make bench-models

.PHONY: bench-extract
bench-extract: $(STAMP) ## Time extraction against ClickHouse itself and plain dlt: make bench-extract BENCH="--trades 500000"
	@$(BIN)/python -m bench.extract $(BENCH)

.PHONY: bench-storage
bench-storage: $(STAMP) ## Bytes per trade beside the best known layout: make bench-storage BENCH_STORAGE=--codecs
	@$(BIN)/python -m bench.storage $(BENCH_STORAGE)

.PHONY: bench-layout
bench-layout: $(STAMP) ## What other sort keys of the trades would read for three questions
	@$(BIN)/python -m bench.layout $(BENCH_LAYOUT)

.PHONY: bench-models
bench-models: $(STAMP) ## Cost of dbt build on ten times the history, and of an unchanged database
	@$(BIN)/python -m bench.models $(BENCH_MODELS)

.PHONY: lint
lint: $(STAMP) ## Lint the Python, the SQL and the templates
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/sqlfluff lint dbt_project
	$(BIN)/cfn-lint --regions us-west-2 --include-checks I -t deploy/aws/template.yaml

.PHONY: format
format: $(STAMP) ## Format the Python
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: lock
lock: $(STAMP) ## Pin requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 --group dev pyproject.toml -o requirements.lock
