"""Each row of a load is in its table exactly once, whichever connection or process fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import dlt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.destination import dedup_tokens
from extract.clickhouse.settings import ClickHouseSettings
from tests.support.proxy import Proxy

BLOCK_ROWS = 100_000
"""A tenth of the real size, so that a file of several blocks is written quickly."""
MANY = 230_000  # more than two blocks
NewPipeline = Callable[..., dlt.Pipeline]


def numbers(count: int) -> pa.Table:
    return pa.table({"n": pa.array(range(count), pa.int64())})


def fingerprint(client: Client, database: str, table: str = "numbers") -> tuple[int, int, int]:
    """Rows, distinct numbers, sum of the numbers."""
    return client.query(f"SELECT count(), uniqExact(n), sum(n) FROM {database}.{table}").result_rows[0]


def complete(count: int) -> tuple[int, int, int]:
    return count, count, count * (count - 1) // 2


def insert_tokens(client: Client, database: str, table: str) -> list[str]:
    client.command("SYSTEM FLUSH LOGS query_log")
    rows = client.query(
        "SELECT Settings['insert_deduplication_token'] FROM system.query_log WHERE type = 'QueryFinish' "
        f"AND query_kind = 'Insert' AND has(tables, '{database}.{table}') ORDER BY event_time_microseconds"
    ).result_rows
    return [token for (token,) in rows]


def test_insert_is_retried_after_a_lost_response(
    new_pipeline: NewPipeline, proxy: Proxy, database: str, clickhouse_client: Client
) -> None:
    """The server has inserted, the client got no response, dlt runs the load job again: no duplicate row."""
    proxy.marker, proxy.lose_responses = b"numbers%60+FORMAT", 2
    new_pipeline(port=proxy.port).run(numbers(1000), table_name="numbers", loader_file_format="parquet")

    assert fingerprint(clickhouse_client, database) == complete(1000)
    first, *again = insert_tokens(clickhouse_client, database, "numbers")
    assert first.split("/")[1] == "numbers"
    assert again == [first, first], "two responses were lost, so three inserts have the same token"


def test_loader_killed_before_the_response_resumes_without_duplicates(
    new_pipeline: NewPipeline,
    proxy: Proxy,
    database: str,
    clickhouse: ClickHouseSettings,
    clickhouse_client: Client,
    tmp_path: Path,
) -> None:
    """kill -9 between insert and response; a new process finishes the package."""
    script = textwrap.dedent(f"""
        import dlt
        from extract.clickhouse.destination import tape_clickhouse
        from extract.clickhouse.settings import clickhouse_settings
        pipeline = dlt.pipeline("trades", destination=tape_clickhouse(clickhouse_settings("local")),
                                dataset_name={database!r}, pipelines_dir={str(tmp_path / "here")!r})
        pipeline.run([{{"n": n}} for n in range(1000)], table_name="numbers")
    """)
    proxy.marker, proxy.lose_responses = b"numbers%60+FORMAT", 1
    # The password is in the environment, because every user can read a command line.
    env = os.environ | {
        "CLICKHOUSE_LOCAL_HOST": "127.0.0.1",
        "CLICKHOUSE_LOCAL_PORT": str(proxy.port),
        "CLICKHOUSE_LOCAL_USER": clickhouse.user,
        "CLICKHOUSE_LOCAL_PASSWORD": clickhouse.password,
    }
    victim = subprocess.Popen(
        [sys.executable, "-c", script], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    proxy.on_lost = lambda: os.kill(victim.pid, signal.SIGKILL)
    _, errors = victim.communicate(timeout=60)
    assert victim.returncode == -signal.SIGKILL, errors.decode()
    assert fingerprint(clickhouse_client, database) == complete(1000)

    resumed = new_pipeline()
    assert resumed.has_pending_data
    resumed.load()

    assert fingerprint(clickhouse_client, database) == complete(1000)
    first, again = insert_tokens(clickhouse_client, database, "numbers")
    assert again == first


def write_parquet(path: Path) -> None:
    pq.write_table(numbers(MANY), path, row_group_size=15_000)


def write_jsonl(path: Path) -> None:
    path.write_text("\n".join([f'{{"n":{n}}}' for n in range(MANY)]))


@pytest.mark.parametrize(("write", "file_format"), [(write_parquet, "Parquet"), (write_jsonl, "JSONEachRow")])
def test_partially_inserted_file_is_completed_by_inserting_it_again(
    new_pipeline: NewPipeline,
    database: str,
    clickhouse_client: Client,
    tmp_path: Path,
    write: Callable,
    file_format: str,
) -> None:
    """The server stops in the third block of a file; the same file again adds exactly the missing rows."""
    pipeline = new_pipeline(insert_block_rows=BLOCK_ROWS)
    pipeline.run(numbers(0), table_name="numbers")
    write(tmp_path / "file")
    table = f"{database}.numbers"
    clickhouse_client.command(f"ALTER TABLE {table} ADD CONSTRAINT stop CHECK n < {MANY - 1000}")

    with pipeline.sql_client() as client:
        client.insert_token = "a-token"
        with pytest.raises(Exception, match="VIOLATED_CONSTRAINT"):
            client.insert_file(str(tmp_path / "file"), "numbers", file_format, "none")
        rows, *_ = fingerprint(clickhouse_client, database)
        assert 0 < rows < MANY - 1000, "some blocks are inserted, some are not"

        clickhouse_client.command(f"ALTER TABLE {table} DROP CONSTRAINT stop")
        for _ in range(2):
            client.insert_file(str(tmp_path / "file"), "numbers", file_format, "none")
            assert fingerprint(clickhouse_client, database) == complete(MANY)


def test_insert_is_completed_after_the_connection_broke_in_a_file(
    new_pipeline: NewPipeline,
    proxy: Proxy,
    database: str,
    clickhouse_client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection breaks after most of a large file has been sent."""
    monkeypatch.setenv("NORMALIZE__DATA_WRITER__DISABLE_COMPRESSION", "true")
    pipeline = new_pipeline(port=proxy.port, insert_block_rows=BLOCK_ROWS)
    pipeline.extract(numbers(MANY), table_name="numbers", loader_file_format="jsonl")
    pipeline.normalize()
    proxy.marker, proxy.cut_after_bytes = b"numbers%60+FORMAT", 2_500_000
    pipeline.load()

    assert proxy.cut_after_bytes is None, "the request was cut"
    assert fingerprint(clickhouse_client, database) == complete(MANY)


