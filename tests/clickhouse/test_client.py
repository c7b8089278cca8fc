"""One port, one warm pool, and a client's memory that does not grow with the file."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import dlt
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.settings import ClickHouseSettings
from tests.support.proxy import Proxy

NewPipeline = Callable[..., dlt.Pipeline]

_watchers: list[Callable[[tuple], None]] = []


def _audit(event: str, arguments: tuple) -> None:
    if event == "socket.connect":
        for watch in _watchers:
            watch(arguments[1])


# An audit hook cannot be taken away again; without a watcher it does nothing.
sys.addaudithook(_audit)


@pytest.fixture
def connected_ports() -> list[int]:
    """Every port that this process connects to while the test runs."""
    ports: list[int] = []
    watch = lambda address: ports.append(address[1] if isinstance(address, tuple) else address)  # noqa: E731
    _watchers.append(watch)
    yield ports
    _watchers.remove(watch)


def test_all_that_dlt_does_goes_through_one_port(
    new_pipeline: NewPipeline, proxy: Proxy, connected_ports: list[int]
) -> None:
    """Schema, state, files, merge, replace, restore, reading, drop; the server has no native port to begin with."""
    for directory in ("here", "there"):
        pipeline = new_pipeline(directory, port=proxy.port)
        pipeline.run(pa.table({"id": [1]}), table_name="trades", loader_file_format="parquet")
        pipeline.run([{"id": 1}], table_name="merged", write_disposition="merge", primary_key="id")
        pipeline.run([{"id": 1}], table_name="replaced", write_disposition="replace")
    pipeline.dataset().trades.arrow()
    with pipeline.destination_client() as client:
        client.drop_storage()

    mine = [port for port in connected_ports if port != proxy.target_port]
    assert mine, "the connections were seen"
    assert set(mine) == {proxy.port}


def test_load_jobs_share_warm_connections(
    new_pipeline: NewPipeline,
    proxy: Proxy,
    database: str,
    clickhouse_client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many files in several threads at once: no clash in a session, and few connections for many requests."""
    monkeypatch.setenv("LOAD__WORKERS", "4")
    monkeypatch.setenv("NORMALIZE__DATA_WRITER__FILE_MAX_ITEMS", "10")
    files = 40
    pipeline = new_pipeline(port=proxy.port)
    pipeline.run([{"id": n} for n in range(10 * files)], table_name="trades")
    pipeline.run([{"id": n} for n in range(10 * files)], table_name="trades")

    count = f"SELECT count(), uniqExact(id) FROM {database}.trades"
    assert clickhouse_client.query(count).result_rows == [(20 * files, 10 * files)]
    assert proxy.connections <= 6, "at most one for each worker and the main thread"


def test_a_file_is_streamed(pipeline: dlt.Pipeline, tmp_path: Path) -> None:
    """64 MB go through in pieces."""
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


def test_nothing_is_compressed_on_loopback_and_much_elsewhere(clickhouse: ClickHouseSettings) -> None:
    """Compression costs time where bytes cost none; it can be set."""
    from extract.clickhouse.client import open_client

    assert open_client(clickhouse).compression is None
    assert "zstd" in open_client(clickhouse, compress=True).compression
    assert open_client(clickhouse, compress="zstd").query("SELECT 1").result_rows == [(1,)]
