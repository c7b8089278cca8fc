"""dbt driven in this process: one parse for many runs, which is what makes generated histories affordable."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client
from dbt.adapters.clickhouse import dbclient
from dbt.cli.main import dbtRunner, dbtRunnerResult

from extract.paths import ROOT
from tests.support.candle_truth import LEVELS
from tests.support.dbt_raw_tables import create_raw_tables

PROJECT_DIR = ROOT / "dbt_project"
QUIET = ("--log-level", "none")  # said to the callback all the same


@dataclass
class Project:
    """The dbt project against one ClickHouse; what dbt writes goes to `scratch`."""

    client: Client
    scratch: Path
    runner: dbtRunner = field(init=False)
    said: list[str] = field(default_factory=list)
    """What macros logged for people to read."""

    def __post_init__(self) -> None:
        self.runner = dbtRunner()
        self.fresh()
        manifest = self.must("parse").result
        self.runner = dbtRunner(manifest=manifest, callbacks=[self._hear])

    def _hear(self, event: Any) -> None:
        if event.info.name == "JinjaLogInfo":
            self.said.append(event.data.msg)

    def invoke(self, command: str, *args: str) -> dbtRunnerResult:
        """`dbt command args`, whatever comes of it."""
        return self.runner.invoke(run_words(command, self.scratch, *args))

    def run(self, *args: str) -> None:
        """`dbt run args`; fails the test with dbt's own words."""
        self.must("run", *args)

    def must(self, command: str, *args: str) -> dbtRunnerResult:
        result = self.invoke(command, *args)
        assert result.success, failures(result) or result.exception
        return result

    def fresh(self) -> None:
        """Empty raw tables and no models."""
        self.client.command("DROP DATABASE IF EXISTS deribit SYNC")
        self.client.command("CREATE DATABASE deribit")  # dbt's connections stay open and name it
        create_raw_tables(self.client)

    def rows(self, query: str) -> list[dict[str, Any]]:
        return list(self.client.query(query).named_results())

    def candles(self, level: str) -> dict[tuple[str, Any], dict[str, Any]]:
        """By (instrument_name, bucket_at), as a reader sees them."""
        rows = self.rows(f"SELECT * FROM deribit.ohlcv_{level}")
        assert len({(row["instrument_name"], row["bucket_at"]) for row in rows}) == len(rows)
        return {(row.pop("instrument_name"), row.pop("bucket_at")): row for row in rows}


def forget_databases() -> None:
    """The adapter remembers by name alone, while the process lives, that a database is there: on another server too."""
    dbclient._ensured_databases.clear()


def run_words(command: str, scratch: Path | str, *args: str) -> list[str]:
    """`dbt command args` of the project on target local; what dbt writes goes to `scratch`."""
    paths = ["--project-dir", PROJECT_DIR, "--profiles-dir", PROJECT_DIR]
    paths += ["--target-path", Path(scratch) / "target", "--log-path", Path(scratch) / "logs"]
    return [*command.split(), *args, *map(str, paths), "--target", "local", *QUIET]


def failures(result: dbtRunnerResult) -> dict[str, str]:
    """Name → message of each node that did not succeed."""
    return {
        node.node.name: node.message or ""
        for node in getattr(result.result, "results", None) or []
        if node.status not in ("success", "pass")
    }


__all__ = ["LEVELS", "PROJECT_DIR", "Project", "failures", "run_words"]
