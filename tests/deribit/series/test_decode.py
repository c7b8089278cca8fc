"""Records of series are typed by their columns; one that does not fit affects no other."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from extract.deribit.jsonrpc import DECODE_ERRORS, NoResultError
from extract.deribit.series.decode import (
    decode_candles,
    decode_delivery_prices,
    decode_list,
    decode_settlements,
)
from extract.deribit.series.schema import (
    ALL_SERIES,
    BOOK_SUMMARIES,
    DELIVERY_PRICES,
    FUNDING_RATES,
    SETTLEMENTS,
    VOLATILITY_INDEX,
    Series,
)

RATE = {"timestamp": 1569891600000, "index_price": 8222.87, "interest_8h": -9.2e-05, "interest_1h": -4.7e-07}
SETTLEMENT = {
    "type": "settlement",
    "timestamp": 1550502000023,
    "session_profit_loss": 0.116509752,
    "position": 240,
    "mark_price": 3578.16,
    "instrument_name": "BTC-22FEB19",
}


def body(result: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "result": result, "usIn": 1_700_000_000_123_456}).encode()


def test_documented_answers_are_typed() -> None:
    """The examples of the API's documentation."""
    rates = decode_list(FUNDING_RATES, body([RATE]), instrument_name="BTC-PERPETUAL")
    assert rates.rows[0]["instrument_name"] == "BTC-PERPETUAL"
    assert rates.rows[0]["interest_1h"] == -4.7e-07
    assert rates.at_ms == 1_700_000_000_123
    prices = decode_delivery_prices(
        DELIVERY_PRICES,
        body({"data": [{"date": "2020-01-02", "delivery_price": 7131.2}], "records_total": 58}),
        index_name="btc_usd",
    )
    assert (prices.rows[0]["date"], prices.total) == (date(2020, 1, 2), 58)
    settlements = decode_settlements(
        SETTLEMENTS, body({"settlements": [SETTLEMENT], "continuation": "2Z7m"}), currency="BTC"
    )
    assert settlements.rows[0]["position"] == 240.0
    assert settlements.continuation == "2Z7m"
    candles = decode_candles(
        VOLATILITY_INDEX,
        body({"data": [[1598019300000, 0.21, 0.212, 0.21, 0.2128]], "continuation": None}),
        currency="BTC",
        resolution="60",
    )
    assert candles.rows[0]["close"] == 0.2128
    assert candles.continuation is None


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({**RATE, "timestamp": "yesterday"}, "timestamp"),
        ({**RATE, "timestamp": -1}, "timestamp"),
        ({**RATE, "interest_1h": None}, "interest_1h is missing"),
        ({**RATE, "interest_1h": "nan"}, "not a finite number"),
        ({**RATE, "interest_1h": True}, "true or false"),
        ([1, 2], "object"),
        (7, "object"),
        (None, "object"),
    ],
)
def test_record_that_does_not_fit_is_rejected_with_its_text(record: Any, reason: str) -> None:
    """The others of the answer are typed."""
    page = decode_list(FUNDING_RATES, body([RATE, record, RATE]), instrument_name="BTC-PERPETUAL")
    assert len(page.rows) == 2
    assert json.loads(page.rejected[0].raw) == record
    assert reason in page.rejected[0].reason


def test_unknown_and_odd_optional_fields_are_kept_in_extra() -> None:
    page = decode_list(
        FUNDING_RATES, body([{**RATE, "index_price": "n/a", "venue": "x"}]), instrument_name="BTC-PERPETUAL"
    )
    assert page.rows[0]["index_price"] is None
    assert json.loads(page.rows[0]["extra"]) == {"index_price": "n/a", "venue": "x"}


def test_numbers_in_quotes_are_numbers() -> None:
    page = decode_list(FUNDING_RATES, body([{**RATE, "interest_1h": "1e-6"}]), instrument_name="X")
    assert page.rows[0]["interest_1h"] == 1e-6


def test_bankruptcy_may_lack_an_instrument() -> None:
    record = {"type": "bankruptcy", "timestamp": 1550502000023, "session_bankruptcy": 0.001}
    page = decode_settlements(
        SETTLEMENTS, body({"settlements": [record], "continuation": "none"}), currency="BTC"
    )
    assert page.rows[0]["instrument_name"] == ""
    assert page.continuation is None


def test_candle_with_further_values_keeps_them() -> None:
    page = decode_candles(
        VOLATILITY_INDEX,
        body(
            {
                "data": [[1_700_000_000_000, 1, 2, 0.5, 1.5, 99], [1_700_000_000_000, 1], "x"],
                "continuation": 5,
            }
        ),
        currency="BTC",
        resolution="60",
    )
    assert json.loads(page.rows[0]["extra"]) == {"further": [99]}
    assert [each.reason for each in page.rejected] == ["high is missing", "a candle is an array, not str"]
    assert page.continuation == 5


def test_invalid_utf8_rejects_one_record() -> None:
    text = body([RATE, {**RATE, "venue": "x"}]).replace(b'"x"', b'"\xff"')
    page = decode_list(FUNDING_RATES, text, instrument_name="X")
    assert (len(page.rows), len(page.rejected)) == (1, 1)


def test_deep_value_rejects_one_record() -> None:
    deep = b"[" * 50_000 + b"]" * 50_000
    text = body([RATE, {**RATE, "venue": "x"}]).replace(b'"x"', deep)
    page = decode_list(FUNDING_RATES, text, instrument_name="X")
    assert (len(page.rows), len(page.rejected)) == (1, 1)


@pytest.mark.parametrize("odd", ["NaN", '"\\ud800"'])
def test_value_that_cannot_be_decoded_rejects_one_record(odd: str) -> None:
    """Of a list, and of an array of candles."""
    text = body([RATE, {**RATE, "venue": "x"}]).replace(b'"x"', odd.encode())
    page = decode_list(FUNDING_RATES, text, instrument_name="X")
    assert (len(page.rows), len(page.rejected)) == (1, 1)
    assert f'"venue": {odd}' in page.rejected[0].raw
    candle = [1_700_000_000_000, 1, 2, 0.5, 1.5]
    text = body({"data": [candle, [*candle, "x"]], "continuation": None}).replace(b'"x"', odd.encode())
    page = decode_candles(VOLATILITY_INDEX, text, currency="BTC", resolution="60")
    assert (len(page.rows), len(page.rejected)) == (1, 1)
    assert page.rejected[0].raw.endswith(f"{odd}]")


@pytest.mark.parametrize("result", [None, 17, "x", {"data": 1}, {"data": [], "records_total": "many"}])
def test_answer_of_another_shape_is_an_error_and_never_an_empty_page(result: Any) -> None:
    for decode, series in (
        (decode_delivery_prices, DELIVERY_PRICES),
        (decode_settlements, SETTLEMENTS),
    ):
        with pytest.raises((NoResultError, *DECODE_ERRORS)):
            decode(series, body(result))


@pytest.mark.parametrize("series", ALL_SERIES, ids=lambda series: series.name)
def test_rows_of_each_series_fit_its_arrow_schema(series: Series) -> None:
    """Also rows of which only the required columns have a value."""
    values = {pa.string(): "x", pa.float64(): 1.5, pa.date32(): date(2020, 1, 2)}
    row = {
        name: values.get(type_, 1_700_000_000_000) if name in series.required else None
        for name, type_ in series.columns.items()
    }
    table = series.to_table([row, row])
    table.validate(full=True)
    assert table.schema == series.schema
    assert series.to_table([]).schema == series.schema


def test_snapshot_rows_share_the_time_of_the_answer() -> None:
    assert "timestamp" in BOOK_SUMMARIES.required