def test_select_is_inserted_as_one_block(
    pipeline: dlt.Pipeline, database: str, clickhouse_client: Client
) -> None:
    """Its rows may have another order the next time, so a partial insert could not be completed."""
    pipeline.run(numbers(0), table_name="numbers")
    with pipeline.sql_client() as client:
        client.insert_token = "a-token"
        for _ in range(2):
            client.execute_sql("INSERT INTO numbers (n) SELECT number FROM numbers_mt(3000000)")
            assert fingerprint(clickhouse_client, database) == complete(3_000_000)
    blocks = (
        f"SELECT max(max_block_number) FROM system.parts WHERE database = '{database}' AND table = 'numbers'"
    )
    assert clickhouse_client.command(blocks) == 1


def test_end_of_a_load_is_recorded_once(
    new_pipeline: NewPipeline, proxy: Proxy, database: str, clickhouse_client: Client
) -> None:
    """The response for the row in _dlt_loads is lost; loading again adds no second row for the package."""
    pipeline = new_pipeline(port=proxy.port)
    proxy.marker, proxy.lose_responses = b"_dlt_loads`(`load_id", 1
    with pytest.raises(Exception, match="broke"):
        pipeline.run(numbers(10), table_name="numbers")
    pipeline.load()

    assert clickhouse_client.query(f"SELECT status FROM {database}._dlt_loads").result_rows == [(0,)]
    assert fingerprint(clickhouse_client, database) == complete(10)


