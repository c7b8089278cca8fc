"""Whatever breaks between us and the server, every row is in the table exactly once."""

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
MANY = 230_000  # more than two blocks
NewPipeline = Callable[..., dlt.Pipeline]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's insert blocks are a tenth of what they are, so that a file of many blocks is made quickly."""
    for name in ("max_insert_block_size", "min_insert_block_size_rows"):
        monkeypatch.setitem(dedup_tokens._FIXED_BLOCKS, name, BLOCK_ROWS)
    monkeypatch.setitem(dedup_tokens._FIXED_BLOCKS, "input_format_parquet_max_block_size", BLOCK_ROWS // 16)


def numbers(count: int) -> pa.Table:
    return pa.table({"n": pa.array(range(count), pa.int64())})


def fingerprint(client: Client, database: str, table: str = "numbers") -> tuple[int, int, int]:
    """(rows, different numbers, their sum)."""
    return client.query(f"SELECT count(), uniqExact(n), sum(n) FROM {database}.{table}").result_rows[0]


def whole(count: int) -> tuple[int, int, int]:
    return count, count, count * (count - 1) // 2


def insert_tokens(client: Client, database: str, table: str) -> list[str]:
    client.command("SYSTEM FLUSH LOGS query_log")
    rows = client.query(
        "SELECT Settings['insert_deduplication_token'] FROM system.query_log WHERE type = 'QueryFinish' "
        f"AND query_kind = 'Insert' AND has(tables, '{database}.{table}') ORDER BY event_time_microseconds"
    ).result_rows
    return [token for (token,) in rows]


def test_an_insert_whose_answer_is_lost_is_tried_again_and_counts_once(
    new_pipeline: NewPipeline, proxy: Proxy, database: str, clickhouse_client: Client
) -> None:
    """The server has inserted, the client never heard of it, dlt runs the load job again: no row twice."""
    proxy.marker, proxy.lose_responses = b"numbers%60+FORMAT", 2
    new_pipeline(port=proxy.port).run(numbers(1000), table_name="numbers", loader_file_format="parquet")

    assert fingerprint(clickhouse_client, database) == whole(1000)
    first, *again = insert_tokens(clickhouse_client, database, "numbers")
    assert first.split("/")[1] == "numbers"
    assert again == [first, first], "the answer was lost twice, so the same token comes three times"


def test_a_loader_killed_before_it_hears_the_answer_resumes_without_repeating(
    new_pipeline: NewPipeline,
    proxy: Proxy,
    database: str,
    clickhouse: ClickHouseSettings,
    clickhouse_client: Client,
    tmp_path: Path,
) -> None:
    """kill -9 between insert and acknowledgement; a new process finishes the package."""
    script = textwrap.dedent(f"""
        import dlt
        from extract.clickhouse.destination import tape_clickhouse
        from extract.clickhouse.settings import clickhouse_settings
        pipeline = dlt.pipeline("trades", destination=tape_clickhouse(clickhouse_settings("local")),
                                dataset_name={database!r}, pipelines_dir={str(tmp_path / "here")!r})
        pipeline.run([{{"n": n}} for n in range(1000)], table_name="numbers")
    """)
    proxy.marker, proxy.lose_responses = b"numbers%60+FORMAT", 1
    # The password goes by the environment: a command line is everybody's to read.
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
    assert fingerprint(clickhouse_client, database) == whole(1000)

    resumed = new_pipeline()
    assert resumed.has_pending_data
    resumed.load()

    assert fingerprint(clickhouse_client, database) == whole(1000)
    first, again = insert_tokens(clickhouse_client, database, "numbers")
    assert again == first


def write_parquet(path: Path) -> None:
    pq.write_table(numbers(MANY), path, row_group_size=15_000)


def write_jsonl(path: Path) -> None:
    path.write_text("\n".join([f'{{"n":{n}}}' for n in range(MANY)]))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("write", "file_format"), [(write_parquet, "Parquet"), (write_jsonl, "JSONEachRow")])
