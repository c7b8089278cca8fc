"""Fetch all trades of one slice of time from one host."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from extract.deribit.arrow import reject_rows, times_ms
from extract.deribit.client import DeribitClient, Host
from extract.deribit.instrument_names import belongs_to_other_currency
from extract.deribit.schema import RejectedTrade, TradePage
from extract.deribit.streams import ANY, SPOT, Stream
from extract.errors import ProofError
from extract.sweep.slices import Slice
from extract.sweep.time_pager import ById, ByTime, OutsideRangeError, PageFacts, SlicePager

MAX_PAGES = 5
"""Pages after which a slice that is denser than expected ends early and leaves a remainder."""
MAX_TRADES_OF_A_MOMENT = 500_000
"""Trades of a slice that cannot end early because they have nearly the same time: memory holds all of them."""
HASH_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""Odd multiplier without a pattern, so that keys of different instruments rarely give the same number."""
MAX_STRAYS = 2
"""Trades of another time or currency in a page without any requested trade that do not make it a contradiction."""
MIN_CUT_ROWS = 10
"""Pages with fewer rows are not suspected to be cut without `has_more`."""
ROUND_ROWS = 100
"""Limits of a host are multiples of this number."""
QUIET_GAPS = 10
"""Mean time between the trades of a page, as a multiple, after which the end of its range is suspiciously quiet."""
LIVE_HISTORY_MS = 24 * 3_600_000
"""The live host has this much history; it answers a request for earlier trades with an empty page."""


@dataclass
class SliceResult:
    """Trades of one slice in PAGE_SCHEMA, each key once, complete up to `end_ms`.

    `at_ms`: the exchange's time of the earliest answer, if it was sent. `last_ms`: time of the latest trade that was sent.
    `left`: trades of spot pairs that are left to the base currency.
    """

    table: pa.Table
    end_ms: int
    rejected: list[RejectedTrade]
    at_ms: int | None = None
    last_ms: int = 0
    left: pa.Table | None = None


def sweep_slice(
    client: DeribitClient,
    host: Host,
    stream: Stream,
    part: Slice,
    kind_of: Mapping[str, str] = MappingProxyType({}),
) -> SliceResult:
    """Fetch all trades of `stream` in the slice. A slice that is too dense ends early, a probe after its first full page.

    A few trades that were not requested are rejected. Spot pairs that are listed under both of their currencies are left to
    the base currency, so that their trades are loaded once, unless that is known not to be sent them. Raises ProofError if
    the answers contradict the requests. `kind_of`: kinds of the live instruments, by name.
    """
    pager = SlicePager(part.start_ms, part.end_ms)
    tables: list[pa.Table] = []
    rejected: dict[str, RejectedTrade] = {}
    answered_ms: list[int] = []
    end_ms, pages = part.end_ms, 0
    cut_rows, before = client.cut_rows[host], None
    most_rows, last_ms = 0, 0
    while (request := pager.request) is not None:
        page = _fetch_page(client, host, stream, request)
        _require_live_window(client, host, page, part.start_ms)
        answered_ms += [page.at_ms] if page.at_ms is not None else []
        facts = page_facts(page, request, stream, cut_rows, most_rows, kind_of)
        if before and before.has_more and not before.is_full and (facts.last_ms or 0) > last_ms:
            cut_rows.add(before.rows)
        most_rows, last_ms = max(most_rows, facts.rows), max(last_ms, facts.last_ms or 0)
        before = facts
        tables.append(page.table)
        rejected.update((bad.raw, bad) for bad in page.rejected)
        pager.feed(facts)
        pages += 1
        max_pages = MAX_PAGES
        if part.is_probe:
            max_pages = 1 if facts.is_full else 2  # a second page shows whether the first was cut
        if pager.request and pages >= max_pages and pager.done_ms >= part.start_ms:
            end_ms = pager.done_ms
            break
        if pages > max_pages and sum(each.num_rows for each in tables) > MAX_TRADES_OF_A_MOMENT:
            raise OutsideRangeError(
                f"The exchange sent more than {MAX_TRADES_OF_A_MOMENT:,} {stream} trades of one moment."
            )
    table, left = _leave_pairs(client, stream, deduplicate(tables))
    return SliceResult(
        _between(table, part.start_ms, end_ms),
        end_ms,
        [
            bad
            for bad in rejected.values()
            if bad.timestamp is None or part.start_ms <= bad.timestamp <= end_ms
        ],
        min(answered_ms, default=None),
        last_ms,
        None if left is None else _between(left, part.start_ms, end_ms),
    )


