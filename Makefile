# Every target that needs .venv creates it from requirements.lock, once.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Python keeps what it has compiled, whatever the environment says: commands and tests start many processes.
unexport PYTHONDONTWRITEBYTECODE
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
demo: $(STAMP) ## Load trades of a sandbox exchange, build models, print candles, show the page
	@$(BIN)/tape demo

.PHONY: up
up: $(STAMP) ## Start the embedded ClickHouse; its data is in .tape/
	@$(BIN)/tape up

.PHONY: down
down: $(STAMP) ## Stop the embedded ClickHouse and what the demo left running
	@$(BIN)/tape down

.PHONY: run
run: $(STAMP) ## Load new trades, then build the models of $CLICKHOUSE_MODE
	@$(BIN)/dlt pipeline run
	@$(BIN)/dbt build --target $(CLICKHOUSE_MODE)

.PHONY: serve
serve: $(STAMP) ## Serve the HTTP API and the page on http://127.0.0.1:8124: make serve ARGS_SERVE="--port 9000"
	@$(BIN)/tape serve $(ARGS_SERVE)

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

.PHONY: pictures
pictures: $(STAMP) ## Take the README's pictures of the page, while `make demo` is alive; needs Chromium
	@$(BIN)/python docs/pictures.py

.PHONY: test
test: lint ## Lint and run every test
	$(BIN)/pytest -n 2 --dist loadscope $(PYTEST_ARGS)

.PHONY: test-fast
# Nearly all tests of the ignored folders need dbt, which takes seconds to import in each process.
test-fast: $(STAMP) ## Run the tests that need no server: about a minute
	HYPOTHESIS_PROFILE=fast $(BIN)/pytest -n 2 --dist loadscope --ignore tests/dbt --ignore tests/retention --ignore tests/schema -m "not clickhouse and not edge and not moto and not browser and not process and not slow" $(PYTEST_ARGS)

.PHONY: test-slow
test-slow: $(STAMP) ## Run the tests that take minutes, for example killing a backfill 30 times
	$(BIN)/pytest -m "slow and not heavy" -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

.PHONY: test-heavy
test-heavy: $(STAMP) ## Run the tests that repeat a slow test on a larger scale, before a release
	$(BIN)/pytest -m heavy -n 2 --dist loadfile $(PYTEST_ARGS)

.PHONY: test-wheel
test-wheel: $(STAMP) ## Build the wheel, install it into an empty environment and try its commands
	@.ci/wheel

.PHONY: coverage
coverage: $(STAMP) ## Run the tests and print the branch coverage of extract/
	$(BIN)/pytest -n 2 --dist loadscope --cov --cov-report=term $(PYTEST_ARGS)

.PHONY: bench
bench: bench-storage bench-models bench-extract bench-serve ## Run the benchmarks of storage, models, extraction and the API, one after the other

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

.PHONY: bench-growth
bench-growth: $(STAMP) ## Measure what a thousand runs with 5,000 live instruments add to ClickHouse and read there
	@$(BIN)/python -m bench.growth $(BENCH_GROWTH)

.PHONY: bench-scale
bench-scale: $(STAMP) ## Measure memory and time of load, first build, dbt build and audit at ten times the history
	@$(BIN)/python -m bench.scale $(BENCH_SCALE)

.PHONY: bench-serve
bench-serve: $(STAMP) ## Measure requests per second and latency of the API on 10 million trades: make bench-serve BENCH_SERVE="--trades 1000000"
	@$(BIN)/python -m bench.serve $(BENCH_SERVE)

.PHONY: bench-export
bench-export: $(STAMP) ## Measure time and memory of an export of 10 million trades: make bench-export BENCH_EXPORT="--times 2"
	@$(BIN)/python -m bench.export $(BENCH_EXPORT)

.PHONY: bench-backup
bench-backup: $(STAMP) ## Measure backup and restore: make bench-backup BENCH_BACKUP="--trades 5000000"
	@$(BIN)/python -m bench.backup $(BENCH_BACKUP)

.PHONY: soak
soak: $(STAMP) ## Load, read, back up and kill for minutes: make soak SOAK="--minutes 60"
	@$(BIN)/python -m bench.soak $(SOAK)

.PHONY: lint
lint: $(STAMP) ## Check style, types, layers, dependencies, SQL and templates
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint-python lint-dbt

.PHONY: lint-python
lint-python:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry extract

.PHONY: lint-dbt
lint-dbt:
	$(BIN)/sqlfluff lint dbt_project
	$(BIN)/dbt --quiet parse --target local --target-path $(CURDIR)/.tape/manifest --log-path $(CURDIR)/.tape/manifest
	$(BIN)/dbt-bouncer run --config-file dbt-bouncer.yml
	$(BIN)/cfn-lint --regions us-west-2 --include-checks I -t deploy/aws/template.yaml

.PHONY: format
format: $(STAMP) ## Format the Python
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: lock
lock: $(STAMP) ## Update requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 --all-extras --group dev pyproject.toml -o requirements.lock
