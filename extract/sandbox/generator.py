"""Generate trades from a seed, the same bytes on every machine.

Uses only `random.Random.random`, the four basic operations and `math.sqrt`, which give the same float everywhere.
Powers, logarithms and exponentials differ in the last digit between C libraries.
"""

from __future__ import annotations

from bisect import bisect
from itertools import accumulate
from math import sqrt
from random import Random
from typing import Any

from extract.sandbox.instrument_names import DAY_MS, NEVER_MS
from extract.sandbox.instruments import START_PRICE, Instrument, universe

YEAR_MS = 365 * DAY_MS
ID_LATENESS_MS = 18  # largest deviation of ids of different instruments from time order
COMBO_KINDS = ("future_combo", "option_combo")
_ATM_IV = {"BTC": 45.0, "ETH": 65.0, "SOL": 75.0, "XRP": 80.0}
_FIRST_ID = {"": 384_000_000, "ETH-": 284_000_000, "USDC-": 55_000_000}
_EVENTS = (  # event and its share
    ("single", 0.66),
    ("sweep", 0.12),
    ("flurry", 0.10),
    ("combo", 0.06),
    ("block", 0.03),
    ("liquidation", 0.03),
)


class Generator:
    """Generates `count` trades in [start_ms, end_ms); `run` fills `trades`, nearly in order.

    `listed_ahead_ms`: how long after the end new instruments are still listed, for `extend`.
    """

    def __init__(
        self, seed: int, count: int, start_ms: int, end_ms: int, burst: int, *, listed_ahead_ms: int = 0
    ) -> None:
        self.random = Random(seed).random
        self.count, self.start_ms, self.end_ms, self.burst = count, start_ms, end_ms, burst
        self.universe = universe(start_ms, end_ms + listed_ahead_ms)
        self.trades: list[dict[str, Any]] = []
        self.price = dict(START_PRICE)
        self.next_id = dict(_FIRST_ID)
        self.blocks = 0
        self.step_scale = self._step_scale()
        self.early = min(count // 20, 2000)
        self.actions = [getattr(self, "_" + name) for name, _ in _EVENTS]
        self.action_odds = list(accumulate(share for _, share in _EVENTS))

    def run(self) -> None:
        """Fill `trades`."""
        self._fill(self._planned_bursts())

    def extend(self, end_ms: int, count: int) -> None:
        """Replace `trades` by the next `count` ones, from the previous end to `end_ms`."""
        self.start_ms, self.end_ms = self.end_ms, end_ms
        self.count, self.trades, self.early = count, [], 0
        self.step_scale = self._step_scale()
        self._fill([])

    def _step_scale(self) -> float:
        """Scale of one step of the index, for a volatility of 2% a day."""
        return 0.04 * sqrt((self.end_ms - self.start_ms) / DAY_MS / self.count)

    def _fill(self, bursts: list[tuple[int, str, int]]) -> None:
        """Generate events in order of time; the tradable instruments change only at creations and expiries."""
        edges = {self.end_ms}
        for each in self.universe:
            edges.update(ms for ms in (each.created_ms, each.expiry_ms) if self.start_ms < ms < self.end_ms)
        segment_start = self.start_ms
        for segment_end in sorted(edges):
            self._enter(segment_start, segment_end)
            while len(self.trades) < self.count:
                span_ms = self.end_ms - self.start_ms
                now_ms = self.start_ms + int(span_ms * (len(self.trades) + self.random()) / self.count)
                if now_ms >= segment_end:
                    break
                if bursts and len(self.trades) >= bursts[0][0]:
                    _, kind, size = bursts.pop(0)
                    self._repeat(self._pick(kind), now_ms, size)
                    continue
                self.actions[bisect(self.action_odds, self.random() * self.action_odds[-1])](now_ms)
            segment_start = segment_end

    def _planned_bursts(self) -> list[tuple[int, str, int]]:
        """(number of trades before it, kind, size) of the milliseconds with more trades than any sweep."""
        if self.count < 10 * self.burst:
            return []
        return [(self.count * 2 // 5, "future", self.burst), (self.count * 7 // 10, "option", 36)]

    def _enter(self, start_ms: int, end_ms: int) -> None:
        """Select the instruments that are tradable throughout [start_ms, end_ms)."""
        self.limit_ms = end_ms - 1
        self.floor_ms = start_ms
        tradable = [
            each for each in self.universe if each.created_ms <= start_ms and each.expiry_ms >= end_ms
        ]
        combos = [[each for each in tradable if each.kind == kind] for kind in COMBO_KINDS]
        self.combos = [each for each in combos if each]
        self.tradable = [each for each in tradable if not each.legs]
        self.odds = list(accumulate(each.weight for each in self.tradable))
        self.by_kind: dict[str, list[Instrument]] = {}
        self.by_currency: dict[str, list[Instrument]] = {}
        for each in self.tradable:
            self.by_kind.setdefault(each.kind, []).append(each)
            self.by_currency.setdefault(each.parts.currency, []).append(each)

    # Events

    def _single(self, now_ms: int) -> None:
        self._trade(self._pick(), now_ms - int(self.random() * 3))

    def _sweep(self, now_ms: int) -> None:
        """One taker order with 2 to 11 fills in one millisecond."""
        self._repeat(self._pick(), now_ms, 2 + int(self.random() * 10))

    def _flurry(self, now_ms: int) -> None:
        """Trades of several instruments of a currency at once, with ids out of time order."""
        instruments = self.by_currency[self._pick().parts.currency]
        for _ in range(min(3 + int(self.random() * 10), self._room())):
            instrument = instruments[int(self.random() * self.random() * len(instruments))]
            self._trade(instrument, now_ms - int(self.random() * ID_LATENESS_MS))

    def _combo(self, now_ms: int) -> None:
        """A combo trade and one trade of each leg, sometimes a millisecond later."""
        if self._room() < 3 or not self.combos:
            return self._single(now_ms)
        instruments = self.combos[int(self.random() * len(self.combos))]
        return self._execute_combo(instruments[int(self.random() * len(instruments))], now_ms)

    def _block(self, now_ms: int) -> None:
        self.blocks += 1
        instruments = self.by_currency[self._pick().parts.currency]
        legs = min(1 + int(self.random() * 4), self._room())
        tags: dict[str, Any] = {
            "block_trade_id": f"BLOCK-{226_000 + self.blocks}",
            "block_trade_leg_count": legs,
        }
        if self.random() < 0.3:
            tags["block_rfq_id"] = 9000 + self.blocks
        for _ in range(legs):
            self._trade(instruments[int(self.random() * len(instruments))], now_ms, tags, size=100)

    def _liquidation(self, now_ms: int) -> None:
        side = ("T", "M", "T", "MT")[int(self.random() * 4)]
        self._repeat(self._pick("future"), now_ms, 1 + int(self.random() * 4), {"liquidation": side})

    # Records

    def _pick(self, kind: str | None = None) -> Instrument:
        if kind:
            instruments = self.by_kind[kind]
            return instruments[int(self.random() * self.random() * len(instruments))]
        return self.tradable[bisect(self.odds, self.random() * self.odds[-1])]

    def _room(self) -> int:
        return self.count - len(self.trades)

    def _repeat(
        self, instrument: Instrument, now_ms: int, times: int, tags: dict[str, Any] | None = None
    ) -> None:
        """Fills of one taker order in one millisecond; every third one is a tick worse."""
        first = self._trade(instrument, now_ms, tags)
        toward = instrument.tick if first["direction"] == "buy" else -instrument.tick
        for step in range(1, min(times, self._room() + 1)):
            price = max(first["price"] + toward * (step // 3), instrument.tick)
            self._trade(instrument, now_ms, tags, direction=first["direction"], price=price)

    def _execute_combo(self, combo: Instrument, now_ms: int) -> None:
        assert combo.legs is not None
        first, second = combo.legs
        direction = "buy" if self.random() < 0.5 else "sell"
        opposite = "sell" if direction == "buy" else "buy"
        amount = self._amount(combo, 20)
        whole = self._trade(combo, now_ms, direction=direction, amount=amount, price=0.0)
        tags = {"combo_id": combo.name, "combo_trade_id": whole["trade_id"]}
        leg_ms = min(whole["timestamp"] + int(self.random() * 2), self.limit_ms)
        legs = [
            self._trade(first, leg_ms, tags, direction=direction, amount=amount),
            self._trade(second, leg_ms, tags, direction=opposite, amount=amount),
        ]
        whole["price"] = round(legs[0]["price"] - legs[1]["price"], combo.decimals)
        whole["mark_price"] = round((legs[0]["mark_price"] or 0.0) - (legs[1]["mark_price"] or 0.0), 8)
        whole["legs"] = [dict(leg) for leg in reversed(legs)]

    def _trade(
        self,
        instrument: Instrument,
        now_ms: int,
        tags: dict[str, Any] | None = None,
        *,
        direction: str | None = None,
        amount: float | None = None,
        price: float | None = None,
        size: int = 1,
    ) -> dict[str, Any]:
        """One trade at about `now_ms`, not before the instrument's last one and within its lifetime."""
        random = self.random
        instrument.seq += 1
        instrument.last_ms = stamp_ms = max(now_ms, instrument.last_ms, self.floor_ms)
        index = self._index(instrument.parts.base)
        mark, iv = self._mark(instrument, index, stamp_ms)
        if price is None:
            price = max(mark * (1.0 + (random() - 0.5) * 0.002) // instrument.tick, 1.0) * instrument.tick
        price = round(price, instrument.decimals)
        amount = self._amount(instrument, size) if amount is None else amount
        trade: dict[str, Any] = {
            "trade_seq": instrument.seq,
            "trade_id": self._id(instrument.id_prefix),
            "timestamp": stamp_ms,
            "tick_direction": self._tick_direction(instrument, price),
            "price": price,
            "mark_price": mark,
            "instrument_name": instrument.name,
            "index_price": index,
            "direction": direction or ("buy" if random() < 0.51 else "sell"),
            "amount": amount,
            "contracts": round(amount / instrument.contract_size, 4),
        }
        if iv is not None:
            trade["iv"] = 0.0 if random() < 0.013 else round(iv + random() - 0.5, 2)
        if tags:
            trade.update(tags)
        if len(self.trades) < self.early:
            self._age(trade)
        self.trades.append(trade)
        return trade

    def _age(self, trade: dict[str, Any]) -> None:
        """Remove fields that Deribit did not record in early years."""
        if self.random() < 0.5:
            del trade["contracts"]
        if self.random() < 0.3:
            trade["mark_price"] = None

    def _id(self, prefix: str) -> str:
        number = self.next_id.setdefault(prefix, 18_820_000)
        self.next_id[prefix] = number + (1 if self.random() < 0.8 else 2 + int(self.random() * 3))
        return f"{prefix}{number}"

    def _tick_direction(self, instrument: Instrument, price: float) -> int:
        """0 plus tick, 1 zero-plus tick, 2 minus tick, 3 zero-minus tick."""
        if price > instrument.last_price:
            instrument.last_tick = 0
        elif price < instrument.last_price:
            instrument.last_tick = 2
        else:
            instrument.last_tick |= 1
        instrument.last_price = price
        return instrument.last_tick

    def _amount(self, instrument: Instrument, size: int) -> float:
        """A random amount in whole lots, mostly small."""
        lots = size * (1 + int(0.6 / (self.random() + 0.006)))
        return round(lots * instrument.lot, instrument.lot_decimals)

    def _index(self, base: str) -> float:
        """Next step of a mean-reverting random walk, which stays within the range of strikes."""
        start, random = START_PRICE[base], self.random
        step = (random() + random() + random() - 1.5) * self.step_scale
        price = self.price[base]
        self.price[base] = price = price + price * step + (start - price) * 0.0005
        return round(price, 2 if start > 10 else 4)

    def _mark(self, instrument: Instrument, index: float, stamp_ms: int) -> tuple[float, float | None]:
        """(mark price, iv in percent or None)."""
        if instrument.expiry_ms == NEVER_MS and instrument.kind != "option":
            return round(index * (1.0 + (self.random() - 0.5) * 0.0004), 4), None
        years = min((instrument.expiry_ms - stamp_ms) / YEAR_MS, 2.0)
        forward = index * (1.0 + 0.06 * years)
        if instrument.kind != "option":
            return round(forward, 4), None
        strike = instrument.parts.strike or START_PRICE[instrument.parts.base]
        iv = smile(_ATM_IV[instrument.parts.base], strike / forward - 1.0, years)
        value = option_value(forward, strike, iv, years, instrument.parts.option_type == "call")
        return round(value if instrument.parts.linear else value / forward, 8), iv


def smile(atm_iv: float, moneyness: float, years: float) -> float:
    """Implied volatility in per cent, 5 to 300: a parabola in standardised moneyness, higher for puts."""
    reach = moneyness / sqrt(years + 0.003)
    return min(max(atm_iv * (1.0 - 0.08 * reach + 0.12 * reach * reach), 5.0), 300.0)


def option_value(forward: float, strike: float, iv: float, years: float, is_call: bool) -> float:
    """Option value in quote currency by a hyperbola: exact at the money, intrinsic far from it, with put-call parity."""
    width = 0.798 * iv / 100.0 * sqrt(years) * forward
    inner = forward - strike
    call = (inner + sqrt(inner * inner + width * width)) / 2.0
    return call if is_call else call - inner