def _leave_pairs(client: DeribitClient, stream: Stream, table: pa.Table) -> tuple[pa.Table, pa.Table | None]:
    """(`table` without spot pairs of another base currency that the exchange lists under that as well, those pairs)."""
    if stream.kind not in (SPOT, ANY):
        return table, None
    names = table.column("instrument_name").unique().to_pylist()
    pairs = [(name, *name.split("_")) for name in names if "-" not in name and name.count("_") == 1]
    others = [
        name
        for name, base, quote in pairs
        if quote == stream.currency != base
        and client.pairs_of_base.get(name, True)
        and client.lists_pair(base, name)
    ]
    if not others:
        return table, None
    is_other = pa.compute.is_in(table.column("instrument_name"), pa.array(others))
    return table.filter(pa.compute.invert(is_other)), table.filter(is_other)


def deduplicate(pages: Sequence[pa.Table], hash_multiplier: np.uint64 = HASH_MULTIPLIER) -> pa.Table:
    """Merge the trades of overlapping pages: each once, in its latest version; another trade id makes another trade."""
    if len(pages) == 1:
        return pages[0]
    table = pa.concat_tables(pages)
    candidates = np.flatnonzero(_duplicate_candidates(table, hash_multiplier))
    if not len(candidates):
        return table
    keys = table.select(["instrument_name", "trade_seq", "trade_id"]).take(pa.array(candidates)).to_pylist()
    latest = {tuple(key.values()): row for key, row in zip(keys, candidates, strict=True)}
    keep = np.ones(table.num_rows, dtype=bool)
    keep[candidates] = False
    keep[list(latest.values())] = True
    return table.filter(pa.array(keep))


def _duplicate_candidates(table: pa.Table, multiplier: np.uint64) -> npt.NDArray[np.bool_]:
    """For each row, whether another row may have the same key: their hashes are equal."""
    names = table.column("instrument_name").combine_chunks().dictionary_encode()
    seqs = table.column("trade_seq").to_numpy().astype(np.uint64)
    hashes = names.indices.to_numpy().astype(np.uint64) * multiplier + seqs
    ordered = np.sort(hashes)
    return np.isin(hashes, ordered[1:][ordered[1:] == ordered[:-1]])


def _between(table: pa.Table, start_ms: int, end_ms: int) -> pa.Table:
    times = times_ms(table)
    inside = (start_ms <= times) & (times <= end_ms)
    return table if inside.all() else table.filter(pa.array(inside))


