"""All trades of one slice of time, from one host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from extract.deribit.client import DeribitClient, Host
from extract.deribit.names import contradicts
from extract.deribit.paging import ById, ByTime, OutsideRangeError, PageFacts, SlicePager
from extract.deribit.record import Rejected, Trade, TradePage
from extract.deribit.slices import Slice
from extract.deribit.state import Stream
from extract.errors import ProofError

MOST_PAGES = 3
"""Pages after which a slice ends early and leaves its rest: it turned out denser than its neighbours."""
LIVE_KEEPS_MS = 24 * 3_600_000
"""The live host answers an older start with an empty page."""


@dataclass
class SliceResult:
    """The trades of one slice, each key once, and how far the slice got."""

    trades: list[Trade]
    end_ms: int
    rejected: list[Rejected]


def sweep_slice(client: DeribitClient, host: Host, stream: Stream, part: Slice) -> SliceResult:
    """All trades of `stream` in the slice; one that is too dense ends early, a probe where its first page does.

    Raises ProofError where the answers contradict the questions.
    """
    pager = SlicePager(part.start_ms, part.end_ms)
    most_pages = 1 if part.is_probe else MOST_PAGES
    parts: list[Sequence[Trade]] = []
    rejected: dict[str, Rejected] = {}
    end_ms, pages = part.end_ms, 0
    while (asked := pager.request) is not None:
        page = _ask(client, host, stream, asked)
        _refuse_live_hole(client, host, page, part.start_ms)
        parts.append(page.trades)
        rejected.update((bad.raw, bad) for bad in page.rejected)
        pager.feed(page_facts(page, asked))
        pages += 1
        if pager.request and pages >= most_pages and pager.done_ms >= part.start_ms:
            end_ms = pager.done_ms
            break
    trades = each_once(parts)
    _refuse_other_currency(stream, trades)
    return SliceResult(
        [t for t in trades if part.start_ms <= t.timestamp <= end_ms],
        end_ms,
        [
            bad
            for bad in rejected.values()
            if bad.timestamp is None or part.start_ms <= bad.timestamp <= end_ms
        ],
    )


def each_once(pages: Sequence[Sequence[Trade]]) -> Sequence[Trade]:
    """The trades of overlapping pages, each key once, in its latest version."""
    if len(pages) == 1 and len({t.trade_id for t in pages[0]}) == len(pages[0]):
        return pages[0]
    latest = {(t.instrument_name, t.trade_seq): t for page in pages for t in page}
    return list(latest.values())


def page_facts(page: TradePage, asked: ByTime | ById) -> PageFacts:
    """What the pager needs to know; a page's last trade is the last by time or id, not by place."""
    times = [t.timestamp for t in page.trades]
    times += [bad.timestamp for bad in page.rejected if bad.timestamp is not None]
    outside = False
    if isinstance(asked, ByTime) and times:
        outside = min(times) < asked.start_ms or max(times) > asked.end_ms
    return PageFacts(
        page.rows,
        page.has_more,
        page.count,
        last_ms=max(times, default=None),
        outside=outside,
        trade_ids=(t.trade_id for t in page.trades),
    )


def _ask(client: DeribitClient, host: Host, stream: Stream, asked: ByTime | ById) -> TradePage:
    common = {"currency": stream.currency, "kind": stream.kind, "sorting": "asc"}
    if isinstance(asked, ById):
        return client.trades(host, "get_last_trades_by_currency", {**common, "start_id": asked.start_id})
    return client.trades(
        host,
        "get_last_trades_by_currency_and_time",
        {**common, "start_timestamp": asked.start_ms, "end_timestamp": asked.end_ms},
    )


def _refuse_live_hole(client: DeribitClient, host: Host, page: TradePage, start_ms: int) -> None:
    """By the exchange's own clock: ours may have slept between question and answer."""
    if host is client.live and page.at_ms is not None and start_ms < page.at_ms - LIVE_KEEPS_MS:
        raise ProofError(
            f"The live host keeps 24 hours of trades and was asked for {start_ms} ms at {page.at_ms} ms; "
            "run again: older trades come from the history host."
        )


def _refuse_other_currency(stream: Stream, trades: Sequence[Trade]) -> None:
    for name in {t.instrument_name for t in trades}:
        if contradicts(name, stream.currency):
            raise OutsideRangeError(
                f"Asked for trades of {stream.currency}, the exchange answers with one of {name}."
            )
