"""Exports, read back by DuckDB and polars, against the database and the trades that were loaded."""

from __future__ import annotations

import csv
import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from extract.clickhouse.settings import ClickHouseSettings
from extract.export.parts import Filter
from extract.export.tables import CANDLES, MARTS, SERIES
from tests.support.candle_truth import volume_and_notional
from tests.support.commands import tape_here
from tests.support.exports import day_of, export_to, prove, read
from tests.support.market import DAY_MS, EIGHT_MS, UNFINISHED_LOAD, Market, key_of

DECIMALS = ("volume", "notional")
KEYS = {"trades": ("instrument_name", "trade_seq")} | {
    table.name: table.sort for table in (*CANDLES, *SERIES)
}


@pytest.fixture(scope="module")
def exported(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of everything as Parquet, which tests do not change."""
    folder = tmp_path_factory.mktemp("exported")
    export_to(market, folder)
    return folder


def test_parquet_has_every_trade_that_was_loaded(exported: Path, market: Market) -> None:
    """Keys and sums of the tape, to the last digit, by DuckDB and by polars."""
    rows = read(exported, "trades", "instrument_name, trade_seq")
    assert rows == sorted(market.keys)
    truth = [volume_and_notional(trade) for trade in market.trades]
    sums = tuple(sum(values, Decimal(0)) for values in zip(*truth, strict=True))
    assert read(exported, "trades", "sum(volume), sum(notional)") == [sums]
    frame = pl.scan_parquet(exported / "trades/**/*.parquet", hive_partitioning=True)
    assert frame.select(pl.col(DECIMALS).sum()).collect().rows() == [sums]
    assert sorted(frame.select("instrument_name", "trade_seq").collect().rows()) == rows


@pytest.mark.parametrize(
    "table", [table for table in MARTS if table.name in KEYS], ids=lambda table: table.name
)
def test_parquet_equals_the_database(exported: Path, market: Market, table: Any) -> None:
    """Each key once, and each decimal and float to its last digit."""
    types = {row["name"]: row["type"] for row in market.dbt.rows(f"describe table {table.source}")}
    numbers = [name for name, type_ in types.items() if "Decimal" in type_ or "Float64" in type_]
    columns = [*KEYS[table.name], *numbers]
    names = ", ".join(f"`{name}`" for name in columns)
    truth = market.dbt.client.query(f"select {names} from {table.source}").result_rows
    files = pq.read_table(exported / table.name, partitioning=None).select(columns)
    rows = list(zip(*(column.to_pylist() for column in files.columns), strict=True))
    assert truth, "the market has no rows of this table"
    assert sorted(map(as_text, rows)) == sorted(map(as_text, truth))


def as_text(row: tuple[Any, ...]) -> tuple[str, ...]:
    """Values with all their digits; times without their zone, which is UTC."""
    return tuple(str(value).removesuffix("+00:00") for value in row)


def test_files_are_sorted_compressed_and_have_statistics(exported: Path, market: Market) -> None:
    """Each file has one kind, underlying and month, in the order of the sort key."""
    files = sorted((exported / "trades").rglob("*.parquet"))
    folders = market.dbt.client.query(
        "select distinct kind, ifNull(underlying, '__HIVE_DEFAULT_PARTITION__'), formatDateTime(timestamp, '%Y-%m') "
        "from deribit.trades"
    ).result_rows
    assert {path.parts[-4:-1] for path in files} == {
        (f"kind={kind}", f"underlying={underlying}", f"month={month}") for kind, underlying, month in folders
    }
    for path in files:
        file = pq.ParquetFile(path)
        keys = file.read(["instrument_name", "trade_seq"]).to_pydict()
        pairs = list(zip(*keys.values(), strict=True))
        assert pairs == sorted(pairs)
        column = file.metadata.row_group(0).column(0)
        assert column.compression == "ZSTD"
        assert column.statistics.has_min_max
        assert {f"kind={kind}" for kind in set(file.read(["kind"]).column(0).to_pylist())} == {path.parts[-4]}


def csv_rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


def test_manifest_proves_the_export(exported: Path, market: Market) -> None:
    """Rows, load packages and coverage; and every missing trade has a name and a reason."""
    manifest = json.loads((exported / "manifest.json").read_text())
    assert manifest["tables"]["trades"]["rows"] == len(market.trades)
    assert manifest["load_packages"]["count"] == 3
    streams = {(status["currency"], status["kind"]): status for status in manifest["coverage"]}
    assert streams["BTC", "future"]["missing"] == streams["BTC", "future"]["absent"] == 1
    report = prove(exported)
    assert report.is_proven, report.problems
    gaps = read(exported, "trade_gaps", "instrument_name, first_missing_seq, last_missing_seq, reason")
    assert gaps == sorted(
        [
            (*key_of(market.missing), market.missing["trade_seq"], "missing"),
            (*key_of(market.absent), market.absent["trade_seq"], "absent"),
        ]
    )
    assert report.gaps == {"missing": 1, "absent": 1}


@pytest.mark.slow
def test_csv_equals_the_database(market: Market, tmp_path: Path) -> None:
    """Times with their zone, decimals with all digits, null as nothing; and it is proven, too."""
    export_to(market, tmp_path / "csv", format="csv", tables=("trades", "candles_1d"))
    lines = [row for path in (tmp_path / "csv/trades").rglob("*.csv.gz") for row in csv_rows(path)]
    assert {(row["instrument_name"], int(row["trade_seq"])) for row in lines} == market.keys
    sql = (
        "select toString(trade_seq), toString(timestamp), toString(volume), toString(iv) from deribit.trades"
    )
    truth = [
        (seq, at.replace(" ", "T") + "Z", Decimal(volume) if volume else None, iv or "")
        for seq, at, volume, iv in market.dbt.client.query(sql).result_rows
    ]
    own = [
        (row["trade_seq"], row["timestamp"], Decimal(row["volume"]) if row["volume"] else None, row["iv"])
        for row in lines
    ]
    assert sorted(own, key=str) == sorted(truth, key=str)
    assert prove(tmp_path / "csv").is_proven


def test_tardis_files_have_the_columns_of_tardis(market: Market, tmp_path: Path) -> None:
    """One file per day and symbol, ordered by time, in µs."""
    since_ms = EIGHT_MS + 4 * DAY_MS
    export_to(market, tmp_path / "tardis", format="tardis", filters=Filter(("BTC",), since_ms=since_ms))
    name, rows = "BTC-PERPETUAL", []
    for path in sorted((tmp_path / "tardis").rglob(f"*_{name}.csv.gz")):
        own = csv_rows(path)
        assert [*own[0]] == [
            "exchange",
            "symbol",
            "timestamp",
            "local_timestamp",
            "id",
            "side",
            "price",
            "amount",
        ]
        assert {day_of(int(row["timestamp"]) / 1e6) for row in own} == {path.name.split("_")[2]}
        rows += own
    expected = sorted(
        (t for t in market.trades if t["instrument_name"] == name and t["timestamp"] >= since_ms),
        key=lambda t: (t["timestamp"], t["trade_seq"]),
    )
    assert [
        (r["id"], int(r["timestamp"]), r["side"], float(r["price"]), float(r["amount"])) for r in rows
    ] == [(t["trade_id"], t["timestamp"] * 1000, t["direction"], t["price"], t["amount"]) for t in expected]
    assert len(list((tmp_path / "tardis").rglob("*_OPTIONS.csv.gz"))) == 4
    assert prove(tmp_path / "tardis").is_proven


def test_filters_reduce_every_table(market: Market, tmp_path: Path) -> None:
    """Currency, kind and time, of trades, candles and series."""
    since_ms, until_ms = 1_767_571_200_000, 1_768_176_000_000  # 2026-01-05, 2026-01-12
    tables = ("trades", "candles_1d", "funding_1h", "volatility_index_1h")
    export_to(
        market,
        tmp_path / "part",
        tables=tables,
        filters=Filter(("BTC",), ("future",), since_ms, until_ms),
    )
    expected = {
        key_of(trade)
        for trade in market.trades
        if (trade["currency"], trade["kind"]) == ("BTC", "future")
        and since_ms <= trade["timestamp"] < until_ms
    }
    assert expected
    assert set(read(tmp_path / "part", "trades", "instrument_name, trade_seq")) == expected
    names = {name for name, _ in expected}
    assert {name for (name,) in read(tmp_path / "part", "candles_1d", "instrument_name")} == names
    assert {name for (name,) in read(tmp_path / "part", "funding_1h", "instrument_name")} == {"BTC-PERPETUAL"}
    assert not (tmp_path / "part/volatility_index_1h").exists()
    assert prove(tmp_path / "part").is_proven


@pytest.mark.slow
def test_raw_tables_are_exported_without_unfinished_packages(market: Market, tmp_path: Path) -> None:
    """As a backup needs them: each table of finished load packages, and the list of these."""
    unfinished = [{**market.missing, "trade_id": "1"}]
    market.load(UNFINISHED_LOAD, unfinished, status=1)
    try:
        report = export_to(market, tmp_path / "raw", tables=("raw", "trades"))
        keys = read(tmp_path / "raw", "raw_trades", "instrument_name, trade_seq")
        assert keys == sorted(market.keys) == read(tmp_path / "raw", "trades", "instrument_name, trade_seq")
        assert report.manifest.tables["raw_absent_trades"].rows == 2
        assert len(read(tmp_path / "raw", "raw_dlt_loads", "load_id")) == 3
    finally:
        for table in ("trades", "_dlt_loads"):
            column = "load_id" if table == "_dlt_loads" else "_dlt_load_id"
            market.dbt.client.command(f"delete from deribit_raw.{table} where {column} = '{UNFINISHED_LOAD}'")


# The command


def test_command_exports_and_proves(
    market: Market, clickhouse_env: ClickHouseSettings, tmp_path: Path
) -> None:
    folder = str(tmp_path / "lake")
    words = ("export", folder, "--tables", "trades,candles_1d", "--currencies", "BTC,ETH", "--kind", "future")
    done = tape_here(*words)
    assert done.code == 0, done.output
    assert "files written" in done.out
    done = tape_here(*words, "--json")
    assert json.loads(done.out)["written"] == 0
    done = tape_here("export", "--verify", folder, "--json")
    assert (done.code, json.loads(done.out)["proven"]) == (0, True)
    assert tape_here("export", folder, "--since", "soon").code == 3
    assert tape_here("export", "--verify", str(tmp_path / "nowhere")).code == 3
