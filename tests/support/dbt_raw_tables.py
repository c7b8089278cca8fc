"""Raw tables as the extractor makes them, filled by hand: one call is one load package."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from clickhouse_connect.driver.client import Client

RAW_TABLES = {
    "trades": """
        trade_seq Int64, trade_id String, timestamp DateTime64(3, 'UTC'), instrument_name String,
        price Float64, amount Float64, direction String, tick_direction Nullable(Int64),
        index_price Nullable(Float64), mark_price Nullable(Float64), iv Nullable(Float64),
        contracts Nullable(Float64), liquidation Nullable(String), block_trade_id Nullable(String),
        block_trade_leg_count Nullable(Int64), block_rfq_id Nullable(Int64), combo_id Nullable(String),
        combo_trade_id Nullable(String), legs Nullable(String), currency String, kind String,
        extra Nullable(String), _dlt_load_id String
    """,
    "instruments": """
        instrument_name String, instrument_id Nullable(Int64), kind Nullable(String),
        base_currency Nullable(String), quote_currency Nullable(String), counter_currency Nullable(String),
        settlement_currency Nullable(String), instrument_type Nullable(String), option_type Nullable(String),
        strike Nullable(Float64), expiration_timestamp Nullable(DateTime64(3, 'UTC')),
        creation_timestamp Nullable(DateTime64(3, 'UTC')), is_active Nullable(Bool),
        contract_size Nullable(Float64), tick_size Nullable(Float64), settlement_period Nullable(String),
        price_index Nullable(String), currency Nullable(String), extra Nullable(String),
        _dlt_load_id Nullable(String)
    """,
    "coverage": """
        currency String, kind String, covered_from DateTime64(3, 'UTC'), covered_to DateTime64(3, 'UTC'),
        _dlt_load_id String
    """,
    "absent_trades": """
        instrument_name String, first_seq Int64, last_seq Int64, currency String, kind String, _dlt_load_id String
    """,
    "_dlt_loads": """
        load_id String, schema_name Nullable(String), status Int64, inserted_at DateTime64(6, 'UTC'),
        schema_version_hash Nullable(String)
    """,
}
KEYS = {
    "trades": "PARTITION BY toYYYYMM(timestamp) ORDER BY (_dlt_load_id, instrument_name, trade_seq)",
    "instruments": "ORDER BY instrument_name",
    "coverage": "ORDER BY tuple()",
    "absent_trades": "ORDER BY tuple()",
    "_dlt_loads": "ORDER BY tuple()",
}


def create_raw_tables(client: Client) -> None:
    """Database and tables, empty; what others left there is gone."""
    client.command("DROP DATABASE IF EXISTS deribit_raw SYNC")
    client.command("CREATE DATABASE deribit_raw")
    for table, columns in RAW_TABLES.items():
        client.command(
            f"CREATE OR REPLACE TABLE deribit_raw.{table} ({columns}) ENGINE = MergeTree {KEYS[table]}"
        )


def insert_rows(client: Client, table: str, rows: Iterable[dict[str, Any]]) -> None:
    """Rows whose times are milliseconds since 1970; a column that a row lacks is null or empty."""
    lines = "\n".join(json.dumps(_with_times_as_text(row)) for row in rows)
    if lines:
        client.raw_insert(
            f"deribit_raw.{table}",
            insert_block=lines,
            fmt="JSONEachRow",
            settings={"input_format_skip_unknown_fields": 0},
        )


def load(client: Client, load_id: str, trades: Iterable[dict[str, Any]], *, status: int = 0) -> None:
    """One load package of trades. `status` other than 0: its end was never written."""
    insert_rows(client, "trades", ({**trade, "_dlt_load_id": load_id} for trade in trades))
    client.command(
        "INSERT INTO deribit_raw._dlt_loads SELECT {id:String}, 'deribit', {status:Int64}, now64(6), ''",
        parameters={"id": load_id, "status": status},
    )


def cover_everything(client: Client, *kinds: str, currencies: Iterable[str] = ("BTC",)) -> None:
    """All time until 2199 counts as loaded, of these streams."""
    rows = [
        {"currency": currency, "kind": kind, "load": "1764000000.5"}
        for currency in currencies
        for kind in kinds
    ]
    for row in rows:
        client.command(
            "INSERT INTO deribit_raw.coverage "
            "SELECT {currency:String}, {kind:String}, '2016-01-01', '2199-01-01', {load:String}",
            parameters=row,
        )
    load(client, "1764000000.5", [])


def _with_times_as_text(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: f"{value / 1000:.3f}" if name.endswith("timestamp") and value is not None else value
        for name, value in row.items()
    }
