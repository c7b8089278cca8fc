"""Candles in the format of `get_tradingview_chart_data`."""

from __future__ import annotations

from typing import Any

from extract.sandbox.tape import Record


def candles(
    trades: list[Record], start_ms: int, end_ms: int, step_ms: int, *, inverse: bool
) -> dict[str, Any]:
    """Arrays of all buckets in [start_ms, end_ms], beginning with the first trade; `trades` are sorted by trade_seq.

    A bucket without trades repeats the previous close with volume 0. `volume` is in base currency and `cost` in
    quote currency; the amount of an inverse future is in USD already.
    """
    chart: dict[str, Any] = {
        name: [] for name in ("ticks", "open", "high", "low", "close", "volume", "cost")
    } | {"status": "no_data"}
    buckets: dict[int, list[Record]] = {}
    close = None
    for trade in trades:
        bucket_ms = trade["timestamp"] // step_ms * step_ms
        if bucket_ms + step_ms <= start_ms:
            close = trade["price"]
        else:
            buckets.setdefault(bucket_ms, []).append(trade)
    first_ms = start_ms // step_ms * step_ms if close is not None else min(buckets, default=end_ms + 1)
    for bucket_ms in range(first_ms, end_ms + 1, step_ms):
        inside = buckets.get(bucket_ms, [])
        prices = [trade["price"] for trade in inside] or [close]
        close = prices[-1]
        amounts = [trade["amount"] for trade in inside]
        pairs = list(zip(amounts, prices, strict=False))
        chart["ticks"].append(bucket_ms)
        chart["open"].append(prices[0])
        chart["high"].append(max(prices))
        chart["low"].append(min(prices))
        chart["close"].append(close)
        chart["volume"].append(
            round(sum(a / p if p else 0.0 for a, p in pairs) if inverse else sum(amounts), 8)
        )
        chart["cost"].append(round(sum(amounts) if inverse else sum(a * p for a, p in pairs), 8))
        chart["status"] = "ok"
    return chart
