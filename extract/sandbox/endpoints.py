"""The public methods: from a query to the JSON of its result."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from extract.sandbox import quirks
from extract.sandbox.candles import candles
from extract.sandbox.instrument_names import DAY_MS
from extract.sandbox.params import KINDS, RESOLUTIONS, SORTINGS, ApiError, Params, invalid
from extract.sandbox.tape import Record
from extract.sandbox.trade_index import ExchangeData, TradeIndex, expired

CURRENCIES = {
    "BTC": "Bitcoin",
    "ETH": "Ethereum",
    "USDC": "USD Coin",
    "USDT": "Tether USD",
    "EURR": "StablR Euro",
}


@dataclass(frozen=True, slots=True)
class Host:
    """What differs between the live and the history host."""

    path: str
    page_limit: int
    keeps_ms: int | None  # how far back it reaches; None: everything


LIVE = Host("/api/v2", 1000, DAY_MS)
HISTORY = Host("/history/api/v2", 10_000, None)


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers for a book at a moment; `quirks` are Deribit's own."""

    book: ExchangeData
    host: Host
    now_ms: int
    quirks: bool

    def result(self, method: str, query: Mapping[str, str]) -> bytes:
        """JSON of the result. Raises ApiError as the exchange would answer."""
        answer = METHODS.get(method)
        if answer is None:
            raise ApiError(-32601, "Method not found")
        return answer(self, Params(query))

    # Trades

    def by_currency(self, params: Params) -> bytes:
        shelf = self._currency_shelf(params)
        low = self._id_bound(shelf, params, "start_id", default=0)
        high = self._id_bound(shelf, params, "end_id", default=len(shelf))
        return self._page(shelf, params, low, high, from_start="start_id" in params.query)

    def by_currency_and_time(self, params: Params) -> bytes:
        return self._by_time(self._currency_shelf(params), params)

    def by_instrument(self, params: Params) -> bytes:
        shelf = self._instrument_shelf(params)
        start, end = params.integer("start_seq"), params.integer("end_seq")
        low = 0 if start is None else bisect_left(shelf.seqs, start)
        high = len(shelf) if end is None else bisect_left(shelf.seqs, end + 1)
        full_size = (
            start is not None and end is not None and end - start + 1 == params.count(self.host.page_limit)
        )
        return self._page(shelf, params, low, high, from_start=start is not None, full_size=full_size)

    def by_instrument_and_time(self, params: Params) -> bytes:
        return self._by_time(self._instrument_shelf(params), params)

    def _by_time(self, shelf: TradeIndex, params: Params) -> bytes:
        params.required_integer("start_timestamp")
        params.required_integer("end_timestamp")
        return self._page(shelf, params, 0, len(shelf))

    def _page(
        self,
        shelf: TradeIndex,
        params: Params,
        low: int,
        high: int,
        *,
        from_start: bool = False,
        full_size: bool = False,
    ) -> bytes:
        """One page of `shelf[low:high]` by id; unsorted it holds the earliest if a start is given."""
        count = params.count(self.host.page_limit)
        sorting = params.choice("sorting", SORTINGS, "default")
        start_ms, end_ms = params.integer("start_timestamp"), params.integer("end_timestamp")
        from_start = from_start or start_ms is not None
        newest = sorting == "desc" or (sorting == "default" and not from_start)
        oldest_ms = self.now_ms - self.host.keeps_ms if self.host.keeps_ms else 0
        if start_ms is not None and start_ms < oldest_ms:
            return b'{"trades":[],"has_more":false}'
        window = max(start_ms or 0, oldest_ms), min(self.now_ms if end_ms is None else end_ms, self.now_ms)
        positions, more = shelf.pick(*window, low, high, count, newest)
        if self.quirks and full_size and len(positions) == count >= quirks.LEAST_LEAK:
            positions = self._seen(shelf, quirks.leak(shelf, positions, low, high), oldest_ms)
        page = [shelf.bodies[position] for position in positions]
        if sorting != "asc":
            page.reverse()
        if self.quirks:
            quirks.disorder(page)
            more = quirks.has_more(more, page, repr(sorted(params.query.items())))
        return _rendered(page, more)

    def _seen(self, shelf: TradeIndex, positions: list[int], oldest_ms: int) -> list[int]:
        return [each for each in positions if oldest_ms <= shelf.stamps[each] <= self.now_ms]

    def _currency_shelf(self, params: Params) -> TradeIndex:
        currency = self._currency(params)
        return self.book.currency(currency, params.choice("kind", (*KINDS, "combo", "any"), "any"))

    def _currency(self, params: Params, *extra: str) -> str:
        currency = params.text("currency")
        if currency not in (*CURRENCIES, *self.book.currencies, *extra):
            raise invalid("currency", "invalid currency")
        return currency

    def _id_bound(self, shelf: TradeIndex, params: Params, name: str, default: int) -> int:
        if name not in params.query:
            return default
        bound = shelf.at_id(params.query[name], after=name == "end_id")
        if bound is None and len(shelf):
            raise invalid(name, "wrong format")
        return bound or 0

    def _instrument_shelf(self, params: Params) -> TradeIndex:
        return self.book.instrument(self._listed(params)["instrument_name"])

    # Instruments and candles

    def _listed(self, params: Params) -> Record:
        entry = self.book.instruments.get(params.text("instrument_name"))
        if entry is None or entry["creation_timestamp"] > self.now_ms:
            raise invalid("instrument_name", "instrument not found")
        return entry

    def _shown(self, entry: Record) -> Record:
        gone = expired(entry, self.now_ms)
        return entry | {"is_active": not gone, "state": "archivized" if gone else "open"}

    def instrument(self, params: Params) -> bytes:
        return msgspec.json.encode(self._shown(self._listed(params)))

    def instruments(self, params: Params) -> bytes:
        kind = params.choice("kind", KINDS, "")
        wanted = params.flag("expired")
        entries = (self.book.instruments[name] for name in self.book.names(self._currency(params, "any")))
        return msgspec.json.encode(
            [
                self._shown(entry)
                for entry in entries
                if kind in (entry["kind"], "")
                and expired(entry, self.now_ms) == wanted
                and entry["creation_timestamp"] <= self.now_ms
            ]
        )

    def chart(self, params: Params) -> bytes:
        entry = self._listed(params)
        start_ms, end_ms = (
            params.required_integer("start_timestamp"),
            params.required_integer("end_timestamp"),
        )
        resolution = params.text("resolution")
        if resolution not in RESOLUTIONS:
            raise invalid("resolution", "wrong format")
        shelf = self.book.instrument(entry["instrument_name"])
        trades = [row.record for row in shelf.rows if row.stamp_ms <= min(end_ms, self.now_ms)]
        inverse = entry["kind"] == "future" and entry["instrument_type"] == "reversed"
        step_ms = RESOLUTIONS[resolution] * 60_000
        return msgspec.json.encode(
            candles(trades, start_ms, min(end_ms, self.now_ms), step_ms, inverse=inverse)
        )

    # The exchange itself

    def currencies(self, _: Params) -> bytes:
        names = [*CURRENCIES, *(name for name in self.book.currencies if name not in CURRENCIES)]
        return msgspec.json.encode([_currency_entry(name) for name in names])

    def time(self, _: Params) -> bytes:
        return b"%d" % self.now_ms

    def status(self, _: Params) -> bytes:
        return b'{"locked":"false","locked_indices":[]}'

    def test(self, params: Params) -> bytes:
        if params.choice("expected_result", ("exception", ""), "") == "exception":
            raise ApiError(11050, "bad_request")
        return b'{"version":"1.2.26"}'


