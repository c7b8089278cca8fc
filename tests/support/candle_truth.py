"""Expected trades and candles, computed from raw rows in plain Python."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.dbt_project import Models

Trade = dict[str, Any]
PLACES = Decimal("1e-12")
LEVELS = ("1m", "15m", "1h", "4h", "1d", "1w", "1mo")


def newest_trades(loads: dict[str, list[Trade]]) -> list[Trade]:
    """One trade per (instrument_name, trade_seq): the one of the newest load package that has it."""
    newest: dict[tuple[str, int], Trade] = {}
    for _, trades in sorted(loads.items(), key=lambda load: Decimal(load[0])):
        for trade in trades:
            newest[trade["instrument_name"], trade["trade_seq"]] = trade
    return list(newest.values())


def bucket_start(level: str, timestamp_ms: int) -> datetime:
    """Start of the bucket, UTC, without a time zone, as the driver returns DateTime('UTC')."""
    at = datetime.fromtimestamp(timestamp_ms // 1000, UTC).replace(tzinfo=None, microsecond=0)
    midnight = at.replace(hour=0, minute=0, second=0)
    return {
        "1m": at.replace(second=0),
        "15m": at.replace(minute=at.minute // 15 * 15, second=0),
        "1h": at.replace(minute=0, second=0),
        "4h": at.replace(hour=at.hour // 4 * 4, minute=0, second=0),
        "1d": midnight,
        "1w": midnight - timedelta(days=at.weekday()),
        "1mo": midnight.replace(day=1),
    }[level]


def is_inverse_combo(trade: Trade) -> bool:
    """Whether the trade is of a combo of inverse futures, which has neither volume nor notional."""
    return trade["kind"] == "future_combo" and "_" not in trade["instrument_name"].split("-")[0]


def volume_and_notional(trade: Trade) -> tuple[Decimal, Decimal]:
    """Base coin and quote currency to 12 places; inverse futures count USD in `amount`. 0 where there is none."""
    if is_inverse_combo(trade):
        return Decimal(0), Decimal(0)
    price, amount = (rounded(Decimal(repr(float(trade[name])))) for name in ("price", "amount"))
    is_inverse_future = trade["kind"] == "future" and "_" not in trade["instrument_name"]
    with localcontext() as context:
        context.prec = 60
        if is_inverse_future:
            return (rounded(amount / price) if price else Decimal(0)), amount
        return amount, rounded(price * amount)


STABLECOINS = ("USDC", "USDT", "USDE")
PARSED = re.compile(
    r"([A-Z0-9]+)(?:_([A-Z0-9]+))?(?:-(?:PERPETUAL|\d{1,2}[A-Z]{3}\d{2}(-\d+(?:d\d+)?-[CP])?))?"
)


def usd_rate(trade: Trade) -> float | None:
    """Dollars per unit of the quote currency: 1, the index price of an inverse option, or unknown."""
    name = PARSED.fullmatch(trade["instrument_name"])
    if name is None or trade["kind"] in ("future_combo", "option_combo"):
        return None
    if name[2]:
        return 1.0 if name[2] in STABLECOINS else None
    return trade.get("index_price") if trade["kind"] == "option" else 1.0


def notional_usd(trade: Trade) -> Decimal | None:
    rate = usd_rate(trade)
    if rate is None:
        return None
    with localcontext() as context:
        context.prec = 60
        return rounded(volume_and_notional(trade)[1] * rounded(Decimal(repr(float(rate)))))


def is_book(trade: Trade) -> bool:
    """Neither a block or RFQ trade nor a leg of a combo."""
    is_leg = trade.get("combo_id") is not None and "combo" not in trade["kind"]
    return trade.get("block_trade_id") is None and trade.get("block_rfq_id") is None and not is_leg


MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
DATED = re.compile(r"([A-Z0-9]+)(?:_([A-Z0-9]+))?-(\d{1,2})([A-Z]{3})(\d{2})(?:-(\d+(?:d\d+)?)-([CP]))?")
PARITY_MS = 60_000


def expiry_hours(trades: Iterable[Trade]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Forward, newest index, number of trades and of strikes by (underlying, settlement currency, expiry, hour)."""
    hours: dict[tuple[Any, ...], list[tuple[Trade, float | None, bool]]] = defaultdict(list)
    for trade in trades:
        name = DATED.fullmatch(trade["instrument_name"])
        if name is None or not is_book(trade) or trade["price"] <= 0 or not trade.get("index_price"):
            continue
        expiry = datetime(2000 + int(name[5]), MONTHS.index(name[4]) + 1, int(name[3]), 8)
        if trade["timestamp"] < expiry.replace(tzinfo=UTC).timestamp() * 1000:
            key = (name[1], name[2] or name[1], expiry, bucket_start("1h", trade["timestamp"]))
            hours[key].append((trade, float(name[6].replace("d", ".")) if name[6] else None, name[7] == "C"))
    return {key: _expiry_hour(rows, is_inverse=key[0] == key[1]) for key, rows in hours.items()}


