"""Sample a few small pages of a stream, spread over the time to load, and estimate what a run would take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from extract.deribit.arrow import times_ms
from extract.deribit.client import LIVE_PAGE_SIZE, DeribitClient
from extract.deribit.decode import decode_page
from extract.deribit.schema import TradePage
from extract.deribit.streams import EPOCH_MS, Stream
from extract.estimate.estimator import (
    REQUESTS_PER_ABSENT_HEAD,
    Page,
    SampledTrade,
    StreamPlan,
    count_missing_heads,
    estimate_trades,
    pages_for,
    trades_since,
)
from extract.sweep.border import Border
from extract.sweep.state import Span
from extract.sweep.time_pager import id_parts

MAX_PROBES = 12
"""Requests per stream."""
PROBE_ROWS = 1_000

OnPage = Callable[[Stream, pa.Table], None]

_BY_TIME = "get_last_trades_by_currency_and_time"


@dataclass
class StreamProbes:
    """Samples `spans` of one stream: the time that no run has covered yet, ascending and not overlapping.

    `known`: number of their trades that are loaded already, because the newest minute is read twice.
    `on_page` receives the trades of each page, in PAGE_SCHEMA. `rows` and `bytes` of the sampled pages are counted.
    """

    client: DeribitClient
    stream: Stream
    spans: Sequence[Span]
    now_ms: int
    known: int = 0
    on_page: OnPage = lambda stream, table: None
    rows: int = field(default=0, init=False)
    bytes: int = field(default=0, init=False)
    probes: int = field(default=0, init=False)

    def run(self) -> StreamPlan:
        """Request a page at the start of each span; if it does not hold all trades, also at its end and in between."""
        trades = requests = 0
        max_pages = max(1, MAX_PROBES // max(1, len(self.spans)))
        is_counted, is_rough = True, False
        for span in self.spans:
            pages, is_whole = self._pages(span, max_pages)
            is_counted &= is_whole
            from_the_beginning = span.start_ms <= EPOCH_MS
            count = estimate_trades(pages, from_the_beginning=from_the_beginning)
            is_rough |= count.is_rough
            heads = count_missing_heads(pages[0]) if from_the_beginning else 0
            trades += count.trades
            requests += self._requests(span, count.trades, pages[-1]) + heads * REQUESTS_PER_ABSENT_HEAD
        how = "counted" if is_counted else f"{self.probes} probes{', rough' * is_rough}"
        bytes_ = round(trades * self.bytes / self.rows) if self.rows else 0
        return StreamPlan(self.stream, max(0, trades - self.known), requests, bytes_, how)

    def _requests(self, span: Span, trades: int, newest: Page) -> int:
        """Requests to the history host up to the newest minutes, and to the live host for those."""
        border = Border.expected(span.start_ms, self.now_ms)
        live_from_ms = max(span.start_ms, border.live_from_ms)
        if span.end_ms < live_from_ms:
            return pages_for(trades, self.client.page_size(self.client.history))
        live = min(trades, trades_since(newest, live_from_ms, span.end_ms))
        requests = pages_for(live, self.client.page_size(self.client.live))
        if span.start_ms < live_from_ms:
            requests += pages_for(trades - live, self.client.page_size(self.client.history))
        return requests

    def _pages(self, span: Span, max_pages: int) -> tuple[list[Page], bool]:
        """(pages in the order of time, the first from the start of trading; whether they hold every trade)."""
        history = self.client.history
        before = self.client.stats.bytes
        page = self.client.trades(history, _BY_TIME, self._params(span, "asc"))
        first = self._sampled_trades(page, span, before)
        if page.rows < page.count or max_pages < 2 or not first:
            return [first], page.rows < page.count
        pages = [first]
        newest = self._probe(span, "desc")
        for start_ms in _between(first[-1].at_ms, newest[0].at_ms if newest else span.end_ms, max_pages - 2):
            if start_ms > pages[-1][-1].at_ms:  # otherwise the previous page reached this far
                pages += [page for page in [self._probe(Span(start_ms, span.end_ms), "asc")] if page]
        return [*pages, newest], False

    def _probe(self, span: Span, sorting: str) -> Page:
        client, before = self.client, self.client.stats.bytes
        count = min(PROBE_ROWS, LIVE_PAGE_SIZE, client.page_size(client.history))
        params = {**self._params(span, sorting), "count": count}
        return self._sampled_trades(client.call(client.history, _BY_TIME, params, decode_page), span, before)

    def _params(self, span: Span, sorting: str) -> dict[str, str | int]:
        return {
            "currency": self.stream.currency,
            "kind": self.stream.kind,
            "sorting": sorting,
            "start_timestamp": span.start_ms,
            "end_timestamp": span.end_ms,
        }

    def _sampled_trades(self, page: TradePage, span: Span, bytes_before: int) -> Page:
        self.probes += 1
        self.rows += page.rows
        self.bytes += self.client.stats.bytes - bytes_before
        self.on_page(self.stream, page.table)
        table = page.table
        names, seqs, ids = (
            table.column(name).to_pylist() for name in ("instrument_name", "trade_seq", "trade_id")
        )
        trades = map(SampledTrade, times_ms(table).tolist(), names, seqs, _numbers(ids))
        return sorted(trade for trade in trades if span.start_ms <= trade.at_ms <= span.end_ms)


def _between(start_ms: int, end_ms: int, count: int) -> Iterator[int]:
    """Midpoints of `count` equal parts of the time."""
    for number in range(count):
        yield start_ms + round((end_ms - start_ms) * (number + 0.5) / count)


def _numbers(trade_ids: Sequence[str]) -> list[int]:
    """The number in each id; zeros if the ids have different prefixes or no number."""
    parts = [id_parts(trade_id) or ("", 0) for trade_id in trade_ids]
    if len({prefix for prefix, _ in parts}) != 1:
        return [0] * len(trade_ids)
    return [number for _, number in parts]
