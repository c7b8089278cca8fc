# Every target that needs .venv creates it from requirements.lock, once.
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
install: $(STAMP) ## Create .venv from requirements.lock

.PHONY: demo
demo: $(STAMP) ## Start ClickHouse and a sandbox exchange, load trades, build models, print candles
	@$(BIN)/tape demo

.PHONY: up
up: $(STAMP) ## Start the embedded ClickHouse; its data is in .tape/
	@$(BIN)/tape up

.PHONY: down
down: $(STAMP) ## Stop the embedded ClickHouse
	@$(BIN)/tape down

.PHONY: run
run: $(STAMP) ## Load new trades, then build the models of $CLICKHOUSE_MODE
	@$(BIN)/dlt pipeline run
	@$(BIN)/dbt build --target $(CLICKHOUSE_MODE)

.PHONY: dbt
dbt: $(STAMP) ## Run dbt: make dbt ARGS="build --target local"
	@$(BIN)/dbt $(ARGS)

.PHONY: docs
docs: $(STAMP) ## Build the dbt documentation: .tape/docs/static_index.html
	@$(BIN)/dbt --quiet docs generate --static --target $(CLICKHOUSE_MODE) --target-path $(CURDIR)/.tape/docs
	@echo "dbt documentation: .tape/docs/static_index.html"

.PHONY: cli-docs
cli-docs: $(STAMP) ## Generate docs/cli.md from the help of every command
	@$(BIN)/python -m extract.cli.reference

.PHONY: test
test: lint ## Lint and run every test
	$(BIN)/pytest -n 2 --dist loadscope $(PYTEST_ARGS)

.PHONY: test-fast
# Nearly all tests of the ignored folders need dbt, which takes seconds to import in each process.
test-fast: $(STAMP) ## Run the tests that need no server: about a minute
	HYPOTHESIS_PROFILE=fast $(BIN)/pytest -n 2 --dist loadscope --ignore tests/dbt --ignore tests/retention --ignore tests/schema -m "not clickhouse and not edge and not moto and not browser and not process and not slow" $(PYTEST_ARGS)

.PHONY: test-slow
test-slow: $(STAMP) ## Run the tests that take minutes, for example killing a backfill 30 times
	$(BIN)/pytest -m slow $(PYTEST_ARGS)

.PHONY: test-wheel
test-wheel: $(STAMP) ## Build the wheel, install it into an empty environment and try its commands
	@.ci/wheel

.PHONY: coverage
coverage: $(STAMP) ## Run the tests and print the branch coverage of extract/
	$(BIN)/pytest -n 2 --dist loadscope --cov --cov-report=term $(PYTEST_ARGS)

.PHONY: bench
bench: bench-storage bench-models bench-extract ## Run the benchmarks of storage, models and extraction, one after the other

.PHONY: bench-extract
bench-extract: $(STAMP) ## Compare extraction with ClickHouse's url() and plain dlt: make bench-extract BENCH="--trades 500000"
	@$(BIN)/python -m bench.extract $(BENCH)

.PHONY: bench-storage
bench-storage: $(STAMP) ## Measure bytes per trade against the best known layout: make bench-storage BENCH_STORAGE=--codecs
	@$(BIN)/python -m bench.storage $(BENCH_STORAGE)

.PHONY: bench-layout
bench-layout: $(STAMP) ## Compare sort keys of the trades by the rows that three queries read
	@$(BIN)/python -m bench.layout $(BENCH_LAYOUT)

.PHONY: bench-models
bench-models: $(STAMP) ## Measure dbt build on ten times the history and on an unchanged database
	@$(BIN)/python -m bench.models $(BENCH_MODELS)

.PHONY: lint
lint: $(STAMP) ## Check style, types, layers, dependencies, SQL and templates
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry extract
	$(BIN)/sqlfluff lint dbt_project
	$(BIN)/cfn-lint --regions us-west-2 --include-checks I -t deploy/aws/template.yaml

.PHONY: format
format: $(STAMP) ## Format the Python
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: lock
lock: $(STAMP) ## Update requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 --group dev pyproject.toml -o requirements.lock
