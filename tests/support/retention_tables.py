"""The two tables in which retention records its drops, made by hand as dbt makes them."""

from __future__ import annotations

from clickhouse_connect.driver.client import Client

_TABLES = {
    "retention_drops": "table_name String, table_id UUID, month UInt32, dropped_at DateTime64(3, 'UTC')",
    "verified_months": "model String, month UInt32, source_state String, own_state String, verified_by String, "
    "verified_at DateTime64(6, 'UTC')",
}


def create_records_of_drops(client: Client) -> None:
    """Create `retention_drops` and `verified_months` in an existing database `deribit`, both empty."""
    for table, columns in _TABLES.items():
        client.command(f"create table deribit.{table} ({columns}) engine = MergeTree order by tuple()")
