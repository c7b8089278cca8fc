"""`tape schema-align` reports each difference between two real servers, with the declared and both actual values."""

from __future__ import annotations

import io
import json
import ssl
from collections.abc import Iterator
from contextlib import redirect_stdout
from types import SimpleNamespace

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from extract.cli.main import tape
from extract.clickhouse.embedded.server import embedded_server
from extract.errors import CannotTellError, UsageError
from extract.schema.align import find_differences
from extract.schema.catalogue import facts_sql
from harness.dbt_project import Project
from tests.dbt.test_schema_drift import DRIFTS, NONE, plant
from tests.support.certificates import Authority, needs_openssl
from tests.support.proxy import proxy_to

pytestmark = [
    pytest.mark.slow,  # builds every model on two servers
    needs_openssl,
]


@pytest.fixture(scope="module")
def cloud(dbt: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A second server behind TLS with its own authority, which the environment configures as the target cloud."""
    authority = Authority(tmp_path_factory.mktemp("cloud") / "ca")
    server = authority.signed("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.cert, server.key)
    with (
        embedded_server(
            tmp_path_factory.mktemp("cloud-server"), user="writer", password="its own"
        ) as settings,
        proxy_to(settings.port, context) as proxy,
        pytest.MonkeyPatch.context() as env,
    ):
        env.setenv("TAPE_DIR", str(tmp_path_factory.mktemp("tape")))
        env.setenv("CLICKHOUSE_CLOUD_HOST", "127.0.0.1")
        env.setenv("CLICKHOUSE_CLOUD_PORT", str(proxy.port))
        env.setenv("CLICKHOUSE_CLOUD_USER", settings.user)
        env.setenv("CLICKHOUSE_CLOUD_PASSWORD", settings.password)
        env.setenv("CLICKHOUSE_CLOUD_CA_CERT", str(authority.ca.cert))
        with clickhouse_connect.get_client(
            host=settings.host, port=settings.port, username=settings.user, password=settings.password
        ) as client:
            yield client


@pytest.fixture(scope="module")
def both(dbt: Project, cloud: Client) -> Client:
    """The project built on local, and the same tables created on cloud."""
    dbt.empty()
    for database in ("deribit_raw", "deribit"):
        cloud.command(f"CREATE DATABASE IF NOT EXISTS {database}")
    tables = dbt.rows("SELECT database, name FROM system.tables WHERE database IN ('deribit_raw', 'deribit')")
    # Raw tables, then tables, then the views that read them.
    for row in sorted(tables, key=lambda row: (row["database"] == "deribit", "_" not in row["name"])):
        cloud.command(_ddl(dbt.client, f"{row['database']}.{row['name']}"))
    return cloud


def _ddl(client: Client, table: str) -> str:
    ddl: str = client.command(f"SHOW CREATE TABLE {table} FORMAT TSVRaw")
    return ddl.replace("CREATE VIEW", "CREATE OR REPLACE VIEW").replace(
        "CREATE TABLE", "CREATE OR REPLACE TABLE"
    )


@pytest.fixture(scope="module")
def differing(dbt: Project, both: Client) -> dict[tuple[str, str], dict[str, str | None]]:
    """Differences by table and property: none at first, then one of each kind planted on cloud, and one on local."""
    assert find_differences() == []
    for table in DRIFTS:
        plant(SimpleNamespace(client=both), table)  # type: ignore[arg-type]
    both.command("DROP VIEW deribit.ohlcv_1mo")
    both.command("CREATE TABLE deribit.forgotten (x UInt8) ENGINE = MergeTree ORDER BY x")
    both.command("ALTER TABLE deribit.moved_trades ADD COLUMN planted UInt8 FIRST")
    both.command("ALTER TABLE deribit_raw.trades MODIFY COLUMN price Float32")
    both.command("CREATE TABLE deribit_raw.instrument_tails (x UInt8) ENGINE = MergeTree ORDER BY x")
    dbt.client.command("CREATE TABLE deribit_raw.pushes (x UInt8) ENGINE = MergeTree ORDER BY x")
    dbt.client.command("ALTER TABLE deribit.consumed_loads MODIFY COLUMN load_id String CODEC(ZSTD(7))")
    with redirect_stdout(io.StringIO()) as output:
        assert tape.main(["schema-align", "--json"], standalone_mode=False) == 1
    return {(each["table"], each["thing"]): each for each in json.loads(output.getvalue())}


@pytest.mark.parametrize("table", DRIFTS)
def test_each_kind_of_drift_on_cloud_is_reported(differing: dict, table: str) -> None:
    """Columns, types, codecs, engine, version column, keys, TTL, index: declared, local, cloud."""
    for _, _, facts in DRIFTS[table]:
        for name, declared, actual in facts:
            row = next(
                each
                for (of, property_), each in differing.items()
                if of == f"deribit.{table}" and property_.startswith(name)
            )
            assert row["local"] == row["declared"]
            assert (row["declared"] is None) if declared == NONE else (declared in row["declared"])
            assert (row["cloud"] is None) if actual == NONE else (actual in row["cloud"])


def test_drift_on_local_is_distinguished_from_drift_on_cloud(differing: dict) -> None:
    """Only the side that drifted differs from the declared value."""
    row = differing["deribit.consumed_loads", "codec of load_id"]
    assert (row["declared"], row["local"], row["cloud"]) == (None, "ZSTD(7)", None)


def test_raw_tables_of_both_sides_are_compared(differing: dict) -> None:
    """They have no declared properties."""
    row = differing["deribit_raw.trades", "type of price"]
    assert (row["declared"], row["local"], row["cloud"]) == (None, "Float64", "Float32")


def test_a_table_on_one_side_is_one_difference(differing: dict) -> None:
    """Its columns are not listed; an optional raw table on one side is no difference."""
    of_table = {table: each for (table, name), each in differing.items() if name == "table"}
    assert set(of_table) == {"deribit.ohlcv_1mo", "deribit.forgotten"}
    assert (of_table["deribit.ohlcv_1mo"]["local"], of_table["deribit.ohlcv_1mo"]["cloud"]) == ("there", None)
    assert of_table["deribit.ohlcv_1mo"]["declared"] == "there"
    assert (of_table["deribit.forgotten"]["declared"], of_table["deribit.forgotten"]["cloud"]) == (
        None,
        "there",
    )


def test_added_column_is_one_difference(differing: dict) -> None:
    """The columns after it do not count as moved."""
    assert [name for table, name in differing if table == "deribit.moved_trades"] == ["column planted"]


def test_equal_tables_are_not_reported(differing: dict) -> None:
    touched = {
        f"deribit.{table}" for table in (*DRIFTS, "ohlcv_1mo", "forgotten", "moved_trades", "consumed_loads")
    }
    assert {table for table, _ in differing} == touched | {"deribit_raw.trades"}


def test_target_that_is_down_or_not_built_cannot_be_compared(
    dbt: Project, cloud: Client, both: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence names the target; for a target that is not configured it names the variable."""
    both.command("RENAME DATABASE deribit TO away")
    try:
        with pytest.raises(CannotTellError, match="cloud has no models yet; run: dbt build --target cloud"):
            find_differences()
    finally:
        both.command("RENAME DATABASE away TO deribit")
    monkeypatch.setenv("CLICKHOUSE_CLOUD_PORT", "9")
    monkeypatch.setenv("CLICKHOUSE_CLOUD_WAKE_S", "0")
    with pytest.raises(CannotTellError, match=r"because cloud does not answer: .* is not running"):
        find_differences()
    monkeypatch.delenv("CLICKHOUSE_CLOUD_HOST")
    with pytest.raises(UsageError, match="CLICKHOUSE_CLOUD_HOST is not set"):
        find_differences()


@pytest.mark.parametrize(
    ("engine", "full", "version"),
    [
        (
            "SharedReplacingMergeTree",
            "('/clickhouse/tables/{uuid}/{shard}', '{replica}', version)",
            "version",
        ),
        ("ReplicatedReplacingMergeTree", "('/tables/x', '{replica}', version)", "version"),
        ("SharedMergeTree", "('/clickhouse/tables/{uuid}/{shard}', '{replica}')", ""),
    ],
)
def test_cloud_engines_are_compared_as_the_engines_that_they_replace(
    dbt: Project, engine: str, full: str, version: str
) -> None:
    """Engines are written as `system.tables` of ClickHouse Cloud shows them."""
    rows = (
        f"(SELECT 'deribit' AS database, 't' AS name, '{engine}' AS engine, 'k' AS sorting_key, '' AS partition_key, "
        f"$${engine}{full} ORDER BY k SETTINGS index_granularity = 8192$$ AS engine_full)"
    )
    facts = {name: value for *_, name, value in dbt.database.rows(facts_sql().replace("system.tables", rows))}
    assert (facts["engine"], facts["version column"]) == (
        engine.removeprefix("Shared").removeprefix("Replicated"), version
    )  # fmt: skip