def _expiry_hour(rows: list[tuple[Trade, float | None, bool]], *, is_inverse: bool) -> dict[str, Any]:
    rows = sorted(rows, key=lambda row: (row[0]["timestamp"], row[0]["trade_seq"]))
    last = {(strike, is_call): trade for trade, strike, is_call in rows}
    future = last.get((None, False))
    pairs = []
    newest_by_strike = [future] if future is not None else []
    for strike in {strike for strike, _ in last if strike is not None}:
        call, put = last.get((strike, True)), last.get((strike, False))
        # Of a call and a put of the same millisecond the one with the greater price counts.
        newest = max(
            (trade for trade in (call, put) if trade is not None),
            key=lambda trade: (trade["timestamp"], trade["price"], trade["index_price"]),
        )
        newest_by_strike.append(newest)
        if call is None or put is None or abs(call["timestamp"] - put["timestamp"]) > PARITY_MS:
            continue
        difference = call["price"] - put["price"]
        forward = strike / (1 - min(difference, 0.999999)) if is_inverse else strike + difference
        if 0.5 <= forward / newest["index_price"] <= 2:
            apart_ms = abs(call["timestamp"] - put["timestamp"])
            distance = abs(math.log(strike / newest["index_price"]))
            pairs.append((apart_ms, distance, strike, forward, newest))
    newest_ms, index = max((trade["timestamp"], trade["index_price"]) for trade in newest_by_strike)
    if future is not None:
        forward, at_ms, source = future["price"], future["timestamp"], "future"
    elif pairs:
        *_, forward, trade = min(pairs, key=lambda pair: pair[:3])
        at_ms, source = trade["timestamp"], "parity"
    else:
        forward, at_ms, source = index, newest_ms, "index"
    return {
        "forward": forward,
        "forward_source": source,
        "forward_at": at_ms,
        "index_price": index,
        "strikes": len(
            {strike for trade, strike, _ in rows if strike and 1 <= (trade.get("iv") or 0) <= 500}
        ),
        "trade_count": len(rows),
    }


def rounded(number: Decimal) -> Decimal:
    """Round to 12 places, halves away from zero."""
    with localcontext() as context:
        context.prec = 60
        return number.quantize(PLACES, rounding=ROUND_HALF_UP)


def candles(trades: Iterable[Trade], level: str) -> dict[tuple[str, datetime], dict[str, Any]]:
    """Candles of any level by (instrument_name, bucket_at), computed directly from trades."""
    buckets: dict[tuple[str, datetime], list[Trade]] = defaultdict(list)
    for trade in trades:
        buckets[trade["instrument_name"], bucket_start(level, trade["timestamp"])].append(trade)
    return {key: _candle(bucket) for key, bucket in buckets.items()}


