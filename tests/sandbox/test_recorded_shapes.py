"""Envelope, trades, instruments and charts of the sandbox have the shapes of recorded responses."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.support.crawler import CLIENT, get
from tests.support.recorded import needs_recordings, response

BY_CURRENCY = "get_last_trades_by_currency"
PERP = "BTC-PERPETUAL"


@needs_recordings
def test_envelope_has_recorded_shape(exchange):
    """The same keys in the body and in the result, with consistent times."""
    recorded = response("http_get_last_trades_future_combo.json")
    body = CLIENT.get(f"{exchange.url}/public/{BY_CURRENCY}", params={"currency": "BTC"}).json()
    assert body.keys() == recorded.keys()
    assert body["result"].keys() == recorded["result"].keys()
    assert body["usOut"] - body["usIn"] == body["usDiff"]


@needs_recordings
@pytest.mark.parametrize(
    ("recording", "kind"),
    [
        ("http_get_last_trades.json", "future"),
        ("http_get_last_trades_future_combo.json", "future_combo"),
        ("http_get_last_trades_option_combo.json", "option_combo"),
        ("http_get_last_trades_perpetual_with_combo_tags.json", "future"),
    ],
)
def test_trades_have_recorded_shapes(exchange, recording, kind):
    """Every recorded combination of fields and types is one that the sandbox sends, too."""
    sent = get(exchange, BY_CURRENCY, currency="BTC", kind=kind, count=10_000)["trades"]
    shapes = {shape(trade) for trade in sent}
    assert {shape(trade) for trade in response(recording)["result"]["trades"]} <= shapes


@needs_recordings
def test_early_trades_have_recorded_shape_of_2020(exchange):
    """Trades without `contracts`."""
    sent = get(exchange, BY_CURRENCY, currency="BTC", kind="future", count=10_000)["trades"]
    recorded = response("BTC_by_currency_and_time_20_2020-05-26.json")
    assert {shape(trade) for trade in recorded} <= {shape(trade) for trade in sent}


def shape(record: dict) -> frozenset:
    legs = [shape(leg) for leg in record.get("legs", [])]
    plain = {name: type(value).__name__ for name, value in record.items() if name != "legs"}
    return frozenset(plain.items()) | frozenset(legs)


@needs_recordings
def test_instruments_have_recorded_shapes(exchange):
    """Every field that was recorded of a future, an option and a combo, with the same type."""
    entries = {each["instrument_name"]: each for each in get(exchange, "get_instruments", currency="BTC")}
    kinds = {each["kind"]: each for each in entries.values() if "strike" in each or each["kind"] != "option"}
    for recorded in response("http_get_instruments.json")["result"]:
        simulated = entries.get(recorded["instrument_name"], kinds[recorded["kind"]])
        for name, value in recorded.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            assert isinstance(simulated[name], int | float if number else type(value)), (simulated, name)
    assert entries[PERP]["expiration_timestamp"] == 32_503_708_800_000


@needs_recordings
def test_chart_has_recorded_shape(exchange):
    """The same arrays, all of equal length, with a bar for each minute."""
    recorded = response("http_get_tradingview_chart_data.json")["result"]
    now = exchange.now_ms
    chart = get(
        exchange,
        "get_tradingview_chart_data",
        instrument_name=PERP,
        resolution="1",
        start_timestamp=now - 7_200_000,
        end_timestamp=now,
    )
    assert chart.keys() == recorded.keys()
    assert {len(value) for name, value in chart.items() if name != "status"} == {len(chart["ticks"])}
    assert {b - a for a, b in pairwise(chart["ticks"])} == {60_000}
