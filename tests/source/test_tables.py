"""The registry of raw tables agrees with the tables that dlt creates from it."""

from __future__ import annotations

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.client import shared_client
from extract.clickhouse.settings import ClickHouseSettings
from extract.pipeline.session import open_session, run_lock
from extract.source.source import empty_tables
from extract.source.tables import RAW_TABLES, TRADES, TableDefinition

CREATED_BY_RUN = {name: table for name, table in RAW_TABLES.items() if not table.is_optional}


@pytest.fixture
def client(clickhouse_env: ClickHouseSettings, clean_clickhouse: ClickHouseSettings) -> Client:
    """A database that holds what `tape init` creates."""
    with run_lock(), open_session(clickhouse_env) as session:
        session.run(empty_tables())
    return shared_client(clickhouse_env)


def test_dlt_creates_the_tables_of_a_run_as_the_registry_defines_them(client: Client) -> None:
    """Columns, types, codecs, sort and partition keys: SQL made from the registry creates the same tables."""
    client.command("create database defined")
    try:
        for name, table in CREATED_BY_RUN.items():
            client.command(table.create_sql(f"defined.{name}"))
        assert definitions(client, "defined") == definitions(client, "deribit_raw")
    finally:
        client.command("drop database defined sync")


def definitions(client: Client, database: str) -> dict[str, object]:
    """Columns and keys by table, without dlt's own tables."""
    parameters = {"database": database}
    columns = client.query(
        "select table, groupArray((name, type, compression_codec)) from "
        "(select * from system.columns where database = {database:String} order by position) "
        "where table not like '\\_dlt%' group by table",
        parameters=parameters,
    ).result_rows
    keys = client.query(
        "select name, sorting_key, partition_key from system.tables "
        "where database = {database:String} and name not like '\\_dlt%'",
        parameters=parameters,
    ).result_rows
    return {"columns": dict(columns), "keys": sorted(keys)}


@pytest.mark.parametrize("table", RAW_TABLES.values(), ids=list(RAW_TABLES))
def test_empty_relation_has_the_columns_of_its_table(
    table: TableDefinition, clickhouse_client: Client
) -> None:
    """SQL that reads a table that does not exist yet sees its columns and types."""
    described = clickhouse_client.query(f"describe {table.empty_relation}").result_rows
    assert {row[0]: row[1] for row in described} == dict(table.columns)
    assert clickhouse_client.command(f"select count() from {table.empty_relation}") == 0


def test_trades_are_sorted_by_load_package() -> None:
    """What dbt reads of new packages stays proportional to them."""
    assert TRADES.sort[0] == "_dlt_load_id"
