"""`tape retention` drops months of book_summaries, which cannot be loaded again, only if it is named."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from extract.retention.drop import drop_months, plan_drops
from extract.retention.levels import read_levels
from tests.support.raw_tables import Raw
from tests.support.retention_tables import create_records_of_drops

TODAY = date(2025, 4, 10)
RETENTION = {"book_summaries": 1}
MODELS = ("trade_versions", "ohlcv_1m_versions", "ohlcv_1h_versions")


@pytest.fixture
def database(raw: Raw) -> Raw:
    """Models without rows, and no snapshots yet."""
    raw.client.command("create database deribit")
    for table in MODELS:
        raw.client.command(
            f"create table deribit.{table} (timestamp DateTime) engine = MergeTree order by timestamp"
        )
    create_records_of_drops(raw.client)
    return raw


def test_snapshots_are_dropped_by_month_if_they_are_named(database: Raw) -> None:
    """A database that does not record them has nothing to drop; other series are no levels."""
    assert plan_drops(database.database, RETENTION, TODAY, ("book_summaries",)) == []
    database.make("book_summaries")
    for month in (1, 2, 3, 4):
        database.client.insert(
            "deribit_raw.book_summaries",
            [["BTC", datetime(2025, month, 5, tzinfo=UTC), "BTC-PERPETUAL", "1", str(month)]],
            column_names=["currency", "timestamp", "instrument_name", "_dlt_load_id", "_dlt_id"],
        )
    assert plan_drops(database.database, RETENTION, TODAY) == []
    planned = plan_drops(database.database, RETENTION, TODAY, ("book_summaries",))
    assert [(each.month, each.rows, each.refusal) for each in planned] == [
        (202501, 1, None),
        (202502, 1, None),
    ]
    drop_months(database.database, RETENTION, TODAY, ("book_summaries",))
    rows = database.client.query(
        "select toYYYYMM(timestamp) from deribit_raw.book_summaries order by all"
    ).result_rows
    assert [month for (month,) in rows] == [202503, 202504]
    assert "funding_rates" not in read_levels()
