"""The dbt project on an embedded ClickHouse for benchmarks, and the trades that they measure."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbt.cli.main import dbtRunnerResult

from extract.clickhouse.client import open_client
from extract.clickhouse.embedded.server import embedded_server
from extract.clickhouse.settings import ClickHouseSettings
from extract.paths import ROOT
from extract.sandbox.tape import Tape
from harness import raw_tables
from harness.dbt_project import Project
from harness.raw_tables import raw_trades

SHARED = Path(os.environ.get("DERIBIT_TAPE_SHARED") or ROOT.parent / "shared")
RECORDED = SHARED / "data" / "deribit" / "tape_2019_options.ndjson.gz"
TRADES = "deribit.trade_versions"


@dataclass
class OwnProject(Project):
    """A project whose commands use its server even while projects on other servers are open."""

    settings: ClickHouseSettings = field(kw_only=True)

    def invoke(self, command: str, *args: str) -> dbtRunnerResult:
        """Set the environment from which dbt reads its profile, then run the command."""
        os.environ |= {
            "CLICKHOUSE_LOCAL_HOST": self.settings.host,
            "CLICKHOUSE_LOCAL_PORT": str(self.settings.port),
            "CLICKHOUSE_LOCAL_USER": self.settings.user,
            "CLICKHOUSE_LOCAL_PASSWORD": self.settings.password,
        }
        return super().invoke(command, *args)


@contextmanager
def own_project() -> Iterator[OwnProject]:
    """Start a server with an empty project; server and files are deleted afterwards."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        embedded_server(Path(scratch) / "server") as settings,
        open_client(settings) as client,
    ):
        yield OwnProject(client, Path(scratch), settings=settings)


def recorded_trades() -> Iterator[dict[str, Any]]:
    """Recorded option trades of 2019, with currency and kind."""
    with gzip.open(RECORDED, "rt") as lines:
        for line in lines:
            trade = json.loads(line)
            yield {**trade, "currency": trade["instrument_name"].split("-")[0], "kind": "option"}


def build_trades(dbt: Project, tape: str, generated: int) -> None:
    """Build `deribit.trades` from the recorded tape, or from `generated` sandbox trades of a month, and merge its parts."""
    dbt.fresh()
    trades = (
        recorded_trades()
        if tape == "recorded"
        else raw_trades(Tape.generate(seed=9, trades=generated, days=30))
    )
    raw_tables.load(dbt.client, "1764000000.123456", trades)
    dbt.run("--select", "+trades")
    dbt.client.command(f"OPTIMIZE TABLE {TRADES} FINAL")


def tapes() -> tuple[str, ...]:
    """Tapes to measure. The recorded one is not part of the repository."""
    return ("recorded", "generated") if RECORDED.exists() else ("generated",)
