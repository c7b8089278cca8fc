"""Estimate the requests and bytes of the series that a run loads besides trades, from one answer for each key.

The pagers of the series are pure: the estimate feeds them what the exchange is expected to answer, and counts requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig
from extract.deribit.series import delivery_prices, funding_rates, settlements, volatility_index
from extract.deribit.series.cadence import DAY_MS, HOUR_MS
from extract.deribit.series.grid import FRUITLESS_ANSWERS, GridPager
from extract.deribit.series.keys import list_keys
from extract.deribit.streams import EPOCH_MS, Stream
from extract.errors import OutsideError
from extract.source.series import resolve_series

CANDLES_A_PAGE = 1_000


class SeriesEstimate(NamedTuple):
    """Requests, and bytes over the wire."""

    requests: int = 0
    bytes: float = 0


def estimate_series(
    client: DeribitClient,
    config: DeribitConfig,
    streams: Sequence[Stream],
    resources: Mapping[str, Any],
    now_ms: int,
) -> SeriesEstimate:
    """Estimate a first load of each key that has no state in `resources`, and a request for each of the others.

    Raises UsageError for a series that does not exist.
    """
    names, currencies, resolutions = resolve_series(config, streams)
    sampler = _Sampler(client, now_ms)
    total = SeriesEstimate()
    for currency in currencies if names else ():
        for series, key, estimate in sampler.keys(currency, resolutions):
            if series in names or not series:
                part = SeriesEstimate(1) if key in resources.get(series, {}) else estimate()
                total = SeriesEstimate(total.requests + part.requests, total.bytes + part.bytes)
    return total


class _Sampler(NamedTuple):
    """Requests one answer for each key, and estimates from it. A key whose answer cannot be used counts as one request."""

    client: DeribitClient
    now_ms: int

    def keys(
        self, currency: str, resolutions: Sequence[str]
    ) -> Iterator[tuple[str, str, Callable[[], SeriesEstimate]]]:
        """(series, key, how to estimate it) of a currency; the first one, without a series, lists the keys."""
        before = self.client.stats.bytes
        try:
            keys = list_keys(self.client, currency, self.now_ms)
        except OutsideError:
            return
        listed = SeriesEstimate(2, self.client.stats.bytes - before)
        yield "", "", lambda: listed
        for name, times in keys.perpetuals.items():
            yield "funding_rates", name, lambda: self._funding(name, *times)  # noqa: B023
        for index in keys.indexes:
            yield "delivery_prices", index, lambda: self._deliveries(index)  # noqa: B023
        if not (keys.perpetuals or keys.indexes):
            return
        for type_ in settlements.TYPES:
            yield "settlements", f"{currency} {type_}", lambda: self._settlements(currency, type_)  # noqa: B023
        for resolution in resolutions:
            key = f"{currency} {resolution}"
            yield "volatility_index", key, lambda: self._candles(currency, resolution)  # noqa: B023

    def _sample(self, method: str, **params: str | int) -> tuple[Any, int]:
        """(result, bytes) of one answer; None if it cannot be used."""
        before = self.client.stats.bytes
        try:
            result = self.client.result(self.client.live, method, params)
        except OutsideError:
            result = None
        return result, self.client.stats.bytes - before

    def _funding(self, name: str, created_ms: int, expiry_ms: int | None) -> SeriesEstimate:
        first = -(-created_ms // HOUR_MS)
        last = (min(self.now_ms, expiry_ms or self.now_ms) - funding_rates.cadence.delay_ms) // HOUR_MS
        rows, size = self._sample(
            "get_funding_rate_history",
            instrument_name=name,
            start_timestamp=(last - funding_rates.WINDOW_HOURS) * HOUR_MS,
            end_timestamp=last * HOUR_MS,
        )
        times = [row["timestamp"] // HOUR_MS for row in rows or ()]
        begin = first if len(times) >= funding_rates.WINDOW_HOURS else min(times, default=last + 1)
        hours = range(begin, last + 1)
        pager, requests = funding_rates.FundingPager(first, last), 0
        while span := pager.request:
            requests += 1
            pager.feed(hour * HOUR_MS for hour in hours if span.start_ms < hour * HOUR_MS <= span.end_ms)
        sums = funding_rates.sum_spans(begin * HOUR_MS, last * HOUR_MS // DAY_MS * DAY_MS, [])
        row_bytes = size / len(rows) if rows else 0
        return SeriesEstimate(requests + len(sums), len(hours) * row_bytes)

    def _deliveries(self, index: str) -> SeriesEstimate:
        page, size = self._sample("get_delivery_prices", index_name=index, offset=0, count=10)
        total = page["records_total"] if page else 0
        pager, requests, rows = delivery_prices.DeliveryPager(), 0, 0
        while request := pager.request:
            days = range(request.offset, min(request.offset + request.count, total))
            requests, rows = requests + 1, rows + len(days)
            pager.feed(days, total)
        return SeriesEstimate(requests, rows * size / max(1, min(10, total)))

    def _settlements(self, currency: str, type_: str) -> SeriesEstimate:
        page, size = self._sample(
            "get_last_settlements_by_currency", currency=currency, type=type_, count=settlements.PAGE_ROWS
        )
        times = [row["timestamp"] for row in page["settlements"]] if page else []
        token, sampled = page["continuation"] if page else None, len(times)
        if sampled >= settlements.PAGE_ROWS and token:  # as dense as the newest page, back to the beginning
            step_ms = max(1, (max(times) - min(times)) // sampled)
            times += range(min(times) - step_ms, EPOCH_MS, -step_ms)
        pager, requests, rows, place = settlements.SettlementPager(), 0, 0, 0
        while request := pager.request:
            if isinstance(request, settlements.Latest):
                latest_ms = times[0] if request.at_ms is None and times else request.at_ms
                place = next((at for at, each in enumerate(times) if each <= (latest_ms or 0)), len(times))
            answer = times[place : place + settlements.PAGE_ROWS]
            place += len(answer)
            has_more = bool(answer) and (place < len(times) or token is not None)
            new = max(0, place - rows)
            requests, rows = requests + 1, max(rows, place)
            pager.feed(answer, new, str(requests) if has_more else None)
        return SeriesEstimate(requests, rows * size / max(1, sampled))

    def _candles(self, currency: str, resolution: str) -> SeriesEstimate:
        step_ms = volatility_index.step_ms_of(resolution)
        first, last = volatility_index.HISTORY_MS // step_ms, self.now_ms // step_ms - 1
        page, size = self._sample(
            "get_volatility_index_data",
            currency=currency,
            resolution=resolution,
            start_timestamp=(first - 1) * step_ms,
            end_timestamp=last * step_ms,
        )
        if not page or not page["data"]:
            return SeriesEstimate(FRUITLESS_ANSWERS, 2 * size)
        begin = first if page["continuation"] else page["data"][0][0] // step_ms
        requests, rows = 1, len(page["data"])
        most = volatility_index.window_steps(step_ms)
        for start in range(first, last + 1, most):
            end = min(start + most - 1, last)
            pager = GridPager([(start, end)], step_ms, most)
            while span := pager.request:
                inside = range(
                    max(begin, -(-span.start_ms // step_ms)), min(last, span.end_ms // step_ms) + 1
                )
                answer = inside[-CANDLES_A_PAGE:]
                requests, rows = requests + 1, rows + len(answer)
                has_more = len(inside) > len(answer)
                pager.feed((step * step_ms for step in answer), answer[0] * step_ms - 1 if has_more else None)
        return SeriesEstimate(requests, rows * size / len(page["data"]))
