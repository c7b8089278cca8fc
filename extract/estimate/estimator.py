"""Estimate trades and requests of a backfill from sample pages. Pure: no I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from extract.deribit.instrument_names import has_expired
from extract.deribit.streams import Stream

PAGE_FILL_RATIO = 0.85
"""Filled share of a page: 0.88 on recorded options, which trade unevenly, and 0.95 with even trading."""
REQUESTS_PER_ABSENT_HEAD = 6
"""A range is absent after three empty answers from each host."""
DISK_BYTES_PER_TRADE = 30.0
"""Default while no trades are loaded; 28 were measured on 73,548 recorded options, freshly loaded."""
MIN_OVERLAP = 0.4
"""Smallest share of trades with an instrument on a later page for which trade_seq gives an estimate."""
_NEVER = datetime(9000, 1, 1, tzinfo=UTC)


class SampledTrade(NamedTuple):
    """A trade of a sample page. `number` is that of its id, which counts a currency's trades of all kinds."""

    at_ms: int
    instrument_name: str
    trade_seq: int
    number: int = 0


Page = Sequence[SampledTrade]
"""Trades in the order of time, complete from the first to the last."""


@dataclass(frozen=True)
class StreamPlan:
    """Estimate for one currency and kind. `bytes` over the wire; `how`: source of the number of trades."""

    stream: Stream
    trades: int
    requests: int
    bytes: int
    how: str


@dataclass(frozen=True)
class Plan:
    """Estimate for a run; `inputs` has a sentence for each figure that it is based on.

    `partially_run`: an interrupted run has already loaded a part of it.
    """

    streams: list[StreamPlan]
    trades: int
    requests: int
    seconds: float
    wire_bytes: int
    disk_bytes: int
    planned_at: str
    inputs: list[str] = field(default_factory=list)
    partially_run: bool = False


class Count(NamedTuple):
    """Number of trades; `is_rough` where it is extrapolated from the density of the sample pages."""

    trades: int
    is_rough: bool = False


def estimate_trades(pages: Sequence[Page], *, from_the_beginning: bool) -> Count:
    """Estimate the number of trades from the start of the first page to the end of the last.

    Two trade_seq of an instrument give the number of its trades in between. Trades of instruments that are on no
    later page are added in proportion, by their share right before and after each gap. Where few instruments trade
    on two pages, the density of the pages is extrapolated instead.
    """
    pages = [page for page in pages if page]
    seen = {trade for page in pages for trade in page}
    gaps = [
        (page, after, later)
        for page, after, later in zip(pages, pages[1:], _later_names(pages), strict=False)
        if after[0] not in set(page)
    ]
    between = _count_by_seq(pages, from_the_beginning) - len(seen)
    if not gaps or between <= 0:
        return Count(len(seen))
    shares = [_overlap_shares(*gap) for gap in gaps]
    if sum(before for before, _ in shares) < MIN_OVERLAP * len(shares):
        return Count(len(seen) + round(sum(_by_density(page, after) for page, after, _ in gaps)), True)
    return Count(len(seen) + round(between * 2 * len(shares) / sum(map(sum, shares))))


def _by_density(page: Page, after: Page) -> float:
    """Trades between two pages at the mean density of both, by the number in trade_id, else by time."""
    before = page[-len(after) :]
    has_numbers = all(trade.number for trade in (*before, *after))
    ends = [[trade.number if has_numbers else trade.at_ms for trade in part] for part in (before, after)]
    density = sum(len(part) / max(1, max(part) - min(part)) for part in ends) / 2
    return max(0, min(ends[1]) - max(ends[0])) * density


def _later_names(pages: Sequence[Page]) -> list[set[str]]:
    """For each page except the last, the instruments of all pages after the next one."""
    names: list[set[str]] = [set()]
    for page in reversed(pages[2:]):
        names.append(names[-1] | {trade.instrument_name for trade in page})
    return names[::-1]


def _count_by_seq(pages: Sequence[Page], from_the_beginning: bool) -> int:
    """Trades from the first page to the last sampled trade of each instrument."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for number, page in enumerate(pages):
        for _, name, seq, _ in page:
            if number == 0:
                first[name] = min(seq, first.get(name, seq))
            elif name not in first:
                # A perpetual may have traded for years before, too rarely to be on the first page.
                begins = from_the_beginning or has_expired(name, _NEVER)
                first[name] = 1 if begins else seq
            last[name] = max(seq, last.get(name, seq))
    return sum(last[name] - first[name] + 1 for name in last)


def _overlap_shares(page: Page, after: Page, later: set[str]) -> tuple[float, float]:
    """Shares of the trades right before and right after the gap whose instrument is on a later page."""
    before = page[-len(after) :]
    names = {trade.instrument_name for trade in after} | later
    half = max(1, len(after) // 2)
    late = {trade.instrument_name for trade in after[half:]} | later
    return (
        sum(trade.instrument_name in names for trade in before) / len(before),
        sum(trade.instrument_name in late for trade in after[:half]) / half,
    )


def trades_since(page: Page, at_ms: int, until_ms: int) -> int:
    """Trades from `at_ms` to `until_ms`: counted if the newest page reaches back that far, else extrapolated."""
    if not page:
        return 0
    inside = sum(trade.at_ms >= at_ms for trade in page)
    if page[0].at_ms < at_ms:
        return inside
    return round(inside * (until_ms - at_ms) / max(1, until_ms - page[0].at_ms))


def count_missing_heads(page: Page) -> int:
    """Instruments whose smallest trade_seq on the first page is above 1: a run requests the trades before it."""
    first: dict[str, int] = {}
    for _, name, seq, _ in page:
        first[name] = min(seq, first.get(name, seq))
    return sum(seq > 1 for seq in first.values())


def pages_for(trades: int, page_size: int) -> int:
    """Requests for so many trades of one span: one probe of the density, then pages."""
    return 1 + math.ceil(max(0, trades - page_size) / (page_size * PAGE_FILL_RATIO))
