"""Two crawlers to hold the sandbox against: one as most are written, one that trusts nothing."""

from __future__ import annotations

from typing import Any

import httpx

from extract.sandbox.server import SandboxExchange

Key = tuple[str, int]
CLIENT = httpx.Client(timeout=10)
LATENESS_MS = 20  # more than ids are late against time


def get(exchange: SandboxExchange, method: str, *, live: bool = False, **params: Any) -> Any:
    """The result of one call; an error body raises AssertionError with it."""
    base = exchange.url if live else exchange.history_url
    answer = CLIENT.get(f"{base}/public/{method}", params=params).json()
    assert "result" in answer, answer
    return answer["result"]


def key(trade: dict[str, Any]) -> Key:
    return trade["instrument_name"], trade["trade_seq"]


def currencies(exchange: SandboxExchange) -> list[str]:
    return [entry["currency"] for entry in get(exchange, "get_currencies")]


def naive(exchange: SandboxExchange, currency: str, page: int) -> dict[Key, dict[str, Any]]:
    """From the last row's millisecond plus one, for as long as has_more says so: what loses trades."""
    found, start_ms, more = {}, 0, True
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
        found.update((key(trade), trade) for trade in answer["trades"])
        more = answer["has_more"]
        if answer["trades"]:
            start_ms = answer["trades"][-1]["timestamp"] + 1
    return found


def careful(exchange: SandboxExchange, currency: str, page: int) -> dict[Key, dict[str, Any]]:
    """Sweep with overlap until a page is not full, then fetch by seq what is missing below the last one."""
    found = sweep(exchange, currency, page)
    last: dict[str, int] = {}
    for name, seq in found:
        last[name] = max(seq, last.get(name, 0))
    for name, top in last.items():
        holes = [seq for seq in range(1, top + 1) if (name, seq) not in found]
        if holes:
            found.update(by_seq(exchange, name, holes[0], holes[-1], page))
    return found


def sweep(exchange: SandboxExchange, currency: str, page: int) -> dict[Key, dict[str, Any]]:
    found, start_ms = {}, 0
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
        found.update((key(trade), trade) for trade in trades)
        if len(trades) < page:
            return found
        newest_ms = max(trade["timestamp"] for trade in trades)
        start_ms = max(newest_ms - LATENESS_MS, start_ms + 1)


def by_seq(exchange: SandboxExchange, name: str, low: int, high: int, page: int) -> dict[Key, dict[str, Any]]:
    """Every seq from low to high, in halves until each range is whole."""
    trades = get(
        exchange,
        "get_last_trades_by_instrument",
        instrument_name=name,
        start_seq=low,
        end_seq=high,
        count=min(page, high - low + 1),
        sorting="asc",
    )["trades"]
    found = {key(trade): trade for trade in trades if low <= trade["trade_seq"] <= high}
    if len(found) == high - low + 1:
        return found
    middle = (low + high) // 2
    return by_seq(exchange, name, low, middle, page) | by_seq(exchange, name, middle + 1, high, page)
