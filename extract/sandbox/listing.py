"""Instrument records in the format of `get_instruments`, derived from names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from extract.sandbox.instrument_names import DAY_MS, Parts, parse


@dataclass(frozen=True, slots=True)
class Ticks:
    """Price ticks and minimum amounts of one underlying, in Deribit's units."""

    future_tick: float
    option_tick: float
    future_lot: float
    option_lot: float


INVERSE = {
    "BTC": Ticks(future_tick=0.5, option_tick=0.0001, future_lot=10.0, option_lot=0.1),
    "ETH": Ticks(future_tick=0.05, option_tick=0.0001, future_lot=1.0, option_lot=1.0),
}
LINEAR = {
    "BTC": Ticks(future_tick=0.5, option_tick=1.0, future_lot=0.0001, option_lot=0.01),
    "ETH": Ticks(future_tick=0.05, option_tick=0.1, future_lot=0.001, option_lot=0.1),
    "SOL": Ticks(future_tick=0.01, option_tick=0.05, future_lot=0.1, option_lot=10.0),
    "XRP": Ticks(future_tick=0.0001, option_tick=0.0005, future_lot=1.0, option_lot=1000.0),
    "BTCDVOL": Ticks(future_tick=0.05, option_tick=0.05, future_lot=1.0, option_lot=1.0),
}
_OTHER = Ticks(future_tick=0.0001, option_tick=0.0001, future_lot=1.0, option_lot=1.0)


def ticks_of(parts: Parts) -> Ticks:
    return (LINEAR if parts.linear else INVERSE).get(parts.base, _OTHER)


def listing(name: str, *, kind: str, created_ms: int, number: int) -> dict[str, Any]:
    """One instrument with the fields of its kind; the server adds `is_active` and `state`.

    `expiration_timestamp` is absent where neither exchange nor name knows one.
    """
    parts = parse(name)
    ticks = ticks_of(parts)
    is_option = kind in ("option", "option_combo")
    lot = ticks.option_lot if is_option else ticks.future_lot
    entry: dict[str, Any] = {
        "kind": kind,
        "instrument_name": name,
        "instrument_id": number,
        "base_currency": parts.base,
        "quote_currency": parts.quote or (parts.base if kind == "option" else "USD"),
        "counter_currency": parts.quote or "USD",
        "instrument_type": "linear" if parts.linear else "reversed",
        "creation_timestamp": created_ms,
        "tick_size": ticks.option_tick if is_option else ticks.future_tick,
        "tick_size_steps": [],
        "contract_size": lot if kind == "future" else 1.0,
        "min_trade_amount": lot,
        "maker_commission": 0.0003 if is_option else 0.0,
        "taker_commission": 0.0003 if is_option else 0.0005,
        "max_leverage": 50 if kind == "future" else 1,
    }
    if kind != "spot":
        entry["settlement_currency"] = parts.currency
    if parts.expiry_ms is not None:
        entry["expiration_timestamp"] = parts.expiry_ms
    if kind in ("future", "option", "spot"):
        entry["price_index"] = f"{parts.base}_{parts.quote or 'usd'}".lower()
    if kind in ("future", "option"):
        entry["settlement_period"] = _settlement_period(name, parts, created_ms)
        entry["max_liquidation_commission"] = 0.0075
        entry["block_trade_commission"] = 0.00025
        entry["block_trade_min_trade_amount"] = 25 if is_option else 200_000
        entry["block_trade_tick_size"] = ticks.option_tick if is_option else 0.01
    if kind == "future":
        entry["future_type"] = entry["instrument_type"]
    if kind == "option" and parts.strike is not None:
        entry["strike"] = parts.strike
        entry["option_type"] = parts.option_type
    return entry


def _settlement_period(name: str, parts: Parts, created_ms: int) -> str:
    if name.endswith("-PERPETUAL"):
        return "perpetual"
    days = ((parts.expiry_ms or created_ms) - created_ms) / DAY_MS
    return "day" if days <= 4 else "week" if days <= 28 else "month"
