"""Status and gaps of the series besides trades, on hand-made raw tables."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from extract.coverage.gaps import Scope
from extract.coverage.series import (
    SeriesStream,
    fetch_series_status,
    find_series_gaps,
    find_unproven_series,
)
from extract.source.tables import SERIES_TABLES
from tests.support.raw_tables import Raw, at

NOON = datetime(2025, 1, 10, 12, tzinfo=UTC)
PERPETUAL = "BTC-PERPETUAL"
OPTION = "BTC-8JAN25-90000-C"
EXPIRY = datetime(2025, 1, 8, 8, tzinfo=UTC)


@pytest.fixture
def series(raw: Raw) -> Raw:
    for name in (*SERIES_TABLES, "instruments", "series_coverage", "series_gaps", "rejected_records"):
        raw.make(name)
    return raw


def add(user: Raw, table: str, /, **row: Any) -> None:
    row = {"_dlt_load_id": "1", "_dlt_id": "1"} | row
    user.client.insert(f"deribit_raw.{table}", [list(row.values())], column_names=list(row))


def cover(
    raw: Raw, name: str, key: str, load_id: str = "1", *, checked: datetime = NOON, rows: int = 9
) -> None:
    add(
        raw,
        "series_coverage",
        series=name,
        series_key=key,
        covered_from=NOON - timedelta(days=5),
        covered_to=NOON,
        loaded_rows=rows,
        checked_at=checked,
        _dlt_load_id=load_id,
    )


def lack(raw: Raw, load_id: str = "1") -> None:
    """Report an hour of funding as missing."""
    at = NOON - timedelta(hours=3)
    add(
        raw,
        "series_gaps",
        series="funding_rates",
        series_key=PERPETUAL,
        first_at=at,
        last_at=at,
        missing_rows=1,
        _dlt_load_id=load_id,
    )


def states(raw: Raw, *kinds: str) -> list[tuple[str, str, int, bool]]:
    return [
        (gap.stream.series, gap.stream.key, gap.missing, gap.known_absent)
        for gap in find_series_gaps(raw.database, Scope(kinds=kinds))
    ]


def test_no_series_is_neither_missing_nor_listed(raw: Raw) -> None:
    assert find_series_gaps(raw.database) == []
    assert find_unproven_series(raw.database) == []
    assert fetch_series_status(raw.database) == []


def test_missing_hour_is_absent_once_it_was_requested_again_a_day_later(series: Raw) -> None:
    """Until then it is missing. The row of an unfinished package counts for nothing; a healed hour is no gap."""
    cover(series, "funding_rates", PERPETUAL)
    lack(series)
    assert states(series) == [("funding_rates", PERPETUAL, 1, False)]
    [status] = fetch_series_status(series.database)
    assert (status.rows, status.missing, status.absent, status.proven_share) == (9, 1, 0, 0.9)
    assert status.to_json()["currency"] == "BTC"
    for load_id, hours, is_absent in (("2", 23, False), ("3", 24, True)):
        cover(series, "funding_rates", PERPETUAL, load_id, checked=NOON + timedelta(hours=hours))
        lack(series, load_id)
        before = states(series)
        assert before == [("funding_rates", PERPETUAL, 1, False)]
        series.finish(load_id)
        assert states(series) == [("funding_rates", PERPETUAL, 1, is_absent)]
    [status] = fetch_series_status(series.database)
    assert (status.missing, status.absent, status.proven_share) == (0, 1, 1.0)
    cover(series, "funding_rates", PERPETUAL, "4", rows=10)
    series.finish("4")
    assert states(series) == []


def expire(raw: Raw, *, traded: bool = True) -> None:
    add(
        raw,
        "instruments",
        instrument_name=OPTION,
        currency="BTC",
        kind="option",
        price_index="btc_usd",
        expiration_timestamp=EXPIRY,
    )
    if traded:
        raw.trades({1: 0.0}, OPTION, kind="option")


def test_expiry_without_delivery_is_absent_where_its_price_is_loaded(series: Raw) -> None:
    """Without a delivery price it is missing, and so is the price. Instruments without trades have no delivery."""
    cover(series, "settlements", "BTC delivery")
    cover(series, "delivery_prices", "btc_usd")
    expire(series, traded=False)
    assert states(series) == [("delivery_prices", "btc_usd", 1, False)]
    series.trades({1: 0.0}, OPTION, kind="option")
    assert states(series, "option") == [
        ("delivery_prices", "btc_usd", 1, False),
        ("settlements", "BTC delivery", 1, False),
    ]
    assert states(series, "spot") == []
    add(series, "delivery_prices", index_name="btc_usd", date=date(2025, 1, 8), delivery_price=94_000.0)
    assert states(series) == [("settlements", "BTC delivery", 1, True)]
    [gap] = find_series_gaps(series.database)
    assert OPTION in gap.detail
    add(series, "settlements", type="delivery", currency="BTC", timestamp=EXPIRY, instrument_name=OPTION)
    assert states(series) == []


def test_key_that_was_set_aside_is_unproven_until_it_is_loaded(series: Raw) -> None:
    add(
        series,
        "rejected_records",
        series="volatility_index",
        series_key="BTC 3600",
        reason="does not page further back",
        raw='{"unproven_to_ms":1}',
    )
    [unproven] = find_unproven_series(series.database)
    assert str(unproven).startswith("volatility_index of BTC 3600 was set aside")
    assert find_unproven_series(series.database, Scope(currencies=("ETH",))) == []
    cover(series, "volatility_index", "BTC 3600", "2")
    assert find_unproven_series(series.database) == [unproven]
    series.finish("2")
    assert find_unproven_series(series.database) == []


@pytest.mark.parametrize(
    ("key", "currency"),
    [("BTC-PERPETUAL", "BTC"), ("btc_usd", "BTC"), ("ETH delivery", "ETH"), ("SOL_USDC-PERPETUAL", "SOL")],
)
def test_currency_is_the_start_of_a_key(key: str, currency: str) -> None:
    assert SeriesStream("funding_rates", key).currency == currency


def test_pair_belongs_to_both_of_its_currencies() -> None:
    stream = SeriesStream("funding_rates", "SOL_USDC-PERPETUAL")
    assert stream.is_in(Scope(currencies=("USDC",), kinds=("future",)))
    assert stream.is_in(Scope(currencies=("SOL",)))
    assert not stream.is_in(Scope(currencies=("BTC",)))
    assert not stream.is_in(Scope(kinds=("option",)))


def test_keys_of_which_nothing_was_loaded_miss_what_must_exist(series: Raw) -> None:
    """Prices and deliveries of expired instruments, and funding of traded perpetuals; absent if asked for a day later."""
    for name, key in (
        ("delivery_prices", "btc_usd"),
        ("settlements", "BTC delivery"),
        ("funding_rates", PERPETUAL),
        ("volatility_index", "BTC 3600"),
    ):
        cover(series, name, key, rows=0)
    assert states(series) == []
    assert fetch_series_status(series.database) == []
    expire(series, traded=True)
    series.trades({1: 0.0, 2: 200.0}, PERPETUAL)
    lacking = {
        ("delivery_prices", "btc_usd", 1),
        ("settlements", "BTC delivery", 1),
        ("funding_rates", PERPETUAL, 3),
    }
    assert set(states(series)) == {(*each, False) for each in lacking}
    series.finish("2")
    cover(series, "volatility_index", "BTC 3600", "2", checked=NOON + timedelta(days=1))
    assert {each[:3] for each in states(series)} == lacking
    assert {each[0] for each in states(series) if each[3]} == {"delivery_prices", "funding_rates"}


def test_rate_of_an_hour_is_not_missing_before_it_was_requested(series: Raw) -> None:
    """A perpetual whose first trades are on both sides of an hour, and that was requested within the minute after it."""
    hour = NOON - timedelta(hours=4)
    minutes = (hour - at(0)).total_seconds() / 60
    series.trades({1: minutes - 0.3, 2: minutes + 0.3}, PERPETUAL)
    cover(series, "funding_rates", PERPETUAL, rows=0, checked=hour + timedelta(seconds=50))
    assert states(series) == []
    series.finish("2")
    cover(series, "funding_rates", PERPETUAL, "2", rows=0, checked=hour + timedelta(seconds=60))
    assert states(series) == [("funding_rates", PERPETUAL, 1, False)]
