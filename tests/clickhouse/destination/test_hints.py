"""Hints of dlt's ClickHouse adapter, and column types that dlt does not have."""

from __future__ import annotations

import dlt
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from dlt.destinations.adapters import clickhouse_adapter

from extract.clickhouse.destination import column_types


@pytest.fixture
def trades() -> pa.Table:
    return pa.table(
        {
            "instrument_name": ["BTC-PERPETUAL", "ETH-PERPETUAL"],
            "trade_seq": [1, 2],
            "tick_direction": [3, 0],
            "liquidation": ["M", None],
            "timestamp": pa.array([1_700_000_000_000] * 2, pa.timestamp("ms", "UTC")),
        }
    )


def definition(client: Client, database: str, table: str = "trades") -> str:
    return client.command(f"SHOW CREATE TABLE {database}.{table}").replace("\\n", "\n")


def test_sort_partition_codecs_and_settings(
    pipeline: dlt.Pipeline, database: str, clickhouse_client: Client, trades: pa.Table
) -> None:
    """The hints have the effect that dlt documents; the sort key is also the index."""
    resource = clickhouse_adapter(
        dlt.resource(trades, name="trades"),
        sort=["instrument_name", "trade_seq"],
        partition="toYYYYMM(timestamp)",
        codecs={"trade_seq": "Delta, ZSTD(1)"},
        settings={"index_granularity": 1024, "non_replicated_deduplication_window": 50},
    )
    pipeline.run(resource)
    created = definition(clickhouse_client, database)
    assert "PARTITION BY toYYYYMM(timestamp)\nORDER BY (instrument_name, trade_seq)" in created
    assert "PRIMARY KEY" not in created, "an empty primary key would be no index"
    assert "`trade_seq` Int64 CODEC(Delta(8), ZSTD(1))" in created
    assert "index_granularity = 1024, non_replicated_deduplication_window = 50" in created


def test_primary_key_is_created(
    pipeline: dlt.Pipeline, database: str, clickhouse_client: Client, trades: pa.Table
) -> None:
    pipeline.run(trades, table_name="trades", primary_key="trade_seq")
    assert "PRIMARY KEY (trade_seq)" in definition(clickhouse_client, database)


def test_table_engine(
    pipeline: dlt.Pipeline, database: str, clickhouse_client: Client, trades: pa.Table
) -> None:
    resource = clickhouse_adapter(
        dlt.resource(trades, name="trades"), table_engine_type="replacing_merge_tree", sort=["trade_seq"]
    )
    pipeline.run(resource)
    assert "ENGINE = ReplacingMergeTree" in definition(clickhouse_client, database)


def test_column_types_are_those_of_the_hints(
    pipeline: dlt.Pipeline, database: str, clickhouse_client: Client, trades: pa.Table
) -> None:
    """This includes a type with a codec and a column that is added later."""
    columns = column_types(
        instrument_name="LowCardinality(String)",
        tick_direction="UInt8",
        liquidation="LowCardinality(Nullable(String))",
        kind="LowCardinality(String)",
    )
    kind = columns.pop("kind")
    first = clickhouse_adapter(
        dlt.resource(trades, name="trades", columns=columns), codecs={"tick_direction": "T64, LZ4"}
    )
    pipeline.run(first)
    later = trades.append_column("kind", pa.array(["future", "option"]))
    pipeline.run(dlt.resource(later, name="trades", columns={**columns, "kind": kind}))

    created = definition(clickhouse_client, database)
    assert "`instrument_name` LowCardinality(String)" in created
    assert "`tick_direction` UInt8 CODEC(T64, LZ4)" in created
    assert "`liquidation` LowCardinality(Nullable(String))" in created
    assert "`kind` LowCardinality(String)" in created
    rows = clickhouse_client.query(
        f"SELECT liquidation, tick_direction, kind FROM {database}.trades ORDER BY ALL"
    )
    assert set(rows.result_rows) == {("M", 3, ""), (None, 0, ""), ("M", 3, "future"), (None, 0, "option")}


def test_hinted_types_are_mapped_back_to_dlt_types(pipeline: dlt.Pipeline, trades: pa.Table) -> None:
    """dlt compares the columns in the database with its schema."""
    columns = column_types(instrument_name="LowCardinality(String)", tick_direction="UInt8")
    pipeline.run(trades, table_name="trades", columns=columns)
    with pipeline.destination_client() as client:
        _, stored = client.get_storage_table("trades")
    assert stored["instrument_name"]["data_type"] == "text"
    assert stored["tick_direction"]["data_type"] == "bigint"
    assert stored["timestamp"]["data_type"] == "timestamp"
