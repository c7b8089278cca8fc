"""Everything that dlt does on ClickHouse: datasets, schemas, dispositions, state, reading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import dlt
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from dlt.common.pipeline import LoadInfo

NewPipeline = Callable[..., dlt.Pipeline]

ODD_TEXTS = [
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


def test_a_dataset_is_a_database_with_plain_table_names(
    pipeline: dlt.Pipeline, database: str, clickhouse_client: Client
) -> None:
    """The database is made when missing; nothing but dlt's tables and ours is in it."""
    pipeline.run([{"id": 1, "legs": [{"a": 1}]}], table_name="trades")
    tables = clickhouse_client.query(
        f"SELECT name FROM system.tables WHERE database = '{database}'"
    ).result_columns[0]
    assert set(tables) == {"trades", "trades__legs", "_dlt_loads", "_dlt_version", "_dlt_pipeline_state"}


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_values_of_every_type_come_back_as_they_went(pipeline: dlt.Pipeline, file_format: str) -> None:
    """Whichever file carries them."""
    row = {
        "id": 2**62,
        "price": 0.1,
        "amount": Decimal("12345.123456789"),
        "flag": True,
        "at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        "day": date(2019, 3, 30),
        "nothing": None,
    }
    odd = [{**row, "text": text} for text in ODD_TEXTS]
    pipeline.run(
        odd, table_name="trades", loader_file_format=file_format, columns={"nothing": {"data_type": "bigint"}}
    )

    names = [*row, "text"]
    loaded = rows(pipeline, f"SELECT {', '.join(names)} FROM trades")
    assert {row[-1] for row in loaded} == set(ODD_TEXTS)
    assert {row[:-1] for row in loaded} == {tuple(row.values())}


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_query_parameters_are_quoted(pipeline: dlt.Pipeline, text: str) -> None:
    """Positional and named, beside a literal per cent."""
    pipeline.run([{"id": 1}], table_name="trades")
    assert rows(pipeline, "SELECT %s, 7 % 4, 'a' LIKE '%a%'", text) == [(text, 3, 1)]
    with pipeline.sql_client() as client:
        assert client.execute_sql("SELECT %(t)s, %(n)s", t=text, n=None)[0] == (text, None)


def test_parquet_may_lack_a_nullable_column_and_have_its_own_order(pipeline: dlt.Pipeline) -> None:
    pipeline.run(pa.table({"a": [1], "b": ["x"]}), table_name="trades")
    pipeline.run(pa.table({"b": ["y"], "a": [2]}), table_name="trades")
    pipeline.run(pa.table({"a": [3]}), table_name="trades")
    assert rows(pipeline, "SELECT a, b FROM trades ORDER BY a") == [(1, "x"), (2, "y"), (3, None)]


def test_a_new_column_is_added(pipeline: dlt.Pipeline, database: str, clickhouse_client: Client) -> None:
    """And rows from before have nothing in it."""
    pipeline.run([{"id": 1}], table_name="trades")
    pipeline.run([{"id": 2, "iv": 0.5}], table_name="trades")
    assert columns(clickhouse_client, database, "trades")["iv"] == "Nullable(Float64)"
    assert rows(pipeline, "SELECT id, iv FROM trades ORDER BY id") == [(1, None), (2, 0.5)]


@pytest.mark.parametrize("strategy", ["truncate-and-insert", "insert-from-staging", "staging-optimized"])
def test_replace_leaves_the_last_load(new_pipeline: NewPipeline, strategy: str) -> None:
    pipeline = new_pipeline(replace_strategy=strategy)
    for count in (3, 2):
        pipeline.run([{"id": n} for n in range(count)], table_name="trades", write_disposition="replace")
    assert rows(pipeline, "SELECT id FROM trades ORDER BY id") == [(0,), (1,)]


def test_merge_updates_by_key_with_children(pipeline: dlt.Pipeline) -> None:
    for load in ([{"id": 1, "v": 1, "legs": [1, 2]}, {"id": 2, "v": 1}], [{"id": 1, "v": 2, "legs": [3]}]):
        pipeline.run(load, table_name="trades", write_disposition="merge", primary_key="id")
    assert rows(pipeline, "SELECT id, v FROM trades ORDER BY id") == [(1, 2), (2, 1)]
    assert rows(pipeline, "SELECT value FROM trades__legs") == [(3,)]