def test_every_insert_of_a_load_has_a_token(
    pipeline: dlt.Pipeline, database: str, clickhouse_client: Client
) -> None:
    """Including inserts into dlt's tables."""
    pipeline.run(numbers(10), table_name="numbers")
    for table in ("numbers", "_dlt_loads", "_dlt_version", "_dlt_pipeline_state"):
        tokens_ = insert_tokens(clickhouse_client, database, table)
        assert tokens_, table
        assert all(table in token for token in tokens_), (table, tokens_)


def test_same_rows_in_another_load_are_inserted(
    pipeline: dlt.Pipeline, database: str, clickhouse_client: Client
) -> None:
    """Deduplication is by load job, never by content."""
    for _ in range(2):
        pipeline.run(numbers(10), table_name="numbers")
    assert fingerprint(clickhouse_client, database) == (20, 10, 90)


def test_truncated_table_accepts_the_same_file_again(
    pipeline: dlt.Pipeline, database: str, clickhouse_client: Client, tmp_path: Path
) -> None:
    """dlt truncates again when it resumes a package; the tokens must be deleted with their rows."""
    pipeline.run(numbers(0), table_name="numbers")
    pq.write_table(numbers(10), tmp_path / "file")
    with pipeline.sql_client() as client:
        client.insert_token = "a-token"
        for _ in range(2):
            client.insert_file(str(tmp_path / "file"), "numbers", "Parquet", "auto")
            assert fingerprint(clickhouse_client, database) == complete(10)
            client.truncate_tables("numbers")
            assert fingerprint(clickhouse_client, database)[0] == 0


def test_existing_table_gets_the_settings_that_it_lacks(
    pipeline: dlt.Pipeline, database: str, clickhouse_client: Client
) -> None:
    """A table that another program created stores no tokens, and its inserts do not survive a power cut, until then."""
    pipeline.run(numbers(1), table_name="numbers")
    names = ", ".join(SETTINGS)
    clickhouse_client.command(f"ALTER TABLE {database}.numbers RESET SETTING {names}")
    pipeline.run(numbers(1), table_name="numbers")
    definitions = clickhouse_client.query(
        f"SELECT name, engine_full FROM system.tables WHERE database = '{database}'"
    )
    for name, definition in definitions.result_rows:
        for setting, value in SETTINGS.items():
            assert f"{setting} = {value}" in definition, name


SETTINGS = {
    "non_replicated_deduplication_window": dedup_tokens.WINDOW_BLOCKS,
    "fsync_after_insert": 1,
    "fsync_part_directory": 1,
}
REPLICATED_SETTINGS = {"replicated_deduplication_window_seconds": dedup_tokens.WINDOW_SECONDS}


@pytest.mark.parametrize(
    ("engine", "settings"),
    [
        ("MergeTree", SETTINGS),
        ("ReplacingMergeTree", SETTINGS),
        ("ReplicatedMergeTree", REPLICATED_SETTINGS),
        ("SharedReplacingMergeTree", REPLICATED_SETTINGS),
        ("View", {}),
        ("Memory", {}),
    ],
)
def test_table_settings_depend_on_the_engine(engine: str, settings: dict[str, int]) -> None:
    """Plain engines count blocks and have none by default; replicated ones count seconds, an hour by default."""
    assert dedup_tokens.table_settings(engine) == settings


def test_token_is_the_same_for_each_attempt() -> None:
    """dlt renames a file for each retry; the token does not change."""
    assert dedup_tokens.file_token("17.5", "trades.ab12.0.parquet") == dedup_tokens.file_token(
        "17.5", "trades.ab12.3.parquet"
    )
    assert dedup_tokens.file_token("17.5", "trades.ab12.0.parquet") != dedup_tokens.file_token(
        "17.5", "trades.ab13.0.parquet"
    )
    assert dedup_tokens.file_token("17.5", "trades.ab12.0.parquet") != dedup_tokens.file_token(
        "17.6", "trades.ab12.0.parquet"
    )


def test_file_without_a_token_is_not_inserted(pipeline: dlt.Pipeline, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pipeline.sql_client() as client, pytest.raises(ValueError, match="token"):
        client.insert_file(str(tmp_path / "file"), "numbers", "JSONEachRow", "none")
