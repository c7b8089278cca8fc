"""Public API methods of the sandbox: from query parameters to the JSON of the result."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from extract.sandbox import quirks
from extract.sandbox.candles import candles
from extract.sandbox.instrument_names import DAY_MS
from extract.sandbox.params import KINDS, RESOLUTIONS, SORTINGS, ApiError, Params, invalid
from extract.sandbox.series import SeriesData
from extract.sandbox.series_endpoints import METHODS as SERIES_METHODS
from extract.sandbox.series_endpoints import SeriesEndpoints
from extract.sandbox.tape import Record
from extract.sandbox.trade_index import ExchangeData, TradeIndex, has_expired
from extract.sandbox.traps import Traps

CURRENCIES = {
    "BTC": "Bitcoin",
    "ETH": "Ethereum",
    "USDC": "USD Coin",
    "USDT": "Tether USD",
    "EURR": "StablR Euro",
}


@dataclass(frozen=True, slots=True)
class Host:
    """Settings in which the live and the history host differ."""

    path: str
    page_limit: int
    keeps_ms: int | None  # age of the oldest trades that it serves; None: unlimited


LIVE = Host("/api/v2", 1000, DAY_MS)
HISTORY = Host("/history/api/v2", 10_000, None)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The methods of one host at one moment; `quirks` switches the API's unreliable behaviour on.

    The history host has none of the `series` besides trades.
    """

    data: ExchangeData
    host: Host
    now_ms: int
    quirks: bool
    series: SeriesData
    traps: Traps

    def result(self, method: str, query: Mapping[str, str]) -> bytes:
        """JSON of the result. Raises ApiError with the error that the exchange would return."""
        if method in SERIES_METHODS and self.host is LIVE:
            return SeriesEndpoints(self.series, self.now_ms, self.quirks, self.traps).result(
                method, Params(query)
            )
        endpoint = METHODS.get(method)
        if endpoint is None:
            raise ApiError(-32601, "Method not found")
        return endpoint(self, Params(query))

    # Trades

    def by_currency(self, params: Params) -> bytes:
        index = self._currency_index(params)
        low = self._id_bound(index, params, "start_id", default=0)
        high = self._id_bound(index, params, "end_id", default=len(index))
        return self._page(index, params, low, high, from_start="start_id" in params.query)

    def by_currency_and_time(self, params: Params) -> bytes:
        return self._by_time(self._currency_index(params), params)

    def by_instrument(self, params: Params) -> bytes:
        index = self._instrument_index(params)
        start, end = params.integer("start_seq"), params.integer("end_seq")
        low = 0 if start is None else bisect_left(index.seqs, start)
        high = len(index) if end is None else bisect_left(index.seqs, end + 1)
        full_size = (
            start is not None and end is not None and end - start + 1 == params.count(self.host.page_limit)
        )
        return self._page(index, params, low, high, from_start=start is not None, full_size=full_size)

    def by_instrument_and_time(self, params: Params) -> bytes:
        return self._by_time(self._instrument_index(params), params)

    def _by_time(self, index: TradeIndex, params: Params) -> bytes:
        params.required_integer("start_timestamp")
        params.required_integer("end_timestamp")
        return self._page(index, params, 0, len(index))

    def _page(
        self,
        index: TradeIndex,
        params: Params,
        low: int,
        high: int,
        *,
        from_start: bool = False,
        full_size: bool = False,
    ) -> bytes:
        """One page of `index[low:high]`: by default the earliest trades if a start is given, else the newest."""
        count = params.count(self.host.page_limit)
        sorting = params.choice("sorting", SORTINGS, "default")
        start_ms, end_ms = params.integer("start_timestamp"), params.integer("end_timestamp")
        from_start = from_start or start_ms is not None
        newest = sorting == "desc" or (sorting == "default" and not from_start)
        oldest_ms = self.now_ms - self.host.keeps_ms if self.host.keeps_ms else 0
        if start_ms is not None and start_ms < oldest_ms:
            return b'{"trades":[],"has_more":false}'
        window = max(start_ms or 0, oldest_ms), min(self.now_ms if end_ms is None else end_ms, self.now_ms)
        positions, more = index.pick(*window, low, high, count, newest)
        if self.quirks and full_size and len(positions) == count >= quirks.MIN_LEAK:
            leaked = quirks.leak(index, positions, low, high)
            positions = [each for each in leaked if oldest_ms <= index.stamps[each] <= self.now_ms]
        page = [index.bodies[position] for position in positions]
        if sorting != "asc":
            page.reverse()
        if self.quirks:
            quirks.disorder(page)
            more = quirks.has_more(more, page, repr(sorted(params.query.items())))
        return b'{"trades":[%b],"has_more":%b}' % (b",".join(page), b"true" if more else b"false")

    def _currency_index(self, params: Params) -> TradeIndex:
        currency = self._currency(params)
        return self.data.currency(currency, params.choice("kind", (*KINDS, "combo", "any"), "any"))

    def _currency(self, params: Params, *extra: str) -> str:
        currency = params.text("currency")
        if currency not in (*CURRENCIES, *self.data.currencies, *extra):
            raise invalid("currency", "invalid currency")
        return currency

    def _id_bound(self, index: TradeIndex, params: Params, name: str, default: int) -> int:
        if name not in params.query:
            return default
        bound = index.at_id(params.query[name], after=name == "end_id")
        if bound is None and len(index):
            raise invalid(name, "wrong format")
        return bound or 0

    def _instrument_index(self, params: Params) -> TradeIndex:
        return self.data.instrument(self._instrument_entry(params)["instrument_name"])

    # Instruments and candles

    def _instrument_entry(self, params: Params) -> Record:
        entry = self.data.instruments.get(params.text("instrument_name"))
        if entry is None or entry["creation_timestamp"] > self.now_ms:
            raise invalid("instrument_name", "instrument not found")
        return entry

    def _with_state(self, entry: Record) -> Record:
        gone = has_expired(entry, self.now_ms)
        return entry | {"is_active": not gone, "state": "archivized" if gone else "open"}

    def instrument(self, params: Params) -> bytes:
        return msgspec.json.encode(self._with_state(self._instrument_entry(params)))

    def instruments(self, params: Params) -> bytes:
        kind = params.choice("kind", KINDS, "")
        wanted = params.choice("expired", ("true", "false"), "false") == "true"
        entries = (self.data.instruments[name] for name in self.data.names(self._currency(params, "any")))
        return msgspec.json.encode(
            [
                self._with_state(entry)
                for entry in entries
                if kind in (entry["kind"], "")
                and has_expired(entry, self.now_ms) == wanted
                and entry["creation_timestamp"] <= self.now_ms
            ]
        )

    def chart(self, params: Params) -> bytes:
        entry = self._instrument_entry(params)
        start_ms = params.required_integer("start_timestamp")
        end_ms = min(params.required_integer("end_timestamp"), self.now_ms)
        resolution = params.text("resolution")
        if resolution not in RESOLUTIONS:
            raise invalid("resolution", "wrong format")
        index = self.data.instrument(entry["instrument_name"])
        trades = [row.record for row in index.rows if row.stamp_ms <= end_ms]
        inverse = entry["kind"] == "future" and entry["instrument_type"] == "reversed"
        step_ms = RESOLUTIONS[resolution] * 60_000
        chart = candles(trades, start_ms, end_ms, step_ms, inverse=inverse)
        self.traps.alter_bars(chart, entry["instrument_name"], resolution)
        return msgspec.json.encode(chart)

    # Exchange

    def currencies(self, _: Params) -> bytes:
        names = [*CURRENCIES, *(name for name in self.data.currencies if name not in CURRENCIES)]
        entries: list[Record] = [
            {
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
            for name in names
        ]
        return msgspec.json.encode(entries)

    def time(self, _: Params) -> bytes:
        return b"%d" % self.now_ms

    def status(self, _: Params) -> bytes:
        return b'{"locked":"false","locked_indices":[]}'

    def test(self, params: Params) -> bytes:
        if params.choice("expected_result", ("exception", ""), "") == "exception":
            raise ApiError(11050, "bad_request")
        return b'{"version":"1.2.26"}'


METHODS: dict[str, Callable[[Endpoints, Params], bytes]] = {
    "get_last_trades_by_currency": Endpoints.by_currency,
    "get_last_trades_by_currency_and_time": Endpoints.by_currency_and_time,
    "get_last_trades_by_instrument": Endpoints.by_instrument,
    "get_last_trades_by_instrument_and_time": Endpoints.by_instrument_and_time,
    "get_instruments": Endpoints.instruments,
    "get_instrument": Endpoints.instrument,
    "get_tradingview_chart_data": Endpoints.chart,
    "get_currencies": Endpoints.currencies,
    "get_time": Endpoints.time,
    "status": Endpoints.status,
    "test": Endpoints.test,
}