def test_a_file_inserted_in_part_is_completed_by_inserting_it_again(
    pipeline: dlt.Pipeline,
    database: str,
    clickhouse_client: Client,
    tmp_path: Path,
    write: Callable,
    file_format: str,
) -> None:
    """The server stops in the third block of a file; the same file again fills in exactly what is missing."""
    pipeline.run(numbers(0), table_name="numbers")
    write(tmp_path / "file")
    table = f"{database}.numbers"
    clickhouse_client.command(f"ALTER TABLE {table} ADD CONSTRAINT stop CHECK n < {MANY - 1000}")

    with pipeline.sql_client() as client:
        client.insert_token = "a-token"
        with pytest.raises(Exception, match="VIOLATED_CONSTRAINT"):
            client.insert_file(str(tmp_path / "file"), "numbers", file_format, "none")
        rows, *_ = fingerprint(clickhouse_client, database)
        assert 0 < rows < MANY - 1000, "some blocks are in, some are not"

        clickhouse_client.command(f"ALTER TABLE {table} DROP CONSTRAINT stop")
        for _ in range(2):
            client.insert_file(str(tmp_path / "file"), "numbers", file_format, "none")
            assert fingerprint(clickhouse_client, database) == whole(MANY)


@pytest.mark.usefixtures("small_blocks")
def test_a_request_cut_in_the_middle_of_a_file_is_completed_by_the_retry(
    new_pipeline: NewPipeline,
    proxy: Proxy,
    database: str,
    clickhouse_client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection breaks after most of a large file is with the server."""
    monkeypatch.setenv("NORMALIZE__DATA_WRITER__DISABLE_COMPRESSION", "true")
    pipeline = new_pipeline(port=proxy.port)
    pipeline.extract(numbers(MANY), table_name="numbers", loader_file_format="jsonl")
    pipeline.normalize()
    proxy.marker, proxy.cut_after_bytes = b"numbers%60+FORMAT", 2_500_000
    pipeline.load()

    assert proxy.cut_after_bytes is None, "the request was cut"
    assert fingerprint(clickhouse_client, database) == whole(MANY)


def test_a_select_is_inserted_as_one_block(
    pipeline: dlt.Pipeline, database: str, clickhouse_client: Client
) -> None:
    """Its rows may come in another order the next time, so that part of it could not be completed."""
    pipeline.run(numbers(0), table_name="numbers")
    with pipeline.sql_client() as client:
        client.insert_token = "a-token"
        for _ in range(2):
            client.execute_sql("INSERT INTO numbers SELECT number FROM numbers_mt(3000000)")
            assert fingerprint(clickhouse_client, database) == whole(3_000_000)
    blocks = (
        f"SELECT max(max_block_number) FROM system.parts WHERE database = '{database}' AND table = 'numbers'"
    )
    assert clickhouse_client.command(blocks) == 1


def test_the_end_of_a_load_is_noted_once(
    new_pipeline: NewPipeline, proxy: Proxy, database: str, clickhouse_client: Client
) -> None:
    """The row in _dlt_loads is written, its answer lost; running again adds no second row for the package."""
    pipeline = new_pipeline(port=proxy.port)
    proxy.marker, proxy.lose_responses = b"_dlt_loads`(`load_id", 1
    with pytest.raises(Exception, match="broke"):
        pipeline.run(numbers(10), table_name="numbers")
    pipeline.load()

    assert clickhouse_client.query(f"SELECT status FROM {database}._dlt_loads").result_rows == [(0,)]
    assert fingerprint(clickhouse_client, database) == whole(10)


def test_every_insert_of_an_appending_load_bears_a_token(
    pipeline: dlt.Pipeline, database: str, clickhouse_client: Client
) -> None:
    """dlt's own tables too."""
    pipeline.run(numbers(10), table_name="numbers")
    for table in ("numbers", "_dlt_loads", "_dlt_version", "_dlt_pipeline_state"):
        tokens_ = insert_tokens(clickhouse_client, database, table)
        assert tokens_, table
        assert all(table in token for token in tokens_), (table, tokens_)


def test_the_same_rows_in_another_load_are_other_rows(
    pipeline: dlt.Pipeline, database: str, clickhouse_client: Client
) -> None:
    """Only the same load job is dropped as known, never the same content."""
    for _ in range(2):
        pipeline.run(numbers(10), table_name="numbers")
    assert fingerprint(clickhouse_client, database) == (20, 10, 90)


@pytest.mark.parametrize("disposition", ["merge", "replace"])
@pytest.mark.parametrize("strategy", ["truncate-and-insert", "insert-from-staging", "staging-optimized"])
def test_the_same_content_merged_or_replaced_again_stays_whole(
    new_pipeline: NewPipeline, database: str, clickhouse_client: Client, disposition: str, strategy: str
) -> None:
    """A merge deletes and inserts the very same rows: they must not be dropped as already known."""
    if disposition == "merge" and strategy != "truncate-and-insert":
        pytest.skip("replace strategies are for replace")
    pipeline = new_pipeline(replace_strategy=strategy)
    for _ in range(3):
        pipeline.run(numbers(10), table_name="numbers", write_disposition=disposition, primary_key="n")
        assert fingerprint(clickhouse_client, database) == whole(10)


@pytest.mark.parametrize("disposition", ["merge", "replace"])
def test_a_merge_or_replace_whose_answer_is_lost_is_repeated_whole(
    new_pipeline: NewPipeline, proxy: Proxy, database: str, clickhouse_client: Client, disposition: str
) -> None:
    """Its statements delete before they insert, so they may run twice; a token would lose the second insert."""
    pipeline = new_pipeline(port=proxy.port, replace_strategy="insert-from-staging")
    for _ in range(2):
        proxy.marker, proxy.lose_responses = f"INSERT INTO `{database}`.`numbers`".encode(), 1
        pipeline.run(numbers(10), table_name="numbers", write_disposition=disposition, primary_key="n")
        assert proxy.lose_responses == 0, "the answer to the statement was lost"
        assert fingerprint(clickhouse_client, database) == whole(10)


def test_a_truncated_table_takes_the_same_file_again(
    pipeline: dlt.Pipeline, database: str, clickhouse_client: Client, tmp_path: Path
) -> None:
    """dlt truncates again when it resumes a package; the tokens of the rows that are gone must be gone too."""
    pipeline.run(numbers(0), table_name="numbers")
    pq.write_table(numbers(10), tmp_path / "file")
    with pipeline.sql_client() as client:
        client.insert_token = "a-token"
        for _ in range(2):
            client.insert_file(str(tmp_path / "file"), "numbers", "Parquet", "auto")
            assert fingerprint(clickhouse_client, database) == whole(10)
            client.truncate_tables("numbers")
            assert fingerprint(clickhouse_client, database)[0] == 0


def test_tables_made_without_a_window_get_one(
    pipeline: dlt.Pipeline, database: str, clickhouse_client: Client
) -> None:
    """A table from elsewhere remembers no token until the destination sees it."""
    pipeline.run(numbers(1), table_name="numbers")
    clickhouse_client.command(
        f"ALTER TABLE {database}.numbers RESET SETTING non_replicated_deduplication_window"
    )
    pipeline.run(numbers(1), table_name="numbers")
    definitions = clickhouse_client.query(
        f"SELECT name, engine_full FROM system.tables WHERE database = '{database}'"
    )
    for name, definition in definitions.result_rows:
        assert f"non_replicated_deduplication_window = {dedup_tokens.WINDOW_BLOCKS}" in definition, name


@pytest.mark.parametrize(
    ("engine", "setting"),
    [
        ("MergeTree", ("non_replicated_deduplication_window", dedup_tokens.WINDOW_BLOCKS)),
        ("ReplacingMergeTree", ("non_replicated_deduplication_window", dedup_tokens.WINDOW_BLOCKS)),
        ("ReplicatedMergeTree", ("replicated_deduplication_window_seconds", dedup_tokens.WINDOW_SECONDS)),
        (
            "SharedReplacingMergeTree",
            ("replicated_deduplication_window_seconds", dedup_tokens.WINDOW_SECONDS),
        ),
        ("View", None),
        ("Memory", None),
    ],
)
def test_the_window_is_said_in_the_words_of_the_engine(engine: str, setting: tuple[str, int] | None) -> None:
    """Plain engines count blocks and have none by default; replicated ones count seconds, an hour by default."""
    assert dedup_tokens.window_setting(engine) == setting


def test_a_token_is_the_same_for_every_attempt() -> None:
    """dlt renames a file with each retry; its token stays."""
    assert dedup_tokens.file_token("17.5", "trades.ab12.0.parquet") == dedup_tokens.file_token(
        "17.5", "trades.ab12.3.parquet"
    )
    assert dedup_tokens.file_token("17.5", "trades.ab12.0.parquet") != dedup_tokens.file_token(
        "17.5", "trades.ab13.0.parquet"
    )
    assert dedup_tokens.file_token("17.5", "trades.ab12.0.parquet") != dedup_tokens.file_token(
        "17.6", "trades.ab12.0.parquet"
    )


def test_a_file_without_a_token_is_not_inserted(pipeline: dlt.Pipeline, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pipeline.sql_client() as client, pytest.raises(ValueError, match="token"):
        client.insert_file(str(tmp_path / "file"), "numbers", "JSONEachRow", "none")
