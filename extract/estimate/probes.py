"""Probes of one stream: a few small pages spread over the time that is wanted, and what the run will take of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from extract.deribit.client import LIVE_PAGE_SIZE, DeribitClient
from extract.deribit.decode import decode_page
from extract.deribit.schema import TradePage, times_ms
from extract.deribit.streams import EPOCH_MS, Stream
from extract.estimate.estimator import (
    REQUESTS_AN_ABSENT_HEAD,
    Page,
    SampledTrade,
    StreamPlan,
    count_missing_heads,
    estimate_trades,
    pages_for,
    trades_since,
)
from extract.sweep.state import Span
from extract.sweep.stream_window import LIVE_SPAN_MS
from extract.sweep.time_pager import UnreadablePageError, id_parts

MOST_PROBES = 12
"""Requests that a stream may cost."""
PROBE_ROWS = 1_000

OnPage = Callable[[Stream, pa.Table], None]

_BY_TIME = "get_last_trades_by_currency_and_time"


@dataclass
class Probed:
    """What the probes of a stream came to, beside its plan."""

    plan: StreamPlan
    rows: int = 0
    bytes: int = 0


@dataclass
class StreamProbes:
    """Asks about `spans` of one stream, ascending and apart: what no run has covered yet.

    `known`: trades of them that are loaded already, because the newest minute is read twice.
    `on_page` is shown the trades of each probe, in PAGE_SCHEMA.
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

    def run(self) -> Probed:
        """A page from the beginning of each span; where that is not all, its end and points between."""
        trades = requests = 0
        most = max(1, MOST_PROBES // max(1, len(self.spans)))
        is_exact, is_rough = True, False
        for span in self.spans:
            pages, is_whole = self._pages(span, most)
            is_exact &= is_whole
            from_the_beginning = span.start_ms <= EPOCH_MS
            found, rough = estimate_trades(pages, from_the_beginning=from_the_beginning)
            is_rough |= rough
            heads = count_missing_heads(pages[0]) if from_the_beginning else 0
            trades += found
            requests += self._requests(span, found, pages[-1]) + heads * REQUESTS_AN_ABSENT_HEAD
        how = "counted" if is_exact else f"{self.probes} probes{', rough' * is_rough}"
        bytes_ = round(trades * self.bytes / self.rows) if self.rows else 0
        fresh = max(0, trades - self.known)
        return Probed(StreamPlan(self.stream, fresh, requests, bytes_, how), self.rows, self.bytes)

    def _requests(self, span: Span, trades: int, newest: Page) -> int:
        """By host: history up to the newest minutes, live from there on."""
        live_from_ms = max(span.start_ms, self.now_ms - LIVE_SPAN_MS)
        if span.end_ms < live_from_ms:
            return pages_for(trades, self.client.page_size(self.client.history))
        live = min(trades, trades_since(newest, live_from_ms, span.end_ms))
        requests = pages_for(live, self.client.page_size(self.client.live))
        if span.start_ms < live_from_ms:
            requests += pages_for(trades - live, self.client.page_size(self.client.history))
        return requests

    def _pages(self, span: Span, most: int) -> tuple[list[Page], bool]:
        """Pages in the order of time, the first from the beginning of trading; whether they hold all there is."""
        history = self.client.history
        before = self.client.stats.bytes
        page = self.client.trades(history, _BY_TIME, self._params(span, "asc"))
        first = self._marks(page, span, before)
        if page.rows < page.count or most < 2 or not first:
            return [first], page.rows < page.count
        pages = [first]
        newest = self._probe(span, "desc")
        for start_ms in _between(first[-1].at_ms, newest[0].at_ms if newest else span.end_ms, most - 2):
            if start_ms > pages[-1][-1].at_ms:  # else the page before reached so far already
                pages += [page for page in [self._probe(Span(start_ms, span.end_ms), "asc")] if page]
        return [*pages, newest], False

    def _probe(self, span: Span, sorting: str) -> Page:
        client, before = self.client, self.client.stats.bytes
        count = min(PROBE_ROWS, LIVE_PAGE_SIZE, client.page_size(client.history))
        params = {**self._params(span, sorting), "count": count}
        return self._marks(client.call(client.history, _BY_TIME, params, decode_page), span, before)

    def _params(self, span: Span, sorting: str) -> dict[str, str | int]:
        return {
            "currency": self.stream.currency,
            "kind": self.stream.kind,
            "sorting": sorting,
            "start_timestamp": span.start_ms,
            "end_timestamp": span.end_ms,
        }

    def _marks(self, page: TradePage, span: Span, bytes_before: int) -> Page:
        self.probes += 1
        self.rows += page.rows
        self.bytes += self.client.stats.bytes - bytes_before
        self.on_page(self.stream, page.table)
        table = page.table
        names, seqs, ids = (
            table.column(name).to_pylist() for name in ("instrument_name", "trade_seq", "trade_id")
        )
        marks = map(SampledTrade, times_ms(table).tolist(), names, seqs, _numbers(ids))
        return sorted(mark for mark in marks if span.start_ms <= mark.at_ms <= span.end_ms)


def _between(start_ms: int, end_ms: int, count: int) -> Iterator[int]:
    """`count` points that cut the time into equal parts, each in the middle of its part."""
    for number in range(count):
        yield start_ms + round((end_ms - start_ms) * (number + 0.5) / count)


def _numbers(trade_ids: Sequence[str]) -> list[int]:
    """The number of each id; zeros where not all are counted by one counter."""
    try:
        parts = [id_parts(trade_id) for trade_id in trade_ids]
    except UnreadablePageError:
        parts = []
    if len({prefix for prefix, _ in parts}) != 1:
        return [0] * len(trade_ids)
    return [number for _, number in parts]
