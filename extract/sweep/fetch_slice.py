"""All trades of one slice of time, from one host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from extract.deribit.arrow import times_ms
from extract.deribit.client import DeribitClient, Host
from extract.deribit.instrument_names import belongs_to_other_currency
from extract.deribit.schema import RejectedTrade, TradePage
from extract.deribit.streams import Stream
from extract.errors import ProofError
from extract.sweep.slices import Slice
from extract.sweep.time_pager import ById, ByTime, OutsideRangeError, PageFacts, SlicePager

MOST_PAGES = 5
"""Pages after which a slice ends early and leaves its rest: it turned out denser than its neighbours."""
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
"""Odd and without a pattern: keys of different instruments hardly ever come to the same number."""
LIVE_KEEPS_MS = 24 * 3_600_000
"""The live host answers an older start with an empty page."""


@dataclass
class SliceResult:
    """The trades of one slice in PAGE_SCHEMA, each key once, and how far the slice got."""

    table: pa.Table
    end_ms: int
    rejected: list[RejectedTrade]


def sweep_slice(client: DeribitClient, host: Host, stream: Stream, part: Slice) -> SliceResult:
    """All trades of `stream` in the slice; one that is too dense ends early, a probe where its first page does.

    Raises ProofError where the answers contradict the questions.
    """
    pager = SlicePager(part.start_ms, part.end_ms)
    most_pages = 1 if part.is_probe else MOST_PAGES
    parts: list[pa.Table] = []
    rejected: dict[str, RejectedTrade] = {}
    end_ms, pages = part.end_ms, 0
    while (asked := pager.request) is not None:
        page = _ask(client, host, stream, asked)
        _require_live_window(client, host, page, part.start_ms)
        parts.append(page.table)
        rejected.update((bad.raw, bad) for bad in page.rejected)
        pager.feed(page_facts(page, asked))
        pages += 1
        if pager.request and pages >= most_pages and pager.done_ms >= part.start_ms:
            end_ms = pager.done_ms
            break
    table = deduplicate(parts)
    _require_currency(stream, table)
    return SliceResult(
        _between(table, part.start_ms, end_ms),
        end_ms,
        [
            bad
            for bad in rejected.values()
            if bad.timestamp is None or part.start_ms <= bad.timestamp <= end_ms
        ],
    )


def deduplicate(pages: Sequence[pa.Table]) -> pa.Table:
    """The trades of overlapping pages, each key once, in its latest version."""
    if len(pages) == 1:
        return pages[0]
    table = pa.concat_tables(pages)
    in_question = np.flatnonzero(_duplicate_candidates(table))
    if not len(in_question):
        return table
    few = table.select(["instrument_name", "trade_seq"]).take(pa.array(in_question)).to_pylist()
    latest = {tuple(key.values()): row for key, row in zip(few, in_question, strict=True)}
    keep = np.ones(table.num_rows, dtype=bool)
    keep[in_question] = False
    keep[list(latest.values())] = True
    return table.filter(pa.array(keep))


def _duplicate_candidates(table: pa.Table) -> np.ndarray:
    """Of each row whether another may have the same key: by a number made of the key, the same for few others."""
    names = table.column("instrument_name").combine_chunks().dictionary_encode()
    seqs = table.column("trade_seq").to_numpy().astype(np.uint64)
    numbers = names.indices.to_numpy().astype(np.uint64) * _SPREAD + seqs
    ordered = np.sort(numbers)
    return np.isin(numbers, ordered[1:][ordered[1:] == ordered[:-1]])


def _between(table: pa.Table, start_ms: int, end_ms: int) -> pa.Table:
    times = times_ms(table)
    inside = (start_ms <= times) & (times <= end_ms)
    return table if inside.all() else table.filter(pa.array(inside))


def page_facts(page: TradePage, asked: ByTime | ById) -> PageFacts:
    """What the pager needs to know; a page's last trade is the last by time or id, not by place."""
    times = times_ms(page.table)
    odd = [bad.timestamp for bad in page.rejected if bad.timestamp is not None]
    if odd:
        times = np.concatenate((times, odd))
    outside = False
    if isinstance(asked, ByTime) and len(times):
        outside = bool(times.min() < asked.start_ms or times.max() > asked.end_ms)
    return PageFacts(
        page.rows,
        page.has_more,
        page.count,
        last_ms=int(times.max()) if len(times) else None,
        outside=outside,
        trade_ids=(id.as_py() for id in page.table.column("trade_id")),
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


def _require_live_window(client: DeribitClient, host: Host, page: TradePage, start_ms: int) -> None:
    """By the exchange's own clock: ours may have slept between question and answer."""
    if host is client.live and page.at_ms is not None and start_ms < page.at_ms - LIVE_KEEPS_MS:
        raise ProofError(
            f"The live host keeps 24 hours of trades and was asked for {start_ms} ms at {page.at_ms} ms; "
            "run again: older trades come from the history host."
        )


def _require_currency(stream: Stream, table: pa.Table) -> None:
    for name in table.column("instrument_name").unique().to_pylist():
        if belongs_to_other_currency(name, stream.currency):
            raise OutsideRangeError(
                f"Asked for trades of {stream.currency}, the exchange answers with one of {name}."
            )
