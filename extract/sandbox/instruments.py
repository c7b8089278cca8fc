"""Instruments of a generated tape: every kind that Deribit lists, and a few names that no pattern matches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from extract.sandbox.instrument_names import DAY_MS, HOUR_MS, NEVER_MS, Parts, date_code, parse, strike_code
from extract.sandbox.listing import listing

START_PRICE = {
    "BTC": 95_000.0,
    "ETH": 3_200.0,
    "SOL": 140.0,
    "XRP": 2.1,
    "BTCDVOL": 45.0,
    "USDC": 1.0,
    "EURR": 1.17,
}
ODDITIES = {"BTC-MOVE.1W": "option", "ETH_USDC-EVERLASTING": "future", "SOL_USDC-WEEK+1": "future"}
_STRIKE_STEP = {"BTC": 1000.0, "ETH": 50.0, "SOL": 5.0, "XRP": 0.1}


@dataclass(slots=True)
class Instrument:
    """An instrument and its state while a tape is generated."""

    name: str
    kind: str
    parts: Parts
    created_ms: int
    weight: float
    legs: tuple[Instrument, Instrument] | None = None
    expiry_ms: int = NEVER_MS
    tick: float = 0.0
    decimals: int = 0
    lot: float = 0.0
    lot_decimals: int = 0
    contract_size: float = 1.0
    id_prefix: str = ""
    seq: int = 0
    last_ms: int = 0
    last_price: float = 0.0
    last_tick: int = 0
    listed: dict[str, Any] = field(default_factory=dict)


def universe(start_ms: int, end_ms: int) -> list[Instrument]:
    """Every instrument that is tradable at some time in [start_ms, end_ms], in a fixed order."""
    outrights = [
        _instrument(name, kind, created_ms, weight, number)
        for number, (name, kind, created_ms, weight) in enumerate(_outrights(start_ms, end_ms))
    ]
    return outrights + _combos(outrights)


def _instrument(name: str, kind: str, created_ms: int, weight: float, number: int) -> Instrument:
    parts = parse(name)
    entry = listing(name, kind=kind, created_ms=created_ms, number=100_000 + number)
    tick, lot = entry["tick_size"], entry["min_trade_amount"]
    currency = name if kind == "spot" else parts.currency
    return Instrument(
        name,
        kind,
        parts,
        created_ms,
        weight,
        expiry_ms=parts.expiry_ms or NEVER_MS,
        tick=tick,
        decimals=_decimals(tick),
        lot=lot,
        lot_decimals=_decimals(lot),
        contract_size=entry["contract_size"],
        id_prefix="" if currency == "BTC" else f"{currency}-",
        last_ms=created_ms,
        listed=entry,
    )


def _outrights(start_ms: int, end_ms: int) -> Iterator[tuple[str, str, int, float]]:
    """(name, kind, created_ms, weight) of every instrument except combos."""
    before_ms = start_ms - DAY_MS
    yield "BTC-PERPETUAL", "future", before_ms, 300.0
    yield "ETH-PERPETUAL", "future", before_ms, 180.0
    for pair, weight in (("BTC", 40.0), ("ETH", 30.0), ("SOL", 40.0), ("XRP", 25.0)):
        yield f"{pair}_USDC-PERPETUAL", "future", before_ms, weight
    for pair, weight in (("BTC_USDC", 20.0), ("BTC_USDT", 6.0), ("ETH_USDC", 12.0), ("SOL_USDC", 6.0)):
        yield pair, "spot", before_ms, weight
    yield "USDC_USDT", "spot", before_ms, 4.0
    yield "EURR_USDC", "spot", before_ms, 2.0
    for name, kind in ODDITIES.items():
        yield name, kind, before_ms, 2.0
    for expiry_ms, created_ms, grade in _expiries(start_ms, end_ms):
        day = date_code(expiry_ms)
        if grade > 0:
            yield f"BTC-{day}", "future", created_ms, 12.0
            yield f"ETH-{day}", "future", created_ms, 8.0
            yield f"SOL_USDC-{day}", "future", created_ms, 2.0
            if grade == 1:
                yield f"BTCDVOL_USDC-{date_code(expiry_ms - 2 * DAY_MS)}", "future", created_ms, 1.0
        for pair, min_grade, strikes, weight in (
            ("BTC", 0, 9, 3.0),
            ("ETH", 0, 7, 1.5),
            ("BTC_USDC", 1, 5, 0.6),
            ("SOL_USDC", 1, 5, 0.6),
            ("XRP_USDC", 1, 5, 0.6),
        ):
            if grade >= min_grade:
                for strike, near in _strikes(pair.partition("_")[0], strikes, grade):
                    for side in "CP":
                        name = f"{pair}-{day}-{strike_code(strike)}-{side}"
                        yield name, "option", created_ms, weight * near


def _expiries(start_ms: int, end_ms: int) -> list[tuple[int, int, int]]:
    """(expiry_ms, created_ms, grade), at 08:00 UTC; grade 0 is daily, 1 weekly, 2 monthly, 3 quarterly."""
    expiries = []
    first = start_ms // DAY_MS * DAY_MS + 8 * HOUR_MS
    for expiry_ms in range(first, end_ms + 400 * DAY_MS, DAY_MS):
        grade = _grade(expiry_ms)
        lifetime_ms = (3, 15, 70, 380)[grade] * DAY_MS
        if start_ms < expiry_ms and expiry_ms - lifetime_ms < end_ms:
            expiries.append((expiry_ms, expiry_ms - lifetime_ms, grade))
    return expiries


def _grade(expiry_ms: int) -> int:
    day = expiry_ms // DAY_MS
    if day % 7 != 1:  # 1970-01-02, day 1 of the epoch, was a Friday
        return 0
    code, next_code = date_code(expiry_ms), date_code(expiry_ms + 7 * DAY_MS)
    if code[-5:] == next_code[-5:]:
        return 1
    return 3 if code[-5:-2] in ("MAR", "JUN", "SEP", "DEC") else 2


def _strikes(base: str, count: int, grade: int) -> Iterator[tuple[float, float]]:
    """(strike, weight) around the start price, with wider steps for longer lifetimes."""
    step = _STRIKE_STEP[base] * (1, 2, 4, 8)[grade]
    middle = round(START_PRICE[base] / step)
    for offset in range(-(count // 2), count // 2 + 1):
        if middle + offset > 0:
            yield round((middle + offset) * step, 2), 1.0 / (1 + abs(offset))


def _combos(outrights: list[Instrument]) -> list[Instrument]:
    """Future spreads against the perpetual, and call spreads on adjacent strikes of all but daily expiries."""
    by_name = {each.name: each for each in outrights}
    combos: list[Instrument] = []
    for each in outrights:
        pair, _, day = each.name.partition("-")
        perpetual = by_name.get(f"{pair}-PERPETUAL")
        if each.kind == "future" and perpetual and each.parts.kind and each is not perpetual:
            combos.append(_combo(f"{pair}-FS-{day}_PERP", "future_combo", (each, perpetual), len(combos)))
    calls = [each for each in outrights if each.kind == "option" and each.parts.option_type == "call"]
    for low, high in pairwise(calls):
        (pair, day, strike, _), other = low.name.split("-"), high.name.split("-")
        if other[:2] == [pair, day] and low.listed["settlement_period"] != "day":
            name = f"{pair}-CS-{day}-{strike}_{other[2]}"
            combos.append(_combo(name, "option_combo", (low, high), len(combos)))
    return combos


def _combo(name: str, kind: str, legs: tuple[Instrument, Instrument], number: int) -> Instrument:
    created_ms = max(leg.created_ms for leg in legs)
    combo = _instrument(name, kind, created_ms, 1.0, 500_000 + number)
    low = legs[0]
    combo.legs, combo.tick, combo.decimals = legs, low.tick, low.decimals
    combo.lot, combo.lot_decimals, combo.contract_size = low.lot, low.lot_decimals, low.contract_size
    return combo


def _decimals(step: float) -> int:
    text = f"{step:.8f}".rstrip("0")
    return len(text.partition(".")[2])
