"""Pipelines of dlt on ClickHouse: datasets, types, new columns, state, query parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import dlt
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client

NewPipeline = Callable[..., dlt.Pipeline]

SPECIAL_TEXTS = [
    "it's",
    'say "x"',
    "back\\slash",
    "100 % sure %s",
    "{a:String}",
    "a;b",
    "ünïcødé ✓",
    "tab\tnew\nline",
    "",
]


def rows(pipeline: dlt.Pipeline, query: str, *args: Any) -> list[tuple]:
    with pipeline.sql_client() as client:
        return [tuple(row) for row in client.execute_sql(query, *args)]


def columns(client: Client, database: str, table: str) -> dict[str, str]:
    query = f"SELECT name, type FROM system.columns WHERE database = '{database}' AND table = '{table}'"
    return dict(client.query(query).result_rows)


def test_dataset_is_a_database_with_plain_table_names(
    pipeline: dlt.Pipeline, database: str, clickhouse_client: Client
) -> None:
    """A missing database is created; it has the tables of the run and those of dlt only."""
    pipeline.run([{"id": 1, "legs": [{"a": 1}]}], table_name="trades")
    tables = clickhouse_client.query(
        f"SELECT name FROM system.tables WHERE database = '{database}'"
    ).result_columns[0]
    assert set(tables) == {"trades", "trades__legs", "_dlt_loads", "_dlt_version", "_dlt_pipeline_state"}


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_values_of_every_type_round_trip(pipeline: dlt.Pipeline, file_format: str) -> None:
    """Each file format that a run uses returns the values unchanged."""
    row = {
        "id": 2**62,
        "price": 0.1,
        "amount": Decimal("12345.123456789"),
        "flag": True,
        "at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        "day": date(2019, 3, 30),
        "nothing": None,
    }
    records = [{**row, "text": text} for text in SPECIAL_TEXTS]
    pipeline.run(
        records,
        table_name="trades",
        loader_file_format=file_format,
        columns={"nothing": {"data_type": "bigint"}},
    )

    names = [*row, "text"]
    loaded = rows(pipeline, f"SELECT {', '.join(names)} FROM trades")
    assert {row[-1] for row in loaded} == set(SPECIAL_TEXTS)
    assert {row[:-1] for row in loaded} == {tuple(row.values())}


@pytest.mark.parametrize("text", SPECIAL_TEXTS)
def test_query_parameters_are_quoted(pipeline: dlt.Pipeline, text: str) -> None:
    """Positional and named ones, next to a literal per cent sign."""
    pipeline.run([{"id": 1}], table_name="trades")
    assert rows(pipeline, "SELECT %s, 7 % 4, 'a' LIKE '%a%'", text) == [(text, 3, 1)]
    with pipeline.sql_client() as client:
        assert client.execute_sql("SELECT %(t)s, %(n)s", t=text, n=None)[0] == (text, None)


def test_parquet_columns_may_be_missing_or_reordered(pipeline: dlt.Pipeline) -> None:
    pipeline.run(pa.table({"a": [1], "b": ["x"]}), table_name="trades")
    pipeline.run(pa.table({"b": ["y"], "a": [2]}), table_name="trades")
    pipeline.run(pa.table({"a": [3]}), table_name="trades")
    assert rows(pipeline, "SELECT a, b FROM trades ORDER BY a") == [(1, "x"), (2, "y"), (3, None)]


def test_new_column_is_added(pipeline: dlt.Pipeline, database: str, clickhouse_client: Client) -> None:
    """Earlier rows have NULL in it."""
    pipeline.run([{"id": 1}], table_name="trades")
    pipeline.run([{"id": 2, "iv": 0.5}], table_name="trades")
    assert columns(clickhouse_client, database, "trades")["iv"] == "Nullable(Float64)"
    assert rows(pipeline, "SELECT id, iv FROM trades ORDER BY id") == [(1, None), (2, 0.5)]


def test_state_is_restored_on_another_machine(new_pipeline: NewPipeline) -> None:
    """An incremental cursor continues from an empty working directory."""

    @dlt.resource(name="trades")
    def trades(seen: Any = dlt.sources.incremental("id", initial_value=0)) -> Iterator[dict]:  # noqa: B008
        yield from ({"id": n} for n in range(seen.last_value + 1, seen.last_value + 4))

    new_pipeline("here").run(trades())
    new_pipeline("there").run(trades())
    assert rows(new_pipeline("there"), "SELECT id FROM trades ORDER BY id") == [(n,) for n in range(1, 7)]


def test_pipeline_without_a_dataset_uses_the_raw_database(clean_clickhouse: Any, tmp_path: Any) -> None:
    from extract.clickhouse.destination import tape_clickhouse

    pipeline = dlt.pipeline(
        "trades", destination=tape_clickhouse(clean_clickhouse), pipelines_dir=str(tmp_path)
    )
    pipeline.run([{"id": 1}], table_name="trades")
    assert rows(pipeline, "SELECT id FROM deribit_raw.trades") == [(1,)]


def test_drop_storage_drops_the_database(
    pipeline: dlt.Pipeline, database: str, clickhouse_client: Client
) -> None:
    pipeline.run([{"id": 1}], table_name="trades")
    with pipeline.destination_client() as client:
        assert client.is_storage_initialized()
        client.drop_storage()
        assert not client.is_storage_initialized()
    databases = clickhouse_client.query(
        f"SELECT name FROM system.databases WHERE name LIKE '{database}%'"
    ).result_rows
    assert databases == []
