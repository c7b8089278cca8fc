"""Two crawlers that tests run against the sandbox: a naive one, and one that trusts no page."""

from __future__ import annotations

from typing import Any

import httpx

from extract.sandbox.server import SandboxExchange

Key = tuple[str, int]
CLIENT = httpx.Client(timeout=60)
LATENESS_MS = 20  # more than the deviation of ids from time order


def get(exchange: SandboxExchange, method: str, *, live: bool = False, **params: Any) -> Any:
    """The result of one call. Raises AssertionError with the body of an error."""
    base = exchange.url if live else exchange.history_url
    answer = CLIENT.get(f"{base}/public/{method}", params=params).json()
    assert "result" in answer, answer
    return answer["result"]


def key(trade: dict[str, Any]) -> Key:
    return trade["instrument_name"], trade["trade_seq"]


def currencies(exchange: SandboxExchange) -> list[str]:
    return [entry["currency"] for entry in get(exchange, "get_currencies")]


def naive(exchange: SandboxExchange, currency: str, page: int) -> dict[Key, dict[str, Any]]:
    """Trades of a crawler that continues after the last row's millisecond while has_more is true; it loses some."""
    trades_by_key, start_ms, more = {}, 0, True
    while more:
        answer = get(
            exchange,
            "get_last_trades_by_currency_and_time",
            currency=currency,
            start_timestamp=start_ms,
            end_timestamp=exchange.now_ms,
            count=page,
            sorting="asc",
        )
        trades_by_key.update((key(trade), trade) for trade in answer["trades"])
        more = answer["has_more"]
        if answer["trades"]:
            start_ms = answer["trades"][-1]["timestamp"] + 1
    return trades_by_key


def careful(exchange: SandboxExchange, currency: str, page: int) -> dict[Key, dict[str, Any]]:
    """Trades of a crawler that reads overlapping pages until one is not full, then fetches missing trade_seq."""
    trades_by_key = sweep(exchange, currency, page)
    last: dict[str, int] = {}
    for name, seq in trades_by_key:
        last[name] = max(seq, last.get(name, 0))
    for name, top in last.items():
        missing = [seq for seq in range(1, top + 1) if (name, seq) not in trades_by_key]
        if missing:
            trades_by_key.update(by_seq(exchange, name, missing[0], missing[-1], page))
    return trades_by_key


def sweep(exchange: SandboxExchange, currency: str, page: int) -> dict[Key, dict[str, Any]]:
    trades_by_key, start_ms = {}, 0
    while True:
        trades = get(
            exchange,
            "get_last_trades_by_currency_and_time",
            currency=currency,
            start_timestamp=start_ms,
            end_timestamp=exchange.now_ms,
            count=page,
            sorting="asc",
        )["trades"]
        trades_by_key.update((key(trade), trade) for trade in trades)
        if len(trades) < page:
            return trades_by_key
        newest_ms = max(trade["timestamp"] for trade in trades)
        start_ms = max(newest_ms - LATENESS_MS, start_ms + 1)


def by_seq(exchange: SandboxExchange, name: str, low: int, high: int, page: int) -> dict[Key, dict[str, Any]]:
    """Every trade_seq from low to high; incomplete ranges are halved."""
    trades = get(
        exchange,
        "get_last_trades_by_instrument",
        instrument_name=name,
        start_seq=low,
        end_seq=high,
        count=min(page, high - low + 1),
        sorting="asc",
    )["trades"]
    trades_by_key = {key(trade): trade for trade in trades if low <= trade["trade_seq"] <= high}
    if len(trades_by_key) == high - low + 1:
        return trades_by_key
    middle = (low + high) // 2
    return by_seq(exchange, name, low, middle, page) | by_seq(exchange, name, middle + 1, high, page)