def test_merge_keeps_history_as_scd2(pipeline: dlt.Pipeline) -> None:
    scd2 = {"disposition": "merge", "strategy": "scd2"}
    for value in (1, 2):
        pipeline.run([{"id": 1, "v": value}], table_name="trades", write_disposition=scd2)
    assert rows(pipeline, "SELECT v, isNull(_dlt_valid_to) FROM trades ORDER BY v") == [(1, 0), (2, 1)]


def test_another_machine_finds_the_state(new_pipeline: NewPipeline) -> None:
    """An incremental cursor goes on where it stood, from a working directory that knows nothing."""

    @dlt.resource(name="trades")
    def trades(seen: Any = dlt.sources.incremental("id", initial_value=0)) -> Iterator[dict]:  # noqa: B008
        yield from ({"id": n} for n in range(seen.last_value + 1, seen.last_value + 4))

    new_pipeline("here").run(trades())
    new_pipeline("there").run(trades())
    assert rows(new_pipeline("there"), "SELECT id FROM trades ORDER BY id") == [(n,) for n in range(1, 7)]


def test_a_pipeline_without_a_dataset_uses_the_raw_database(clean_clickhouse: Any, tmp_path: Any) -> None:
    from extract.clickhouse.destination import tape_clickhouse

    pipeline = dlt.pipeline(
        "trades", destination=tape_clickhouse(clean_clickhouse), pipelines_dir=str(tmp_path)
    )
    pipeline.run([{"id": 1}], table_name="trades")
    assert rows(pipeline, "SELECT id FROM deribit_raw.trades") == [(1,)]


def test_a_refresh_drops_and_makes_anew(pipeline: dlt.Pipeline) -> None:
    pipeline.run([{"id": 1}], table_name="trades")
    pipeline.run([{"id": 2}], table_name="trades", refresh="drop_sources")
    assert rows(pipeline, "SELECT id FROM trades") == [(2,)]
    assert rows(pipeline, "SELECT count() > 0 FROM _dlt_version") == [(1,)]


def test_drop_takes_the_database_away(
    pipeline: dlt.Pipeline, database: str, clickhouse_client: Client
) -> None:
    """And its staging database, if there is one."""
    pipeline.run([{"id": 1}], table_name="trades", write_disposition="merge", primary_key="id")
    with pipeline.destination_client() as client:
        assert client.is_storage_initialized()
        client.drop_storage()
        assert not client.is_storage_initialized()
    left = clickhouse_client.query(
        f"SELECT name FROM system.databases WHERE name LIKE '{database}%'"
    ).result_rows
    assert left == []


def test_a_model_is_inserted_by_the_server(pipeline: dlt.Pipeline) -> None:
    """dlt's `model` jobs, INSERT … SELECT: once for each load."""
    pipeline.run([{"id": 1}, {"id": 2}], table_name="trades")

    @dlt.resource(name="doubled", columns={"id": {"data_type": "bigint"}})
    def doubled() -> Any:
        yield pipeline.dataset()("SELECT id * 2 AS id FROM trades")

    pipeline.run(doubled())
    assert rows(pipeline, "SELECT id FROM doubled ORDER BY id") == [(2,), (4,)]


def test_a_dataset_is_read_as_rows_and_as_arrow(pipeline: dlt.Pipeline) -> None:
    info: LoadInfo = pipeline.run([{"id": n, "text": f"t{n}"} for n in range(5)], table_name="trades")
    trades = pipeline.dataset().trades
    assert trades.arrow().num_rows == 5
    assert sorted(row[0] for row in trades.fetchall()) == [0, 1, 2, 3, 4]
    assert trades.select("id").limit(2).arrow().column_names == ["id"]
    assert pipeline.dataset().row_counts().fetchall() == [("trades", 5)]
    assert not info.has_failed_jobs