def _candle(trades: list[Trade]) -> dict[str, Any]:
    trades = sorted(trades, key=lambda trade: (trade["timestamp"], trade["trade_seq"]))
    sizes = [(trade, *volume_and_notional(trade)) for trade in trades]
    prices = [trade["price"] for trade in trades]
    ivs = [trade["iv"] for trade in trades if trade.get("iv") is not None] or [None]

    def volume_of(field: str, values: tuple[str | None, ...], *, among: bool = True) -> Decimal:
        return sum(
            (volume for trade, volume, _ in sizes if (trade.get(field) in values) is among), Decimal(0)
        )

    book = [trade for trade in trades if is_book(trade)]
    book_prices = [trade["price"] for trade in book] or [None]
    book_sizes = [volume_and_notional(trade) for trade in book]
    dollars = [notional_usd(trade) for trade in trades]
    candle = {
        "notional_usd": None if None in dollars else sum(dollars, Decimal(0)),
        "usd_rate": next((rate for trade in trades if (rate := usd_rate(trade)) is not None), None),
        "book_open": book_prices[0],
        "book_high": max(book_prices) if book else None,
        "book_low": min(book_prices) if book else None,
        "book_close": book_prices[-1],
        "book_volume": sum((volume for volume, _ in book_sizes), Decimal(0)),
        "book_notional": sum((notional for _, notional in book_sizes), Decimal(0)),
        "book_trade_count": len(book),
        "kind": trades[0]["kind"],
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[-1],
        "volume": sum((volume for _, volume, _ in sizes), Decimal(0)),
        "notional": sum((notional for _, _, notional in sizes), Decimal(0)),
        "buy_volume": volume_of("direction", ("buy",)),
        "sell_volume": volume_of("direction", ("sell",)),
        "block_volume": volume_of("block_trade_id", (None,), among=False),
        "liquidation_volume": volume_of("liquidation", (None,), among=False),
        "trade_count": len(trades),
        "iv_open": ivs[0],
        "iv_high": max(ivs) if ivs != [None] else None,
        "iv_low": min(ivs) if ivs != [None] else None,
        "iv_close": ivs[-1],
    }
    amounts = {name for name in candle if "volume" in name or name.endswith("notional")}
    return candle | (dict.fromkeys(amounts) if is_inverse_combo(trades[0]) else {})


def assert_true(models: Models, loads: dict[str, list[Trade]]) -> None:
    """Every trade once, in its newest version, field by field; every candle, to the last digit."""
    truth = newest_trades(loads)
    rows = models.rows(
        "SELECT * REPLACE (toUnixTimestamp64Milli(timestamp) AS timestamp) FROM deribit.trades"
    )
    shown = {(row["instrument_name"], row["trade_seq"]): row for row in rows}
    assert len(rows) == len(shown) == len(truth)
    for expected in truth:
        row = shown[expected["instrument_name"], expected["trade_seq"]]
        assert {name: row[name] for name in expected} == expected
    for level in LEVELS:
        assert_candles(models, truth, level)
    assert_expiry_hours(models, truth)


def assert_expiry_hours(models: Models, truth: list[Trade]) -> None:
    """The forward of every expiry and hour, to the last digit."""
    rows = models.rows(
        "SELECT * REPLACE (toUnixTimestamp64Milli(forward_at) AS forward_at) "
        "FROM deribit.expiry_hours_versions FINAL WHERE trade_count > 0"
    )
    expected = expiry_hours(truth)
    keys = ("underlying", "settlement_currency", "expiry", "bucket_at")
    shown = {tuple(row[key] for key in keys): row for row in rows}
    assert len(shown) == len(rows)
    assert shown.keys() == expected.keys()
    for key, hour in expected.items():
        assert {name: shown[key][name] for name in hour} == hour, key


def assert_candles(models: Models, truth: list[Trade], level: str) -> None:
    """The level's view shows exactly the candles of `truth`."""
    expected, shown = candles(truth, level), models.candles(level)
    assert shown.keys() == expected.keys(), level
    for key, candle in expected.items():
        vwap, book_vwap = shown[key].pop("vwap"), shown[key].pop("book_vwap")
        shown[key].pop("underlying")
        assert (shown[key].pop("notional_usd_missing") is None) is (candle["notional_usd"] is not None)
        assert shown[key] == candle, (level, key)
        has_book_volume = candle["book_trade_count"] > 0 and candle["book_volume"] is not None
        assert (book_vwap is not None) is has_book_volume
        if candle["book_volume"]:
            assert math.isclose(book_vwap, candle["book_notional"] / candle["book_volume"], rel_tol=1e-12)
        if candle["volume"]:
            assert math.isclose(vwap, candle["notional"] / candle["volume"], rel_tol=1e-12)
