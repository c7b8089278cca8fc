"""Bytes per trade of `deribit.trades` beside the best known layout of others, on the same recorded trades.

    python -m bench.dbt_storage [TAPE.ndjson.gz]

Both are merged to one part a month. Prints totals, and bytes per trade by column of ours (in wide parts).
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clickhouse_connect

from extract.clickhouse.server import embedded_server
from extract.paths import ROOT
from tests.dbt import raw
from tests.dbt.project import Project

SHARED = Path(os.environ.get("DERIBIT_TAPE_SHARED") or ROOT.parent / "shared")
TAPE = SHARED / "data" / "deribit" / "tape_2019_options.ndjson.gz"
REFERENCE = """
    CREATE TABLE deribit.reference (trade_id String, instrument_name String, timestamp DateTime64(3),
        price Float64, amount Float64, direction LowCardinality(String), iv Nullable(Float64),
        index_price Nullable(Float64), mark_price Nullable(Float64), underlying LowCardinality(String),
        expiry Date, strike Float64, option_type LowCardinality(String))
    ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(timestamp)
    ORDER BY (underlying, expiry, timestamp, strike, option_type, trade_id)
"""
FILL_REFERENCE = """
    INSERT INTO deribit.reference
    SELECT trade_id, instrument_name, timestamp, price, amount, direction, iv, index_price, mark_price,
        assumeNotNull(underlying), toDate(assumeNotNull(expiry)), assumeNotNull(strike),
        assumeNotNull(option_type)
    FROM deribit.trades
"""
SIZES = """
    SELECT table, sum(rows) AS trades, sum(data_compressed_bytes) / trades AS data_bytes,
        sum(bytes_on_disk) / trades AS disk_bytes
    FROM system.parts WHERE active AND database = 'deribit' AND table IN ('trade_versions', 'reference')
    GROUP BY table
"""
COLUMNS = """
    SELECT column, sum(column_data_compressed_bytes) / sum(rows) AS data_bytes
    FROM system.parts_columns WHERE active AND database = 'deribit' AND table = 'trade_versions'
    GROUP BY column ORDER BY data_bytes DESC
"""


def recorded_trades(path: Path) -> Iterator[dict[str, Any]]:
    """Options of the tape, with the currency their id names."""
    with gzip.open(path, "rt") as lines:
        for line in lines:
            trade = json.loads(line)
            yield {**trade, "currency": trade["instrument_name"].split("-")[0], "kind": "option"}


def main(path: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch, embedded_server(Path(scratch) / "clickhouse") as settings:
        os.environ["CLICKHOUSE_LOCAL_HOST"], os.environ["CLICKHOUSE_LOCAL_PORT"] = (
            settings.host,
            str(settings.port),
        )
        os.environ["CLICKHOUSE_LOCAL_USER"], os.environ["CLICKHOUSE_LOCAL_PASSWORD"] = (
            settings.user,
            settings.password,
        )
        client = clickhouse_connect.get_client(
            host=settings.host, port=settings.port, username=settings.user, password=settings.password
        )
        dbt = Project(client, Path(scratch) / "dbt")
        raw.load(client, "1764000000.123456", recorded_trades(path))
        dbt.run("--select", "+trades")
        client.command(REFERENCE)
        client.command(FILL_REFERENCE)
        for table in ("trade_versions", "reference"):
            client.command(f"OPTIMIZE TABLE deribit.{table} FINAL")
        for row in dbt.rows(SIZES):
            print(
                f"{row['table']:16} {row['trades']:>9,} trades {row['data_bytes']:6.2f} bytes of data each, "
                f"{row['disk_bytes']:6.2f} on disk"
            )
        client.command("ALTER TABLE deribit.trade_versions MODIFY SETTING min_bytes_for_wide_part = 0")
        client.command(
            "OPTIMIZE TABLE deribit.trade_versions FINAL SETTINGS optimize_skip_merged_partitions = 0"
        )
        for row in dbt.rows(COLUMNS):
            print(f"  {row['column']:24} {row['data_bytes']:6.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else TAPE)
