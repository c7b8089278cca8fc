"""The dbt project, run in this process: parsed once for many runs, so that generated histories stay affordable."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client
from dbt.adapters.clickhouse import dbclient
from dbt.cli.main import dbtRunner, dbtRunnerResult

from extract.clickhouse.client import Database
from extract.clickhouse.settings import clickhouse_settings
from extract.paths import ROOT
from harness.raw_tables import create_raw_database

PROJECT_DIR = ROOT / "dbt_project"
QUIET = ("--log-level", "none")  # events still reach the callback


@dataclass
class Project:
    """The dbt project on one ClickHouse; dbt writes its artifacts to `scratch`."""

    client: Client
    scratch: Path
    runner: dbtRunner = field(init=False)
    logged: list[str] = field(default_factory=list)
    """Messages that macros logged for users."""

    def __post_init__(self) -> None:
        self.runner = dbtRunner()
        self.fresh()
        manifest = self.must("parse").result
        self.runner = dbtRunner(manifest=manifest, callbacks=[self._on_event])

    @property
    def database(self) -> Database:
        return Database(self.client, clickhouse_settings())

    def _on_event(self, event: Any) -> None:
        if event.info.name == "JinjaLogInfo":
            self.logged.append(event.data.msg)

    def invoke(self, command: str, *args: str) -> dbtRunnerResult:
        """Run `dbt command args` and return its result, failed or not."""
        return self.runner.invoke(run_words(command, self.scratch, *args))

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

    def rows(self, query: str) -> list[dict[str, Any]]:
        return list(self.client.query(query).named_results())

    def candles(self, level: str) -> dict[tuple[str, Any], dict[str, Any]]:
        """Candles of a level by (instrument_name, bucket_at), as a reader sees them."""
        rows = self.rows(f"SELECT * FROM deribit.ohlcv_{level}")
        assert len({(row["instrument_name"], row["bucket_at"]) for row in rows}) == len(rows)
        return {(row.pop("instrument_name"), row.pop("bucket_at")): row for row in rows}


def forget_databases() -> None:
    """Clear the adapter's cache of existing databases, which is by name only and wrong on another server."""
    dbclient._ensured_databases.clear()


def run_words(command: str, scratch: Path | str, *args: str) -> list[str]:
    """Arguments of `dbt command args` for the project on target local, with artifacts in `scratch`."""
    paths = ["--project-dir", PROJECT_DIR, "--profiles-dir", PROJECT_DIR]
    paths += ["--target-path", Path(scratch) / "target", "--log-path", Path(scratch) / "logs"]
    return [*command.split(), *args, *map(str, paths), "--target", "local", *QUIET]


def failures(result: dbtRunnerResult) -> dict[str, str]:
    """Messages by name of the nodes that did not succeed."""
    return {
        node.node.name: node.message or ""
        for node in getattr(result.result, "results", None) or []
        if node.status not in ("success", "pass")
    }
