"""The dbt project, run in this process: parsed once for many runs, so that generated histories stay affordable."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from dbt.adapters.clickhouse import dbclient
from dbt.cli.main import dbtRunner, dbtRunnerResult

from extract.clickhouse.client import Database
from extract.clickhouse.settings import clickhouse_settings
from extract.paths import ROOT
from harness.raw_tables import create_raw_database

PROJECT_DIR = ROOT / "dbt_project"
TABLES = ("--select", "internal")
"""Options of a command that only has to compare and complete the tables: a third of the models."""
QUIET = ("--log-level", "none")  # events still reach the callback


@dataclass
class Models:
    """The rows of the models on one ClickHouse, as a reader sees them."""

    client: Client

    def rows(self, query: str) -> list[dict[str, Any]]:
        return list(self.client.query(query).named_results())

    def candles(self, level: str) -> dict[tuple[str, Any], dict[str, Any]]:
        """Candles of a level by (instrument_name, bucket_at)."""
        rows = self.rows(f"SELECT * FROM deribit.ohlcv_{level}")
        assert len({(row["instrument_name"], row["bucket_at"]) for row in rows}) == len(rows)
        return {(row.pop("instrument_name"), row.pop("bucket_at")): row for row in rows}


@dataclass
class Project(Models):
    """The dbt project on one ClickHouse; dbt writes its artifacts to `scratch`."""

    scratch: Path
    project_dir: Path = PROJECT_DIR
    target: str = "local"
    runner: dbtRunner = field(init=False)
    logged: list[str] = field(default_factory=list)
    """Messages that macros logged for users."""
    definitions: set[str] = field(default_factory=set)
    """The statements that create all tables and views, as dbt built them for `empty`."""

    def __post_init__(self) -> None:
        self.runner = dbtRunner()
        if self.target == "local":
            self.fresh()
        self.runner = dbtRunner(manifest=self.must("parse").result, callbacks=[self._on_event])

    @property
    def database(self) -> Database:
        return Database(self.client, clickhouse_settings())

    def _on_event(self, event: Any) -> None:
        if event.info.name == "JinjaLogInfo":
            self.logged.append(event.data.msg)

    def invoke(self, command: str, *args: str) -> dbtRunnerResult:
        """Run `dbt command args` and return its result, failed or not."""
        return self.runner.invoke(
            run_words(command, self.scratch, *args, project=self.project_dir, target=self.target)
        )

    def run(self, *args: str) -> None:
        """Run `dbt run args`; raises AssertionError with dbt's messages."""
        self.must("run", *args)

    def must(self, command: str, *args: str) -> dbtRunnerResult:
        """Run `dbt command args`; raises AssertionError with dbt's messages."""
        result = self.invoke(command, *args)
        assert result.success, failures(result) or result.exception
        return result

    def fresh(self) -> None:
        """Drop everything and create empty raw tables."""
        self.client.command("DROP DATABASE IF EXISTS deribit SYNC")
        self.client.command("CREATE DATABASE deribit")  # dbt's connections stay open and name it
        create_raw_database(self.client)

    def empty(self) -> None:
        """Provide every model, built, and every table without rows.

        dbt builds them in the first call. Later ones create them again if they are not as dbt built them.
        """
        if not self.definitions:
            self.fresh()
            self.run()
            self.definitions = self._current_definitions()
        elif self._current_definitions() != self.definitions:
            self._restore()
        tables = self.rows(
            "SELECT database, name FROM system.tables "
            "WHERE database IN ('deribit', 'deribit_raw') AND engine LIKE '%MergeTree' AND total_rows > 0"
        )
        for table in tables:
            self.client.command(f"TRUNCATE TABLE {table['database']}.{table['name']} SYNC")

    def _current_definitions(self) -> set[str]:
        """The statements that create the tables and views."""
        rows = self.rows(
            "SELECT create_table_query FROM system.tables WHERE database IN ('deribit', 'deribit_raw')"
        )
        return {row["create_table_query"] for row in rows}

    def _restore(self) -> None:
        self.fresh()
        self.client.command("DROP DATABASE deribit_raw SYNC")
        self.client.command("CREATE DATABASE deribit_raw")
        self._create_all(self.definitions)

    def create_models(self) -> None:
        """Create the tables and views of the models without rows, as another build does."""
        self._create_all({each for each in self.definitions if " deribit." in each.partition("(")[0]})

    def _create_all(self, pending: set[str]) -> None:
        """A view needs the tables and views that it reads."""
        while pending:
            postponed = {statement for statement in pending if not self._create(statement)}
            assert postponed < pending, postponed
            pending = postponed

    def _create(self, statement: str) -> bool:
        try:
            self.client.command(statement)
        except DatabaseError:
            return False
        return True


def copy_project(folder: Path) -> Path:
    """Copy the dbt project, for a test that edits it, to `folder`/project."""
    return shutil.copytree(
        PROJECT_DIR, folder / "project", ignore=shutil.ignore_patterns("target", "logs", "profiles.yml")
    )


def forget_databases() -> None:
    """Clear the adapter's cache of existing databases, which is by name only and wrong on another server."""
    dbclient._ensured_databases.clear()


def run_words(
    command: str, scratch: Path | str, *args: str, project: Path = PROJECT_DIR, target: str = "local"
) -> list[str]:
    """Arguments of `dbt command args` for the project on a target, with artifacts in `scratch`."""
    paths = ["--project-dir", project, "--profiles-dir", PROJECT_DIR]
    paths += ["--target-path", Path(scratch) / "target", "--log-path", Path(scratch) / "logs"]
    return [*command.split(), *args, *map(str, paths), "--target", target, *QUIET]


def failures(result: dbtRunnerResult) -> dict[str, str]:
    """Messages by name of the nodes that did not succeed."""
    return {
        node.node.name: node.message or ""
        for node in getattr(result.result, "results", None) or []
        if node.status not in ("success", "pass", "no-op")
    }