METHODS: dict[str, Callable[[Answers, Params], bytes]] = {
    "get_last_trades_by_currency": Answers.by_currency,
    "get_last_trades_by_currency_and_time": Answers.by_currency_and_time,
    "get_last_trades_by_instrument": Answers.by_instrument,
    "get_last_trades_by_instrument_and_time": Answers.by_instrument_and_time,
    "get_instruments": Answers.instruments,
    "get_instrument": Answers.instrument,
    "get_tradingview_chart_data": Answers.chart,
    "get_currencies": Answers.currencies,
    "get_time": Answers.time,
    "status": Answers.status,
    "test": Answers.test,
}


def _rendered(page: list[bytes], more: bool) -> bytes:
    """One join and no further copy: a page has megabytes."""
    tail = b'],"has_more":true}' if more else b'],"has_more":false}'
    if not page:
        return b'{"trades":[' + tail
    page[0] = b'{"trades":[' + page[0]
    page[-1] += tail
    return b",".join(page)


def _currency_entry(name: str) -> Record:
    return {
        "currency": name,
        "currency_long": CURRENCIES.get(name, name),
        "coin_type": name,
        "decimals": 6 if name in ("ETH", "USDC", "USDT") else 8,
        "min_confirmations": 1,
        "min_withdrawal_fee": 0.0001,
        "withdrawal_fee": 0.0001,
        "network_fee": 0.0006,
        "network_currency": name,
        "withdrawal_priorities": [],
    }
