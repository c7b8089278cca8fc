"""Raw tables as the extractor creates them, filled by hand; one call of `load` is one load package."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from clickhouse_connect.driver.client import Client

from extract.sandbox.instrument_names import parse
from extract.sandbox.tape import Tape, kind_of
from extract.source.tables import RAW_TABLES

LOADS = "_dlt_loads"
TABLES = (*(name for name, table in RAW_TABLES.items() if not table.is_optional), LOADS)
"""The tables of a database into which something has been loaded."""

_CREATE_LOADS = f"""
create table deribit_raw.{LOADS} (
    load_id String, schema_name Nullable(String), status Int64, inserted_at DateTime64(6, 'UTC'),
    schema_version_hash Nullable(String)
) engine = MergeTree order by load_id"""


def create_raw_database(client: Client, tables: Iterable[str] = TABLES) -> None:
    """Create the raw database with `tables`, empty; an existing one is dropped."""
    client.command("drop database if exists deribit_raw sync")
    client.command("create database deribit_raw")
    for table in tables:
        create_raw_table(client, table)


def create_raw_table(client: Client, table: str) -> None:
    """Create one table, as its definition in the registry has it."""
    client.command(_CREATE_LOADS if table == LOADS else RAW_TABLES[table].create_sql())


def insert_rows(client: Client, table: str, rows: Iterable[dict[str, Any]]) -> None:
    """Insert rows with times in ms since 1970; a column that a row lacks is null or empty."""
    lines = "\n".join(json.dumps(_with_times_as_text(row)) for row in rows)
    if lines:
        client.raw_insert(
            f"deribit_raw.{table}",
            insert_block=lines,
            fmt="JSONEachRow",
            settings={"input_format_skip_unknown_fields": 0},
        )


def load(client: Client, load_id: str, trades: Iterable[dict[str, Any]], *, status: int = 0) -> None:
    """Insert one load package of trades. `status` other than 0: the package was never completed."""
    insert_rows(client, "trades", ({**trade, "_dlt_load_id": load_id} for trade in trades))
    client.command(
        f"insert into deribit_raw.{LOADS} select {{id:String}}, 'deribit', {{status:Int64}}, now64(6), ''",
        parameters={"id": load_id, "status": status},
    )


def cover_everything(client: Client, *kinds: str, currencies: Iterable[str] = ("BTC",)) -> None:
    """Mark all time until 2199 as loaded, for these streams."""
    load_id = "1764000000.5"
    for currency in currencies:
        for kind in kinds:
            client.command(
                "insert into deribit_raw.coverage (currency, kind, covered_from, covered_to, _dlt_load_id) "
                "values ({currency:String}, {kind:String}, '2016-01-01', '2199-01-01', {load:String})",
                parameters={"currency": currency, "kind": kind, "load": load_id},
            )
    load(client, load_id, [])


def raw_trades(tape: Tape) -> list[dict[str, Any]]:
    """The trades of a sandbox tape as raw rows: with currency and kind, legs as text."""
    return [
        {
            **trade,
            "kind": kind_of(trade),
            "currency": parse(trade["instrument_name"]).currency,
            **({"legs": json.dumps(trade["legs"])} if "legs" in trade else {}),
        }
        for trade in tape.trades
    ]


def _with_times_as_text(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: f"{value / 1000:.3f}" if name.endswith("timestamp") and value is not None else value
        for name, value in row.items()
    }
