"""The data tests of the dbt project ignore unmerged duplicates and fail for damaged rows."""

from __future__ import annotations

import pytest

from harness import raw_tables
from harness.dbt_project import Project, failures
from tests.dbt.test_model_truth import DAY_MS, NOON_MS, trade

SOUND = "test_name:*_are_sound"
# Damage: the statement that causes it, and the model whose test has to fail.
DAMAGES = {
    "instrument lost": ("DELETE FROM deribit.instrument_tallies WHERE true", "instruments"),
    "trade lost": ("DELETE FROM deribit.trade_versions WHERE trade_seq = 3", "trades"),
    "trade invented": (
        "INSERT INTO deribit.trade_versions "
        "SELECT * REPLACE (99 AS trade_seq) FROM deribit.trade_versions LIMIT 1",
        "trades",
    ),
    "unknown side": (
        "INSERT INTO deribit.trade_versions "
        "SELECT * REPLACE ('bid' AS direction, version + 1 AS version) FROM deribit.trade_versions LIMIT 1",
        "trades",
    ),
    "candle lost": (
        "DELETE FROM deribit.ohlcv_4h_versions "
        "WHERE bucket_at = (SELECT min(bucket_at) FROM deribit.ohlcv_4h)",
        "ohlcv_4h",
    ),
    "volume off by the last digit": (
        "INSERT INTO deribit.ohlcv_15m_versions SELECT * REPLACE ("
        "volume + toDecimal128('0.000000000001', 12) AS volume, now64(6) AS built_at"
        ") FROM deribit.ohlcv_15m_versions LIMIT 1",
        "ohlcv_15m",
    ),
    "high below close": (
        "INSERT INTO deribit.ohlcv_1mo_versions SELECT * REPLACE ("
        "low AS high, high AS low, now64(6) AS built_at"
        ") FROM deribit.ohlcv_1mo_versions LIMIT 1",
        "ohlcv_1mo",
    ),
}


@pytest.fixture(scope="module")
def sound(dbt: Project) -> Project:
    """Five trades, every package twice: parts full of duplicates."""
    dbt.fresh()
    trades = [trade(seq=seq, at_ms=NOON_MS + seq * DAY_MS, price=100.0 + seq) for seq in range(1, 6)]
    for load_id in ("1764000001.5", "1764000002.5"):
        raw_tables.load(dbt.client, load_id, trades)
        dbt.run()
    return dbt


def test_unmerged_duplicates_pass(sound: Project) -> None:
    """Tests read the views; the table behind has each row several times."""
    assert sound.rows("SELECT count() AS n FROM deribit.trade_versions")[0]["n"] > 5
    sound.must("test", "--select", SOUND)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_rows_fail_a_data_test(sound: Project, damage: str) -> None:
    """Deleted, added and altered rows fail the test of their model."""
    statement, model = DAMAGES[damage]
    table = next(part for part in statement.split() if part.startswith("deribit."))
    sound.client.command(f"CREATE OR REPLACE TABLE deribit.kept CLONE AS {table}")
    sound.client.command(statement)
    try:
        assert failures(sound.invoke("test", "--select", f"{model},{SOUND}"))
    finally:  # the same table, because a new one would have consumed nothing
        sound.client.command(f"TRUNCATE TABLE {table} SYNC")
        sound.client.command(f"INSERT INTO {table} SELECT * FROM deribit.kept")
        sound.client.command("DROP TABLE deribit.kept SYNC")
    sound.must("test", "--select", f"{model},{SOUND}")
