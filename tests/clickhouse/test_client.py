"""All traffic of a pipeline uses one port, few connections, and little memory."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dlt
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.client import open_database
from extract.clickhouse.embedded import config
from extract.clickhouse.embedded.server import embedded_server
from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import TapeError
from tests.support.proxy import Proxy

NewPipeline = Callable[..., dlt.Pipeline]

_watchers: list[Callable[[tuple], None]] = []


def _audit(event: str, arguments: tuple) -> None:
    if event == "socket.connect":
        for watch in _watchers:
            watch(arguments[1])


# An audit hook cannot be removed; without a watcher it does nothing.
sys.addaudithook(_audit)


@pytest.fixture
def connected_ports() -> list[int]:
    """Each port to which this process connects during the test."""
    ports: list[int] = []
    watch = lambda address: ports.append(address[1] if isinstance(address, tuple) else address)  # noqa: E731
    _watchers.append(watch)
    yield ports
    _watchers.remove(watch)


@pytest.mark.slow
def test_pipeline_connects_to_one_port(
    new_pipeline: NewPipeline, proxy: Proxy, connected_ports: list[int]
) -> None:
    """Schema, state, files, restore, reading and drop use the HTTP port; the server has no native port."""
    for directory in ("here", "there"):
        pipeline = new_pipeline(directory, port=proxy.port)
        pipeline.run(pa.table({"id": [1]}), table_name="trades", loader_file_format="parquet")
        pipeline.run([{"id": 1}], table_name="other")
    pipeline.dataset().trades.arrow()
    with pipeline.destination_client() as client:
        client.drop_storage()

    mine = [port for port in connected_ports if port != proxy.target_port]
    assert mine, "the audit hook works"
    assert set(mine) == {proxy.port}


@pytest.mark.slow
def test_load_jobs_share_connections(
    new_pipeline: NewPipeline,
    proxy: Proxy,
    database: str,
    clickhouse_client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many files in several threads at once, without a conflict of sessions, over few connections."""
    monkeypatch.setenv("LOAD__WORKERS", "4")
    monkeypatch.setenv("NORMALIZE__DATA_WRITER__FILE_MAX_ITEMS", "10")
    files = 40
    pipeline = new_pipeline(port=proxy.port)
    pipeline.run([{"id": n} for n in range(10 * files)], table_name="trades")
    pipeline.run([{"id": n} for n in range(10 * files)], table_name="trades")

    count = f"SELECT count(), uniqExact(id) FROM {database}.trades"
    assert clickhouse_client.query(count).result_rows == [(20 * files, 10 * files)]
    assert proxy.connections <= 6, "at most one for each worker and the main thread"


def test_file_is_streamed(pipeline: dlt.Pipeline, tmp_path: Path) -> None:
    """64 MB are sent in chunks."""
    pipeline.run([{"text": "x"}], table_name="trades")
    line = json.dumps({"text": "x" * 1_000_000, "_dlt_load_id": "1", "_dlt_id": "1"}) + "\n"
    with (tmp_path / "file").open("w") as file:
        for _ in range(64):
            file.write(line)
    with pipeline.sql_client() as client:
        client.insert_token = "a-token"
        tracemalloc.start()
        client.insert_file(str(tmp_path / "file"), "trades", "JSONEachRow", "none")
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert client.execute_sql("SELECT count() FROM trades") == [(65,)]
    assert peak_bytes < 8_000_000


def test_compression_is_off_on_loopback_and_on_elsewhere(clickhouse: ClickHouseSettings) -> None:
    """This is the default, because loopback has enough bandwidth; an argument overrides it."""
    from extract.clickhouse.client import open_client

    assert open_client(clickhouse).compression is None
    assert "zstd" in open_client(clickhouse, compress=True).compression
    assert open_client(clickhouse, compress="zstd").query("SELECT 1").result_rows == [(1,)]


@pytest.mark.slow
def test_statement_that_exceeds_a_limit_of_the_profile_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An insert is not ended early without an error, by any limit of a profile that says so."""
    users_xml = config.users_xml
    breaking = "<max_rows_to_read>1000</max_rows_to_read><group_by_overflow_mode>any</group_by_overflow_mode>"
    for what in ("read", "timeout", "result", "sort", "set", "join", "distinct", "transfer"):
        breaking += f"<{what}_overflow_mode>break</{what}_overflow_mode>"
    for what in ("read", "timeout"):
        breaking += f"<{what}_overflow_mode_leaf>break</{what}_overflow_mode_leaf>"

    def with_breaking_profile(*arguments: Any) -> str:
        text = users_xml(*arguments).replace("<profiles>", f"<profiles><breaking>{breaking}</breaking>", 1)
        return text.replace(
            "<profile>default</profile>\n            <quota>", "<profile>breaking</profile><quota>"
        )

    monkeypatch.setattr(config, "users_xml", with_breaking_profile)
    with embedded_server(tmp_path / "server") as settings:
        server = open_database(settings)
        names = server.column(
            "select name from system.settings where name like '%overflow_mode%' and value != 'throw'"
        )
        assert names == []
        server.command("create database mine")
        server.command("create table mine.numbers (id Int64) engine = MergeTree order by id")
        with pytest.raises(TapeError, match=r"[Ll]imit"):
            server.command("insert into mine.numbers select number from numbers(100000)")
        server.close()