def page_facts(
    page: TradePage,
    request: ByTime | ById,
    stream: Stream,
    cut_rows: Container[int] = (),
    most_rows: int = 0,
    kind_of: Mapping[str, str] = MappingProxyType({}),
) -> PageFacts:
    """Facts of a page for the pager. Its last trade is the latest by time or id, not the last in the answer.

    Moves trades that were not requested to `page.rejected`, unless they may have displaced others: the page is full, or
    has no requested trade but several others. `cut_rows`: numbers of rows of earlier pages that were cut; `most_rows`: most
    rows of an earlier page, below which no page is suspected. Raises OutsideRangeError if all of several trades are of
    another currency, or several of an instrument that is listed with another kind.
    """
    times = times_ms(page.table)
    names = page.table.column("instrument_name").combine_chunks().dictionary_encode()
    is_other_kind = _where(names, lambda name: stream.kind not in (ANY, kind_of.get(name, stream.kind)))
    if is_other_kind.sum() > MAX_STRAYS:
        name = page.table.column("instrument_name")[int(is_other_kind.argmax())].as_py()
        raise OutsideRangeError(
            f"Trades of {stream} were requested, and the exchange sent those of {name}, which it lists as {kind_of[name]}."
        )
    is_foreign = is_other_kind | _where(names, lambda name: belongs_to_other_currency(name, stream.currency))
    if len(times) > MAX_STRAYS and is_foreign.all():
        name = page.table.column("instrument_name")[0].as_py()
        raise OutsideRangeError(
            f"Trades of {stream.currency} were requested, and the exchange sent one of {name}."
        )
    is_stray = is_foreign
    if isinstance(request, ByTime):
        is_stray = is_foreign | (times < request.start_ms) | (times > request.end_ms)
        page.rejected = [_without_stray_time(bad, request) for bad in page.rejected]
    rejected_ms = [bad.timestamp for bad in page.rejected if bad.timestamp is not None]
    outside = False
    if strays := int(is_stray.sum()):
        may_displace = page.rows >= page.count or (strays == len(times) and strays > MAX_STRAYS)
        outside = may_displace and isinstance(request, ByTime)
        page.table, rejected = reject_rows(page.table, is_stray, "a trade that was not requested")
        if not outside:  # otherwise a smaller request gets it again
            page.rejected += rejected
        times = times[~is_stray]
    if rejected_ms:
        times = np.concatenate((times, rejected_ms))
    return PageFacts(
        page.rows,
        page.has_more
        or page.rows in cut_rows
        or (page.rows >= max(most_rows, MIN_CUT_ROWS) and _may_be_cut(page.rows, times, request)),
        page.count,
        last_ms=int(times.max()) if len(times) else None,
        outside=outside,
        trade_ids=(id.as_py() for id in page.table.column("trade_id")),
    )


def _may_be_cut(rows: int, times: npt.NDArray[np.int64], request: ByTime | ById) -> bool:
    """Whether a page without `has_more` may lack later trades: its rows are a round number, or its end is too quiet."""
    if isinstance(request, ById) or not len(times):
        return False
    first_ms, last_ms = int(times.min()), int(times.max())
    return rows % ROUND_ROWS == 0 or request.end_ms - last_ms > QUIET_GAPS * (last_ms - first_ms) / rows


def _without_stray_time(bad: RejectedTrade, request: ByTime) -> RejectedTrade:
    """`bad` without its time and key if that time was not requested, so that it is stored and proves nothing."""
    is_stray = bad.timestamp is not None and not request.start_ms <= bad.timestamp <= request.end_ms
    return RejectedTrade(bad.reason, bad.raw) if is_stray else bad


def _where(names: pa.DictionaryArray, is_chosen: Callable[[str], bool]) -> npt.NDArray[np.bool_]:
    """For each of `names`, whether it is chosen."""
    of_name = [is_chosen(name) for name in names.dictionary.to_pylist()]
    if not any(of_name):
        return np.zeros(len(names), dtype=np.bool_)
    chosen: npt.NDArray[np.bool_] = np.array(of_name, dtype=np.bool_)[names.indices.to_numpy()]
    return chosen


def _fetch_page(client: DeribitClient, host: Host, stream: Stream, request: ByTime | ById) -> TradePage:
    common = {"currency": stream.currency, "kind": stream.kind, "sorting": "asc"}
    if isinstance(request, ById):
        return client.trades(host, "get_last_trades_by_currency", {**common, "start_id": request.start_id})
    return client.trades(
        host,
        "get_last_trades_by_currency_and_time",
        {**common, "start_timestamp": request.start_ms, "end_timestamp": request.end_ms},
    )


def _require_live_window(client: DeribitClient, host: Host, page: TradePage, start_ms: int) -> None:
    """Compare with the exchange's clock: this computer may have been suspended since the request."""
    if host is not client.live or page.at_ms is None or start_ms >= page.at_ms - LIVE_HISTORY_MS:
        return
    if start_ms < client.now_ms() - LIVE_HISTORY_MS:
        raise ProofError(
            f"The live host has 24 hours of trades, and trades since {start_ms} ms were requested at {page.at_ms} ms; "
            "run again: older trades come from the history host."
        )
