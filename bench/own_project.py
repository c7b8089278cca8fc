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

from clickhouse_connect.driver.client import Client
from dbt.cli.main import dbtRunnerResult

from extract.clickhouse.client import Database, open_client
from extract.clickhouse.embedded.server import embedded_server
from extract.clickhouse.refresh import refresh
from extract.clickhouse.settings import ClickHouseSettings
from extract.paths import ROOT
from extract.sandbox.tape import Tape
from harness import raw_tables
from harness.dbt_project import Project
from harness.raw_tables import raw_trades

SHARED = Path(os.environ.get("DERIBIT_TAPE_SHARED") or ROOT.parent / "shared")
RECORDED = SHARED / "data" / "deribit" / "tape_2019_options.ndjson.gz"
TRADES = "deribit.trade_versions"
CANDLES = ("deribit.ohlcv_1m_versions", "deribit.ohlcv_1h_versions")


SPARSE_INSTRUMENTS = 2_000
SPARSE_MONTHS = 9
MONTH_S = 30 * 86_400
END_S = 1_764_547_200  # 2025-12-01
_LOAD_SPARSE = """
    insert into deribit_raw.trades (
        trade_seq, trade_id, timestamp, instrument_name, price, amount, direction, tick_direction, index_price,
        mark_price, iv, currency, kind, _dlt_load_id
    )
    select
        intDiv(n, {instruments:UInt64}) + 1,
        toString(300000000 + n),
        toDateTime64({start:UInt64}, 3, 'UTC')
            + toIntervalMillisecond(intDiv((n - {first:UInt64}) * {span:UInt64} * 1000, {count:UInt64})),
        concat('BTC-25DEC26-', toString(1000 * (n % {instruments:UInt64} + 1)), '-C'),
        (1 + cityHash64(n) % 500) / 2000,
        (1 + cityHash64(n, 1) % 100) / 10,
        if(cityHash64(n, 2) % 2, 'buy', 'sell'),
        cityHash64(n, 3) % 4,
        95000 + cityHash64(n, 4) % 100000 / 100,
        (1 + cityHash64(n, 5) % 5000) / 20000,
        40 + cityHash64(n, 6) % 2000 / 100,
        'BTC',
        'option',
        {load:String}
    from (select number + {first:UInt64} as n from numbers({count:UInt64}))
    settings max_partitions_per_insert_block = 1000"""
"""Trades of thin options, nearly each of which is a candle of its own at every level up to a day."""


@dataclass
class OwnProject(Project):
    """A project whose commands use its server even while projects on other servers are open."""

    settings: ClickHouseSettings = field(kw_only=True)

    @property
    def database(self) -> Database:
        return Database(self.client, self.settings)

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


def load_sparse(client: Client, load_id: str, first: int, count: int, start_s: int, span_s: int) -> None:
    """Load one package of the sparse tape: `count` trades from number `first` on, evenly over `span_s` seconds."""
    numbers = {"first": first, "count": count, "start": start_s, "span": span_s}
    values = {"instruments": SPARSE_INSTRUMENTS, "load": load_id}
    client.command(_LOAD_SPARSE, parameters=numbers | values)
    raw_tables.load(client, load_id, [])


def build_trades(dbt: Project, tape: str, generated: int) -> None:
    """Build the models of a tape, and merge their parts. All tapes but the recorded one have `generated` trades."""
    dbt.empty()
    load_id = "1764000000.123456"
    if tape == "sparse":
        span_s = SPARSE_MONTHS * MONTH_S
        load_sparse(dbt.client, load_id, 0, generated, END_S - span_s, span_s)
    else:
        trades = (
            recorded_trades()
            if tape == "recorded"
            else raw_trades(Tape.generate(seed=9, trades=generated, days=30))
        )
        raw_tables.load(dbt.client, load_id, trades)
    refresh(dbt.database)
    for table in (TRADES, *CANDLES):
        dbt.client.command(f"OPTIMIZE TABLE {table} FINAL")


def tapes() -> tuple[str, ...]:
    """Tapes to measure. The recorded one is not part of the repository."""
    return (*(("recorded",) if RECORDED.exists() else ()), "generated", "sparse")
