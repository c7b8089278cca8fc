"""Candles of the exchange itself: `get_tradingview_chart_data`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from extract.deribit.client import DeribitClient
from extract.deribit.jsonrpc import Envelope, NoResultError

MINUTE_MS = 60_000
STEP_MS: Mapping[str, int] = {"1m": MINUTE_MS, "1h": 60 * MINUTE_MS, "1d": 1_440 * MINUTE_MS}
"""Milliseconds of the levels of candles that the exchange has as well."""
MAX_BARS = 4_400
"""Bars to request at once; the exchange returns about 5,000."""
_RESOLUTIONS = {"1m": "1", "1h": "60", "1d": "1D"}


@dataclass(frozen=True)
class Bar:
    """One candle of the exchange. `volume` is in base currency, `cost` in quote currency.

    A bar without trades has the close of the one before, and volume 0.
    """

    at_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    cost: float


class _Chart(msgspec.Struct):
    status: str
    ticks: list[int] = []
    open: list[float] = []
    high: list[float] = []
    low: list[float] = []
    close: list[float] = []
    volume: list[float] = []
    cost: list[float] = []


_decoder = msgspec.json.Decoder(Envelope[_Chart], strict=False)


def fetch_bars(
    client: DeribitClient, instrument_name: str, level: str, start_ms: int, end_ms: int
) -> dict[int, Bar]:
    """Bars of one instrument that start in [start_ms, end_ms), by start; empty where the exchange has none.

    Raises the errors of `client`.
    """
    params: dict[str, str | int] = {
        "instrument_name": instrument_name,
        # The start may be exclusive.
        "start_timestamp": start_ms - 1,
        "end_timestamp": end_ms - 1,
        "resolution": _RESOLUTIONS[level],
    }
    bars = client.call(client.live, "get_tradingview_chart_data", params, _decode)
    return {bar.at_ms: bar for bar in bars if start_ms <= bar.at_ms < end_ms}


def _decode(body: bytes) -> list[Bar]:
    chart: _Chart = _decoder.decode(body).unwrap()
    columns: list[list[Any]] = [
        chart.ticks,
        chart.open,
        chart.high,
        chart.low,
        chart.close,
        chart.volume,
        chart.cost,
    ]
    if len({len(column) for column in columns}) != 1:
        raise NoResultError("the columns of the chart have different lengths")
    return [Bar(*values) for values in zip(*columns, strict=True)]
